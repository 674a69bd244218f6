"""Chats to prompts, by the Jinja templates that come with models."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Mapping
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError

from flaxmodels.errors import FlaxModelsError
from flaxmodels.tokenizer.budget import BUDGET, Budget
from flaxmodels.tokenizer.plain import plain
from flaxmodels.tokenizer.sandbox import WRITTEN, Sandbox, Written

MAX_TEMPLATE_CHARS = 100_000
"""Several times the longest of a well-known model; compiling as many takes seconds."""


def render(template: str, names: Mapping[str, Any]) -> str:
    """What a chat template makes of values by name.

    Raises:
        FlaxModelsError: it is no template, it fails, or it costs more than its `Budget`.
    """
    return render_with_spans(template, names)[0]


def render_with_spans(template: str, names: Mapping[str, Any]) -> tuple[str, list[tuple[int, int]] | None]:
    """What a chat template makes of values by name, and the characters in it that the assistant wrote.

    Spans are from the first character up to the one after the last, and exist where the template has
    `{% generation %}` blocks. They are None if the template writes a block elsewhere than where it is, as in a macro.

    Raises:
        FlaxModelsError: as `render`.
    """
    written = Written()
    try:
        budget, before = BUDGET.set(Budget(names)), WRITTEN.set(written)
        try:
            for piece in _compiled(template).generate(plain(names)):
                written.add(piece)
        finally:
            BUDGET.reset(budget)
            WRITTEN.reset(before)
    except Exception as error:  # a template can fail in every way that Python can
        reason = (str(error) or type(error).__name__)[:1000]
        raise FlaxModelsError(f"the chat template does not accept these messages: {reason}{_place(error)}") from error
    text = "".join(written.pieces)
    spans = [(start, end) for start, end, block in written.spans if text[start:end] == block]
    return text, spans if len(spans) == len(written.spans) else None


@functools.lru_cache(16)
def _compiled(template: str) -> Template:
    if len(template) > MAX_TEMPLATE_CHARS:
        raise TemplateError(f"it has {len(template):,} characters, more than {MAX_TEMPLATE_CHARS:,}")
    return _sandbox().from_string(template)


@functools.cache
def _sandbox() -> Sandbox:
    return Sandbox()


def _place(error: Exception) -> str:
    """Where in the template an error was raised, if Jinja knows."""
    if isinstance(error, TemplateSyntaxError):
        return f" (line {error.lineno} of the template)"
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if "__jinja_exception__" in frame.f_globals]
    return f" (line {lines[-1]} of the template)" if lines else ""

"""Chats to prompts, by the Jinja templates that come with models."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Mapping
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError

from flaxmodels.errors import FlaxModelsError
from flaxmodels.tokenizer.budget import BUDGET, Budget
from flaxmodels.tokenizer.sandbox import Sandbox

MAX_TEMPLATE_CHARS = 100_000
"""Several times the longest of a well-known model; compiling as many takes seconds."""


def render(template: str, names: Mapping[str, Any]) -> str:
    """What a chat template makes of values by name.

    Raises:
        FlaxModelsError: it is no template, it fails, or it costs more than its `Budget`.
    """
    try:
        before = BUDGET.set(Budget(names))
        try:
            return _compiled(template).render(names)
        finally:
            BUDGET.reset(before)
    except Exception as error:  # a template can fail in every way that Python can
        reason = (str(error) or type(error).__name__)[:1000]
        raise FlaxModelsError(f"the chat template does not accept these messages: {reason}{_place(error)}") from error


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

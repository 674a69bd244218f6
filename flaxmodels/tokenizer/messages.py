"""The messages of one chat, as templates expect them, and a last one that a model goes on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flaxmodels.errors import FlaxModelsError
from flaxmodels.tokenizer.chat import render_with_spans
from flaxmodels.tokenizer.plain import plain
from flaxmodels.tokenizer.tools import tool_schema

_END = "CONTINUE_FINAL_MESSAGE_TAG "
"""Marks the end of the last message, so that what a template writes after it can be cut off."""
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""What a message's reasoning is called, the name that templates read first."""


def render_chat(
    template: str, chat: Sequence[Mapping[str, Any]], names: Mapping[str, Any], continued: bool | str
) -> tuple[str, list[tuple[int, int]] | None]:
    """The text of a chat, and the characters in it that the assistant wrote, or None if those are not known.

    Args:
        template: what makes it.
        chat: messages.
        names: further names of the template, "tools" and "documents" among them.
        continued: whether the text ends within the last message; a name says which of its fields that is.

    Raises:
        FlaxModelsError: something is no message, tool or document, the template fails, or it does not write the
            message that is to be continued.
    """
    tools, documents = names.get("tools"), names.get("documents")
    for index, document in enumerate(documents or ()):
        if not isinstance(document, Mapping):
            raise FlaxModelsError(f"documents[{index}]: expected a dict, got {type(document).__name__}.")
    tools = None if tools is None else [tool_schema(tool, index) for index, tool in enumerate(tools)]
    messages = [_message(message, index) for index, message in enumerate(chat)]
    field = "content" if continued is True else continued
    final = _mark_end(messages, field, template) if field else None
    text, spans = render_with_spans(template, {**names, "tools": tools, "messages": messages})
    return (text if final is None else _up_to_end(text, final)), spans


def _message(message: Any, index: int) -> dict[str, Any]:
    """A message without what is None, for which many templates write "None", and with its reasoning by both names."""
    message = plain(message) if hasattr(message, "model_dump") or not isinstance(message, Mapping) else message
    if not isinstance(message, Mapping):
        raise FlaxModelsError(f"conversation[{index}]: expected a dict, got {type(message).__name__}.")
    stated = {name: value for name, value in message.items() if value is not None}
    reasoning = next((stated[name] for name in _REASONING if name in stated), None)
    return stated if reasoning is None else {"thinking": reasoning, **stated, "reasoning_content": reasoning}


def _mark_end(messages: list[dict[str, Any]], field: str, template: str) -> str:
    """Marks the end of the field of the last message, and returns what is in the field."""
    last = messages[-1] = dict(messages[-1])
    value = last.get(field)
    names = [name for name in _REASONING if last.get(name) == value] if field in _REASONING else [field]
    if value is None or not any(name in template for name in names):
        place = "the last message" if value is None else "the chat template"
        raise FlaxModelsError(f"continue_final_message: expected {field!r} in {place}, which has none.")
    if isinstance(value, str):
        last |= dict.fromkeys(names, value + _END)
        return value
    parts = [dict(part) if isinstance(part, Mapping) else part for part in value]
    final = next((part for part in reversed(parts) if isinstance(part, dict) and "text" in part), None)
    if final is None:
        raise FlaxModelsError("continue_final_message: expected a text in the last message, which has none.")
    value, final["text"] = final["text"], final["text"] + _END
    last[field] = parts
    return value


def _up_to_end(text: str, final: str) -> str:
    """The text up to the end that was marked."""
    mark = _END.strip()
    if mark not in text or final.strip() not in text:
        raise FlaxModelsError("continue_final_message: the chat template does not write the last message as it is.")
    at = text.rindex(mark)
    is_whole = text[at : at + len(_END)] == _END
    return text[:at] if is_whole else text[:at].rstrip()

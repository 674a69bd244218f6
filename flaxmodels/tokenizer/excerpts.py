"""Values in files that may be anything."""

from __future__ import annotations

from typing import Any


def is_text(value: Any) -> bool:
    """Whether a value is a text that can be encoded: JSON and GGUF may have halves of surrogate pairs."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def excerpt(value: Any) -> str:
    """A value in an error message: the beginning of it, if it is long."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."

"""What a tokenizer is made of, wherever it is read from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxmodels.errors import CheckpointError
from flaxmodels.tokenizer.library import named_errors

if TYPE_CHECKING:
    import tokenizers

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Parts = tuple["tokenizers.Tokenizer", dict[str, str], str | None]
"""Backend, special tokens by name, chat template."""


def build(path: Path, make: Callable[[], tokenizers.Tokenizer]) -> tokenizers.Tokenizer:
    """A backend that encodes and decodes.

    Raises:
        CheckpointError: for whatever the library finds wrong.
    """
    with named_errors(f"{path} makes no tokenizer", CheckpointError, "Fetch or convert it again."):
        backend = make()
        backend.no_padding()  # which may be to any length
        backend.no_truncation()
        backend.encode("")  # a template of unknown tokens fails only now
        return backend


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

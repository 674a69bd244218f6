"""What a tokenizer is made of, wherever it is read from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flaxmodels.errors import CheckpointError
from flaxmodels.tokenizer.json_limits import check
from flaxmodels.tokenizer.library import named_errors

if TYPE_CHECKING:
    import tokenizers


class Parts(NamedTuple):
    """The arguments of a `Tokenizer`.

    Attributes:
        backend: what encodes and decodes.
        special_tokens: texts by role.
        chat_template: a template, several by name, or None.
        settings: what `tokenizer_config.json` says beside them.
    """

    backend: tokenizers.Tokenizer
    special_tokens: dict[str, str]
    chat_template: str | dict[str, str] | None
    settings: dict[str, Any]


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


def check_backend(path: Path, backend: tokenizers.Tokenizer) -> None:
    """Refuse a backend, made from other files than a `tokenizer.json`, that breaks the limits of one.

    Raises:
        CheckpointError: names every limit.
    """
    steps: dict[str, Any] = {
        "normalizer": backend.normalizer,
        "pre_tokenizer": backend.pre_tokenizer,
        "post_processor": backend.post_processor,
        "decoder": backend.decoder,
    }
    document = {name: json.loads(step.__getstate__()) for name, step in steps.items() if step is not None}
    added = [{"content": token.content} for token in backend.get_added_tokens_decoder().values()]
    check(path, document | {"added_tokens": added})

"""Calls of the library `tokenizers`, whose errors get names.

A panic of its Rust code is a `BaseException`, and is on standard error before Python hears of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flaxmodels.errors import FlaxModelsError

if TYPE_CHECKING:
    import tokenizers


def require(library: str) -> None:
    """Import a library.

    Raises:
        FlaxModelsError: it cannot be imported; with the remedy.
    """
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise FlaxModelsError(
            f"the library {library!r} is needed here and cannot be imported: {error}. "
            'Install it with: pip install "flaxmodels-jax[demo]"'
        ) from error


@contextmanager
def named_errors(what: str, kind: type[FlaxModelsError] = FlaxModelsError, remedy: str = "") -> Iterator[None]:
    """Raise whatever the library raises as an error of ours.

    Raises:
        FlaxModelsError: or `kind`, with what failed, the reason and the remedy.
    """
    try:
        yield
    except FlaxModelsError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason, *_ = str(error).splitlines() or [type(error).__name__]
        raise kind(f"{what}: {reason}. {remedy}".rstrip()) from error


def decode(backend: tokenizers.Tokenizer, ids: Sequence[int], skip_special_tokens: bool) -> str:
    """The text of token ids.

    Raises:
        FlaxModelsError: the library fails.
    """
    with named_errors("the tokenizer cannot decode these ids"):
        return backend.decode(ids, skip_special_tokens=skip_special_tokens)

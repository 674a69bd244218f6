"""What a tokenizer is called with: one text or a batch, alone or in pairs, whole or split into words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from flaxmodels.errors import FlaxModelsError


@dataclass(frozen=True)
class Inputs:
    """Rows as the backend takes them.

    Attributes:
        rows: a text, or two, of each row; a text is a str, or a list of words.
        is_batched: whether there may be several rows, so that results are lists of rows.
        is_split: whether texts are lists of words.
        is_paired: whether a row has two texts.
        chars: characters of all texts.
    """

    rows: list[Any]
    is_batched: bool
    is_split: bool
    is_paired: bool
    chars: int


def read_inputs(text: Any, text_pair: Any = None, is_split_into_words: bool = False, name: str = "text") -> Inputs:
    """The rows that arguments mean.

    Raises:
        FlaxModelsError: something is no text, or texts and their pairs are not as many.
    """
    if not isinstance(text, (str, Iterable)):
        raise FlaxModelsError(f"{name}: expected a str or several, got {type(text).__name__}.")
    if not isinstance(text, str):
        text = list(text)
    rows, is_batched = _rows(text, text_pair, is_split_into_words, name)
    rows = [_row(row, is_split_into_words, name, index) for index, row in enumerate(rows)]
    chars = sum(len(leaf) for row in rows for leaf in _leaves(row))
    is_paired = any(isinstance(row, tuple) for row in rows)
    return Inputs(rows, is_batched, is_split_into_words, is_paired, chars)


def _rows(text: Any, pair: Any, is_split: bool, name: str) -> tuple[list[Any], bool]:
    if is_split and isinstance(text, str):
        raise FlaxModelsError(f"{name}: expected a list of words with is_split_into_words=True, got one str.")
    is_batched = bool(text) and isinstance(text[0], (list, tuple)) if is_split else not isinstance(text, str)
    if not is_batched:
        # As in transformers, an empty second text alone is none; in a batch it is one.
        return [(text, pair) if pair is not None and len(pair) else text], False
    if pair is None:
        return text, True
    pairs = [pair] if isinstance(pair, str) else list(pair)
    if isinstance(pair, str) or len(pairs) != len(text):
        raise FlaxModelsError(f"{name}_pair: expected one for each of {len(text)} texts, got {len(pairs)}.")
    return list(zip(text, pairs, strict=True)), True


def _row(row: Any, is_split: bool, name: str, index: int) -> Any:
    """A text, or two of them as a tuple."""
    is_pair = isinstance(row, (list, tuple)) and len(row) == 2
    if is_split:
        is_pair = is_pair and all(isinstance(words, (list, tuple)) for words in row)
    texts = [_checked(text, is_split, name, index) for text in (row if is_pair else [row])]
    return tuple(texts) if is_pair else texts[0]


def _checked(text: Any, is_split: bool, name: str, index: int) -> Any:
    if is_split and not isinstance(text, (list, tuple)):
        raise FlaxModelsError(f"{name}: expected lists of words, got {type(text).__name__} at {index}.")
    for part in text if is_split else [text]:
        _check_text(part, name, index)
    return list(text) if is_split else text


def _check_text(text: Any, name: str, index: int) -> None:
    if not isinstance(text, str):
        raise FlaxModelsError(f"{name}: expected a str or several, got {type(text).__name__} at {index}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FlaxModelsError(
            f"{name}: expected Unicode text, got half of a surrogate pair, {text[error.start]!r}, "
            f"at character {error.start} of text {index}."
        ) from error


def _leaves(row: Any) -> Iterator[str]:
    if isinstance(row, str):
        yield row
    else:
        for part in row:
            yield from _leaves(part)

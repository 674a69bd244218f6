"""What a tokenizer returns: arrays or lists by name, and where in the texts each token comes from."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from flaxmodels.errors import FlaxModelsError
from flaxmodels.tokenizer.tensors import to_tensor

if TYPE_CHECKING:
    import tokenizers


class CharSpan(NamedTuple):
    """Characters of a text: the first, and the one after the last."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens of a row: the first, and the one after the last."""

    start: int
    end: int


class BatchEncoding(UserDict[str, Any]):
    """A mapping of names to lists or arrays, whose items are attributes too, and which JAX takes as a tree.

    The methods need the encodings of the backend, which `Tokenizer.__call__` gives. Where a method takes a row and a
    position in it, one number alone is a position in row 0.

    Args:
        data: lists or arrays by name, such as "input_ids".
        encoding: the `tokenizers.Encoding` of each row, or of the only one.
        tensor_type: "np" or "jax" makes arrays of the lists; None leaves them.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encoding: tokenizers.Encoding | Sequence[tokenizers.Encoding] | None = None,
        tensor_type: Any = None,
    ):
        super().__init__(data)
        rows = encoding if encoding is None or isinstance(encoding, Sequence) else [encoding]
        self.encodings = None if rows is None else list(rows)
        self.convert_to_tensors(tensor_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("data", "encodings") or name not in self.data:
            raise AttributeError(f"this batch has no {name!r}")
        return self.data[name]

    def __getitem__(self, key: Any) -> Any:
        """The values of a name, or the encoding of a row."""
        return self.data[key] if isinstance(key, str) else self._rows()[key]

    @property
    def is_fast(self) -> bool:
        """Whether the encodings of the rows are there."""
        return self.encodings is not None

    @property
    def n_sequences(self) -> int | None:
        """How many texts make a row: 2 for pairs; None if that is not known."""
        return self.encodings[0].n_sequences if self.encodings else None

    def convert_to_tensors(self, tensor_type: Any = None, prepend_batch_axis: bool = False) -> BatchEncoding:
        """Makes arrays of the lists, int32 where they are of integers, and returns this batch itself.

        Raises:
            FlaxModelsError: rows have different lengths, or `tensor_type` is neither "np", "jax" nor None.
        """
        if tensor_type is not None:
            self.data |= {
                key: to_tensor(key, [value] if prepend_batch_axis else value, tensor_type)
                for key, value in self.data.items()
            }
        return self

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The texts of the tokens of a row."""
        return self._row(batch_index).tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row the word that it is of; None for special ones."""
        return self._row(batch_index).word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row whether it is of the first text, 0, or of the second, 1; None for special ones."""
        return self._row(batch_index).sequence_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The text that a token is of, 0 or 1."""
        row, token = _position(batch_or_token_index, token_index)
        return self._row(row).token_to_sequence(self._from_start(row, token))

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The word that a token is of, within its text."""
        row, token = _position(batch_or_token_index, token_index)
        return self._row(row).word_ids[self._from_start(row, token)]

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters that a token is of, within its text, or within its word if the text was split before."""
        row, token = _position(batch_or_token_index, token_index)
        found = self._row(row).token_to_chars(self._from_start(row, token))
        return None if found is None else CharSpan(*found)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word."""
        row, word = _position(batch_or_word_index, word_index)
        found = self._row(row).word_to_tokens(word, sequence_index)
        return None if found is None else TokenSpan(*found)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The characters of a word, within its text."""
        row, word = _position(batch_or_word_index, word_index)
        found = self._row(row).word_to_chars(word, sequence_index)
        return None if found is None else CharSpan(*found)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token that a character is in; None if it is in none."""
        row, char = _position(batch_or_char_index, char_index)
        return self._row(row).char_to_token(char, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The word that a character is in; None if it is in none."""
        row, char = _position(batch_or_char_index, char_index)
        return self._row(row).char_to_word(char, sequence_index)

    def _rows(self) -> list[tokenizers.Encoding]:
        if self.encodings is None:
            raise FlaxModelsError(
                "this batch does not know its texts: call the tokenizer on them to get one that does."
            )
        return self.encodings

    def _row(self, index: int) -> tokenizers.Encoding:
        return self._rows()[index]

    def _from_start(self, row: int, token: int) -> int:
        return token if token >= 0 else len(self._row(row).ids) + token


def _position(row_or_index: int, index: int | None) -> tuple[int, int]:
    return (0, row_or_index) if index is None else (row_or_index, index)


def _flatten(batch: BatchEncoding) -> tuple[tuple[tuple[Any, Any], ...], tuple[str, ...]]:
    return tuple((jax.tree_util.DictKey(key), batch.data[key]) for key in sorted(batch.data)), tuple(sorted(batch.data))


def _unflatten(names: tuple[str, ...], values: Iterable[Any]) -> BatchEncoding:
    return BatchEncoding(dict(zip(names, values, strict=True)))


jax.tree_util.register_pytree_with_keys(BatchEncoding, _flatten, _unflatten)

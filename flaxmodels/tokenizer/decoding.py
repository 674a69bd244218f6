"""Token ids to texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxmodels.tokenizer import library
from flaxmodels.tokenizer.stream import TextStream
from flaxmodels.tokenizer.vocabulary import VocabularyMixin

if TYPE_CHECKING:
    import tokenizers


_BEFORE_PUNCTUATION = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class DecodingMixin(VocabularyMixin):
    """`decode` and what is like it."""

    clean_up_tokenization_spaces: bool

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> Any:
        """The text of token ids `[q_len]`, or those of rows of them `[batch, q_len]`.

        Args:
            token_ids: lists or arrays.
            skip_special_tokens: whether special tokens have no text.
            clean_up_tokenization_spaces: whether to take away spaces before English punctuation; None stands for the
                attribute of this name. Byte pairs keep their spaces in any case.

        Raises:
            FlaxModelsError: an id is negative or too large for a tokenizer, or the library fails.
        """
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        if isinstance(ids, Sequence) and len(ids) and np.ndim(ids[0]):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        ids = [int(token) for token in (ids if isinstance(ids, Iterable) else [ids])]
        text = library.decode(self.backend, ids, skip_special_tokens)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        is_byte_pairs = type(self.backend.model).__name__ == "BPE"
        return clean_up_tokenization(text) if clean_up_tokenization_spaces and not is_byte_pairs else text

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """The text of each row of `[batch, q_len]`; arguments and errors are those of `decode`."""
        found = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces) if len(sequences) else []
        return [found] if isinstance(found, str) else found

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of tokens that are given by their texts.

        Raises:
            FlaxModelsError: the library fails.
        """
        decoder: tokenizers.decoders.Decoder | None = self.backend.decoder
        with library.named_errors("the tokenizer cannot decode these tokens"):
            return " ".join(tokens) if decoder is None else decoder.decode(tokens)

    def stream(self, skip_special_tokens: bool = False) -> TextStream:
        """What decodes ids while they come, as `decode` would."""
        return TextStream(self, skip_special_tokens)


def clean_up_tokenization(text: str) -> str:
    """A text without spaces before English punctuation and abbreviations."""
    for written in _BEFORE_PUNCTUATION:
        text = text.replace(written, written.strip(" ") if written == " ' " else written[1:])
    return text

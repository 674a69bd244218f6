"""The text of token ids while they are generated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from flaxmodels.tokenizer.library import named_errors

if TYPE_CHECKING:
    import tokenizers

    from flaxmodels.tokenizer.decoding import DecodingMixin


class TextStream:
    """The text of token ids that come bit by bit: its pieces make what `Tokenizer.decode` makes of all ids.

    A character that takes several tokens comes with the last of them. Where byte tokens end within a character,
    `decode` may replace the whole ones before it too; here these are written.

    Attributes:
        text: the pieces up to now.
    """

    def __init__(self, tokenizer: DecodingMixin, skip_special_tokens: bool = False):
        self.text = ""
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._decoder = self._new_decoder()
        self._held: list[int] = []

    def __call__(self, ids: Iterable[int] | np.ndarray) -> str:
        """The text that the next ids `[some]` add.

        Raises:
            FlaxModelsError: they cannot be decoded.
        """
        with named_errors("the tokenizer cannot decode these ids"):
            piece = "".join([self._step(int(token)) for token in ids])
        self.text += piece
        return piece

    def end(self) -> str:
        """The text that is left when no more ids come: of a character that is not complete."""
        piece = self._tokenizer.decode(self._held, self._skip)
        self.text += piece
        return piece

    def _step(self, token: int) -> str:
        backend = self._tokenizer.backend
        self._held.append(token)
        try:
            piece = self._decoder.step(backend, token) or ""
        except Exception:  # the library stops at bytes that would take back what it gave out
            self._decoder = self._new_decoder()
            piece = "".join([self._decoder.step(backend, held) or "" for held in self._held])
        if piece:
            self._held.clear()
        return piece

    def _new_decoder(self) -> tokenizers.decoders.DecodeStream:
        from tokenizers.decoders import DecodeStream

        return DecodeStream(skip_special_tokens=self._skip)

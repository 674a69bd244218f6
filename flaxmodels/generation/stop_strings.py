"""Strings at which a completion ends, which only the host can find: they are not sequences of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flaxmodels.errors import FlaxModelsError


@dataclass(frozen=True)
class StopStrings:
    """Strings at which a completion ends, and the tokenizer that decodes it."""

    tokenizer: Any
    strings: Sequence[str]

    @classmethod
    def of(cls, tokenizer: Any, strings: str | Sequence[str] | None) -> StopStrings | None:
        """`None` if there are no strings.

        Raises:
            FlaxModelsError: there is no tokenizer.
        """
        if not strings:
            return None
        if tokenizer is None:
            raise FlaxModelsError("stop_strings need tokenizer=, to know what the tokens mean")
        return cls(tokenizer, [strings] if isinstance(strings, str) else list(strings))

    def ended(self, completions: np.ndarray) -> np.ndarray:
        """bool `[rows]`: whether completions `[rows, new]` hold one of the strings."""
        return np.array([self._end(row) is not None for row in completions.tolist()])

    def cut(self, completions: np.ndarray, pad_token_id: int) -> np.ndarray:
        """The completions with `pad_token_id` after the token that completes a string, as long as the longest."""
        ends = [self._end(row) for row in completions.tolist()]
        stops = np.array([completions.shape[1] if end is None else end for end in ends])
        kept = np.arange(stops.max()) < stops[:, None]
        return np.where(kept, completions[:, : stops.max()], pad_token_id).astype(np.int32)

    def _end(self, row: list[int]) -> int | None:
        """The fewest first tokens that hold one of the strings."""
        if not self._holds(row):
            return None
        low, high = 1, len(row)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._holds(row[:middle]) else (middle + 1, high)
        return low

    def _holds(self, row: list[int]) -> bool:
        decoded = self.tokenizer.decode(row, skip_special_tokens=False)
        return any(string in decoded for string in self.strings)

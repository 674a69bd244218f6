"""Prompts: what they must be, and how they are padded so that few lengths are compiled."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation.config import GenerationConfig

MIN_BUCKET = 64


class Prompt(NamedTuple):
    """`input_ids` and `attention_mask`, int32 `[batch, prompt_len]`; padding is on the left and has mask 0."""

    input_ids: np.ndarray
    attention_mask: np.ndarray

    @property
    def longest(self) -> int:
        """Tokens of the longest row, padding not counted."""
        return int(self.attention_mask.sum(-1).max())

    def padded(self) -> Prompt:
        """The prompt with more padding on the left, so that its length is a bucket."""
        length = self.input_ids.shape[1]
        missing = ((0, 0), (bucket(length) - length, 0))
        return Prompt(np.pad(self.input_ids, missing), np.pad(self.attention_mask, missing))


def bucket(length: int) -> int:
    """`length` rounded up to a power of two, at least `MIN_BUCKET`: programs are compiled for these lengths."""
    return max(MIN_BUCKET, 1 << (length - 1).bit_length())


def read_prompt(input_ids: Any, attention_mask: Any, settings: GenerationConfig, vocab_size: int) -> Prompt:
    """The prompt of what a caller gave.

    Without a mask, tokens that equal `pad_token_id` are padding unless that also ends answers. Raises
    `FlaxModelsError` for a prompt that cannot be continued.
    """
    ids = _read_ids(input_ids, settings, vocab_size)
    mask = _padding(ids, settings) if attention_mask is None else np.asarray(attention_mask)
    if mask.shape != ids.shape or not np.isin(mask, (0, 1)).all():
        raise FlaxModelsError(
            f"attention_mask: expected zeros and ones of shape {ids.shape} as input_ids, got {mask.dtype} {mask.shape}"
        )
    if empty := np.flatnonzero(~mask.any(-1)).tolist():
        raise FlaxModelsError(f"attention_mask: rows {empty} are all padding; each needs a token to continue")
    if right := np.flatnonzero(mask[:, -1] == 0).tolist():
        raise FlaxModelsError(
            f"attention_mask: rows {right} are padded on the right, where their answers begin; pad on the left, or "
            "pass the mask if these tokens are not padding"
        )
    return Prompt(ids.astype(np.int32), mask.astype(np.int32))


def _read_ids(input_ids: Any, settings: GenerationConfig, vocab_size: int) -> np.ndarray:
    if input_ids is None:
        if settings.bos_token_id is None:
            raise FlaxModelsError("generate() needs input_ids, or bos_token_id= to begin with")
        input_ids = [[settings.bos_token_id]]
    try:
        ids = np.asarray(input_ids)
    except ValueError:
        raise FlaxModelsError("input_ids: the rows differ in length; pad the shorter ones on the left") from None
    if ids.ndim != 2 or 0 in ids.shape or not np.issubdtype(ids.dtype, np.integer):
        raise FlaxModelsError(
            f"input_ids: expected integers [batch, prompt_len], at least one row of one token; got {ids.dtype} "
            f"{ids.shape}"
        )
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise FlaxModelsError(
            f"input_ids: expected token ids from 0 to {vocab_size - 1}, got {ids.min()} to {ids.max()}; "
            "use the tokenizer of this model"
        )
    return ids


def _padding(ids: np.ndarray, settings: GenerationConfig) -> np.ndarray:
    pad = settings.pad_token_id
    if pad is None or pad in settings.eos_token_ids:
        return np.ones_like(ids)
    return ids != pad

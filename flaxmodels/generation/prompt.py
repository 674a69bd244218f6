"""Prompts: what they must be, and how they are padded so that few lengths are compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation.config import GenerationConfig
from flaxmodels.generation.logits import NO_TOKEN

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
        """The prompt with -1 in the place of padding, and with padding on the right, so that its length is a bucket."""
        length = self.input_ids.shape[1]
        missing = ((0, 0), (0, bucket(length) - length))
        ids = np.where(self.attention_mask, self.input_ids, NO_TOKEN).astype(np.int32)
        return Prompt(np.pad(ids, missing, constant_values=NO_TOKEN), np.pad(self.attention_mask, missing))


def bucket(length: int) -> int:
    """`length` rounded up to a power of two, at least `MIN_BUCKET`: programs are compiled for these lengths."""
    return max(MIN_BUCKET, 1 << (length - 1).bit_length())


def read_prompt(
    input_ids: Any, attention_mask: Any, settings: GenerationConfig, vocab_size: int, inputs_embeds: Any = None
) -> Prompt:
    """The prompt of what a caller gave; one of embeddings has no ids, -1.

    Without a mask, tokens that equal `pad_token_id` are padding unless that also ends answers. Raises
    `FlaxModelsError` for a prompt that cannot be continued.
    """
    embeds = inputs_embeds is not None
    ids = _no_ids(input_ids, inputs_embeds) if embeds else _read_ids(input_ids, settings, vocab_size)
    if attention_mask is not None:
        mask = _array(attention_mask, "attention_mask")
    else:
        mask = np.ones_like(ids) if embeds else _padding(ids, settings)
    if mask.shape != ids.shape or not np.isin(mask, (0, 1)).all():
        given = "inputs_embeds" if embeds else "input_ids"
        raise FlaxModelsError(
            f"attention_mask: expected zeros and ones of shape {ids.shape} as {given}, got {mask.dtype} {mask.shape}"
        )
    if empty := np.flatnonzero(~mask.any(-1)).tolist():
        raise FlaxModelsError(f"attention_mask: rows {empty} are all padding; each needs a token to continue")
    if right := np.flatnonzero(mask[:, -1] == 0).tolist():
        raise FlaxModelsError(
            f"attention_mask: rows {right} are padded on the right, where their answers begin; pad on the left, or "
            "pass the mask if these tokens are not padding"
        )
    return Prompt(ids.astype(np.int32), mask.astype(np.int32))


def _no_ids(input_ids: Any, inputs_embeds: Any) -> np.ndarray:
    if input_ids is not None:
        raise FlaxModelsError("input_ids and inputs_embeds are both given; give one")
    embeds = inputs_embeds if isinstance(inputs_embeds, jax.Array) else _array(inputs_embeds, "inputs_embeds")
    if embeds.ndim != 3 or 0 in embeds.shape or not jnp.issubdtype(embeds.dtype, jnp.floating):
        raise FlaxModelsError(
            f"inputs_embeds: expected floats [batch, prompt_len, hidden], got {embeds.dtype} {embeds.shape}"
        )
    return np.full(embeds.shape[:2], NO_TOKEN)


def decoder_prompt(decoder_input_ids: Any, batch: int, settings: GenerationConfig, vocab_size: int) -> Prompt:
    """With which the texts of an encoder-decoder begin."""
    if decoder_input_ids is None:
        start = settings.bos_token_id if settings.decoder_start_token_id is None else settings.decoder_start_token_id
        if start is None:
            raise FlaxModelsError("generate() needs decoder_start_token_id=, with which the text of the decoder begins")
        decoder_input_ids = np.full((batch, 1), start)
    ids = _read_ids(decoder_input_ids, settings, vocab_size, "decoder_input_ids")
    if len(ids) != batch:
        raise FlaxModelsError(f"decoder_input_ids: expected {batch} rows as the encoder's input, got {len(ids)}")
    return Prompt(ids.astype(np.int32), np.ones(ids.shape, np.int32))


def encoder_inputs(given: Mapping[str, Any], vocab_size: int) -> dict[str, np.ndarray]:
    """The inputs of an encoder; ids and their mask with padding on the right, so that their length is a bucket."""
    if given.get("inputs_embeds") is not None:
        kind, ids = "inputs_embeds", _no_ids(given.get("input_ids"), given["inputs_embeds"])
    elif given.get("input_ids") is not None:
        ids = _array(given["input_ids"], "input_ids", "right")
        kind, ids = "input_ids", _read_ids(ids, GenerationConfig(), vocab_size)
    else:
        return {}
    inputs = {name: _array(value, name, "right") for name, value in given.items() if value is not None}
    mask = inputs.get("attention_mask", np.ones_like(ids))
    if mask.shape != ids.shape or not np.isin(mask, (0, 1)).all() or not mask.any(-1).all():
        raise FlaxModelsError(
            f"attention_mask: expected zeros and ones of shape {ids.shape} as {kind}, and a one in each row; got "
            f"{mask.dtype} {mask.shape}"
        )
    if kind == "inputs_embeds":
        return inputs
    missing = ((0, 0), (0, bucket(ids.shape[1]) - ids.shape[1]))
    padded = {"input_ids": ids, "attention_mask": mask}
    return inputs | {name: np.pad(array, missing).astype(np.int32) for name, array in padded.items()}


def encoder_features(name: str, features: Any, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """The input of an encoder that reads `[batch, *shape]`; one of fewer frames gets zeros behind it."""
    bands, frames = shape
    given = np.asarray([] if features is None else _array(features, name, "right"))
    if given.ndim != 3 or 0 in given.shape or given.shape[1] != bands or not jnp.issubdtype(given.dtype, jnp.floating):
        raise FlaxModelsError(
            f"generate() needs {name}, floats [batch, {bands}, frames]; "
            f"got {None if features is None else f'{given.dtype} {given.shape}'}"
        )
    if given.shape[2] > frames:
        raise FlaxModelsError(
            f"{name}: {given.shape[2]} frames are more than the {frames} that the model reads at once; "
            "transcribe longer sound piece by piece"
        )
    return {name: np.pad(given, ((0, 0), (0, 0), (0, frames - given.shape[2])))}


def _read_ids(input_ids: Any, settings: GenerationConfig, vocab_size: int, name: str = "input_ids") -> np.ndarray:
    if input_ids is None:
        if settings.bos_token_id is None:
            raise FlaxModelsError("generate() needs input_ids, or bos_token_id= to begin with")
        input_ids = [[settings.bos_token_id]]
    ids = _array(input_ids, name)
    if ids.ndim != 2 or 0 in ids.shape or not np.issubdtype(ids.dtype, np.integer):
        raise FlaxModelsError(
            f"{name}: expected integers [batch, prompt_len], at least one row of one token; got {ids.dtype} {ids.shape}"
        )
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise FlaxModelsError(
            f"{name}: expected token ids from 0 to {vocab_size - 1}, got {ids.min()} to {ids.max()}; "
            "use the tokenizer of this model"
        )
    return ids


def _array(value: Any, name: str, side: str = "left") -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:
        raise FlaxModelsError(f"{name}: the rows differ in length; pad the shorter ones on the {side}") from None


def _padding(ids: np.ndarray, settings: GenerationConfig) -> np.ndarray:
    pad = settings.pad_token_id
    if pad is None or pad in settings.eos_token_ids:
        return np.ones_like(ids)
    return ids != pad

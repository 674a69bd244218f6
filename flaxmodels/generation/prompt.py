"""Prompts: what they must be, and how they are padded so that few lengths are compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution.input_checks import InputChecks
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
        """The prompt with -1 in place of padding, and with padding on the right, so that its length is a bucket."""
        length = self.input_ids.shape[1]
        missing = ((0, 0), (0, bucket(length) - length))
        ids = np.where(self.attention_mask, self.input_ids, NO_TOKEN).astype(np.int32)
        return Prompt(np.pad(ids, missing, constant_values=NO_TOKEN), np.pad(self.attention_mask, missing))


def bucket(length: int) -> int:
    """`length` rounded up to a power of two, at least `MIN_BUCKET`: programs are compiled for these lengths."""
    return max(MIN_BUCKET, 1 << (length - 1).bit_length())


def read_prompt(given: Mapping[str, Any], settings: GenerationConfig, checks: InputChecks) -> Prompt:
    """The prompt of the `input_ids` or `inputs_embeds`, and the `attention_mask`, that a caller gave.

    One of embeddings has no ids, -1. Without a mask, tokens that equal `pad_token_id` are padding unless that also ends
    completions.

    Raises:
        FlaxModelsError: there is no prompt, or it cannot be continued: padding on the right, rows of padding alone.
    """
    if given.get("inputs_embeds") is None:
        given = {**given, "input_ids": _or_bos(given.get("input_ids"), settings)}
    inputs = _checked(given, checks, check_positions=False)  # padding takes no positions
    ids = _ids(inputs)
    mask = inputs.get("attention_mask", _padding(ids, settings) if "input_ids" in inputs else np.ones_like(ids))
    _check_mask(mask)
    if right := np.flatnonzero(mask[:, -1] == 0).tolist():
        raise FlaxModelsError(
            f"attention_mask: rows {right} are padded on the right, where their completions begin; pad on the left, or "
            "pass the mask if these tokens are not padding"
        )
    return Prompt(ids.astype(np.int32), mask.astype(np.int32))


def decoder_prompt(decoder_input_ids: Any, batch: int, settings: GenerationConfig, checks: InputChecks) -> Prompt:
    """The tokens with which the decoder of an encoder-decoder begins.

    Raises:
        FlaxModelsError: they are not known, or are not as many rows as `batch`.
    """
    if decoder_input_ids is None:
        start = settings.bos_token_id if settings.decoder_start_token_id is None else settings.decoder_start_token_id
        if start is None:
            raise FlaxModelsError("generate() needs decoder_start_token_id=, with which the decoder begins")
        decoder_input_ids = np.full((batch, 1), start)
    ids = _checked({"decoder_input_ids": decoder_input_ids}, checks)["decoder_input_ids"]
    if len(ids) != batch:
        raise FlaxModelsError(f"decoder_input_ids: expected {batch} rows as the encoder's input, got {len(ids)}")
    return Prompt(ids.astype(np.int32), np.ones(ids.shape, np.int32))


def encoder_inputs(given: Mapping[str, Any], checks: InputChecks) -> dict[str, np.ndarray]:
    """The inputs of an encoder; ids and their mask with padding on the right, so that their length is a bucket.

    Nothing if there are neither ids nor embeddings.

    Raises:
        FlaxModelsError: inputs that `checks` refuse, or rows of padding alone.
    """
    if given.get("input_ids") is None and given.get("inputs_embeds") is None:
        return {}
    inputs = _checked(given, checks)
    ids = _ids(inputs)
    mask = inputs.get("attention_mask", np.ones_like(ids))
    _check_mask(mask)
    if "input_ids" not in inputs:
        return inputs
    missing = ((0, 0), (0, bucket(ids.shape[1]) - ids.shape[1]))
    return {
        name: np.pad(array, missing).astype(np.int32) for name, array in (("input_ids", ids), ("attention_mask", mask))
    }


def encoder_features(name: str, features: Any, shape: tuple[int, int], checks: InputChecks) -> dict[str, np.ndarray]:
    """The input of an encoder that reads `[batch, *shape]`; one of fewer frames is padded with zeros.

    Raises:
        FlaxModelsError: there is none, or it has another number of bands, or more frames.
    """
    if features is None:
        raise FlaxModelsError(f"generate() needs {name}, floats [batch, {shape[0]}, frames]")
    given, (bands, frames) = np.asarray(_checked({name: features}, checks)[name]), shape
    if given.shape[1] != bands:
        raise FlaxModelsError(f"{name}: expected [batch, {bands}, frames], got {given.shape}")
    if given.shape[2] > frames:
        raise FlaxModelsError(
            f"{name}: {given.shape[2]} frames are more than the {frames} that the model reads at once; "
            "transcribe longer audio piece by piece"
        )
    return {name: np.pad(given, ((0, 0), (0, 0), (0, frames - given.shape[2])))}


def _checked(given: Mapping[str, Any], checks: InputChecks, *, check_positions: bool = True) -> dict[str, Any]:
    """What is given, checked; ids and masks are fetched from a device, as the host lays out what is compiled."""
    if given.get("input_ids") is not None and given.get("inputs_embeds") is not None:
        raise FlaxModelsError("input_ids and inputs_embeds are both given; give one")
    fetched = {
        name: np.asarray(value) if isinstance(value, jax.Array) and name != "inputs_embeds" else value
        for name, value in given.items()
        if value is not None
    }
    return checks(fetched, check_positions=check_positions)


def _or_bos(input_ids: Any, settings: GenerationConfig) -> Any:
    if input_ids is None and settings.bos_token_id is None:
        raise FlaxModelsError("generate() needs input_ids, or bos_token_id= to begin with")
    return [[settings.bos_token_id]] if input_ids is None else input_ids


def _ids(inputs: Mapping[str, Any]) -> np.ndarray:
    return inputs["input_ids"] if "input_ids" in inputs else np.full(inputs["inputs_embeds"].shape[:2], NO_TOKEN)


def _check_mask(mask: np.ndarray) -> None:
    if mask.ndim != 2:
        raise FlaxModelsError(f"attention_mask: expected [batch, length], got {mask.shape}")
    if empty := np.flatnonzero(~mask.astype(bool).any(-1)).tolist():
        raise FlaxModelsError(f"attention_mask: rows {empty} are all padding; each needs a token")


def _padding(ids: np.ndarray, settings: GenerationConfig) -> np.ndarray:
    pad = settings.pad_token_id
    if pad is None or pad in settings.eos_token_ids:
        return np.ones_like(ids)
    return ids != pad

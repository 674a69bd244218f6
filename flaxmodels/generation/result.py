"""What `generate` returns, made of the state after the last token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation.beams import BeamState
from flaxmodels.generation.logits import NO_TOKEN
from flaxmodels.generation.prompt import Prompt
from flaxmodels.generation.sampling import SamplingState
from flaxmodels.generation.speculation import SpeculationState
from flaxmodels.generation.stop_strings import StopStrings
from flaxmodels.nn.cache import Cache, max_rewind
from flaxmodels.outputs import ModelOutput

if TYPE_CHECKING:
    from flaxmodels.generation.prepare import GenerationCall


@dataclass(frozen=True)
class DecodingCache:
    """What a model has read, for another call that begins with the same tokens.

    Attributes:
        layers: the keys and values of each layer.
        tokens: int32 `[batch, length]`, the tokens that they belong to; -1 is padding.
    """

    layers: Cache
    tokens: np.ndarray

    def common(self, prompt: Prompt) -> int:
        """How many tokens of `prompt` need not be read again."""
        ids = np.where(prompt.attention_mask, prompt.input_ids, NO_TOKEN)
        length = min(self.tokens.shape[1], ids.shape[1] - 1)
        differ = (self.tokens[:, :length] != ids[:, :length]).any(0)
        same = int(differ.argmax()) if differ.any() else length
        return same if self.tokens.shape[1] - same <= max_rewind(self.layers) else 0


class GenerateOutput(ModelOutput):
    """What `generate` returns. A row is a completion, `num_return_sequences` of them for each prompt.

    Attributes:
        sequences: int32 `[rows, prompt_len + new]`, the prompts as given and their completions; rows that ended before
            the longest one are filled with `pad_token_id`.
        sequences_scores: sums of log probabilities of beam search by their length, float32 `[rows]`.
        beam_indices: the row of `scores` that each token of beam search was taken from, int32 `[rows, new]`.
        scores: the processed scores of each new token, float32 `[rows, vocab]`.
        logits: the model's own scores of each new token, float32 `[rows, vocab]`.
        attentions, cross_attentions, hidden_states: the arrays of each layer for each new token, those of the prompt
            first.
        past_key_values: a `DecodingCache` for a next call.
        passes: how often the model was run in speculative decoding.
    """

    sequences: jax.Array
    sequences_scores: jax.Array | None = None
    beam_indices: jax.Array | None = None
    scores: tuple[jax.Array, ...] | None = None
    logits: tuple[jax.Array, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None
    past_key_values: Any = None
    passes: int | None = None


def check_logits(failed: np.ndarray, token: int) -> None:
    """Refuse a result whose last token was chosen by NaN or infinite logits.

    Args:
        failed: bool `[rows]`.
        token: the number of that token in the completions, counted from 1.

    Raises:
        FlaxModelsError: naming the rows.
    """
    if rows := np.flatnonzero(failed).tolist():
        raise FlaxModelsError(
            f"generate(): the logits of new token {token} are NaN or infinite in rows {rows}. Either the weights or "
            'inputs_embeds have such values, or float16 overflows: use dtype="bfloat16" or "float32". '
            "remove_invalid_values=True replaces them"
        )


def result_of(
    call: GenerationCall, state: SamplingState | BeamState | SpeculationState, stops: StopStrings | None = None
) -> GenerateOutput:
    """The result of a call from the state after the last token.

    Raises:
        FlaxModelsError: that token was chosen by NaN or infinite logits.
    """
    if isinstance(state, BeamState):
        return _of_beams(call, state)
    start = call.prompt.input_ids.shape[1]
    passes = state.passes if isinstance(state, SpeculationState) else None
    fetched = (state.sequences.tokens, state.sequences.length, state.failed, passes)
    tokens, length, failed, passes = jax.device_get(fetched)
    check_logits(failed, int(length) - start)
    completions = tokens[:, start:length]
    if stops is not None:
        completions = stops.cut(completions, int(call.inputs.pad_token_id))
    found: dict[str, Any] = {"sequences": _with_prompts(call, completions)}
    if isinstance(state, SamplingState):
        found |= _kept(call, state, completions.shape[1])
    else:
        found["passes"] = int(passes)
    if call.settings.return_dict_in_generate and call.static.rows_per_prompt == 1 and call.has_ids:
        found["past_key_values"] = DecodingCache(state.sequences.cache, tokens[:, : length - 1])
    return GenerateOutput(**found)


def _with_prompts(call: GenerationCall, completions: np.ndarray) -> jax.Array:
    """The completions after their prompts, if these have ids."""
    if call.has_ids:
        prompts = np.repeat(call.prompt.input_ids, len(completions) // len(call.prompt.input_ids), axis=0)
        completions = np.concatenate([prompts, completions], axis=1)
    return jax.device_put(completions)


def _kept(call: GenerationCall, state: SamplingState, new: int) -> dict[str, Any]:
    """The outputs of each token: those of the prompt, without what pads it, and then of each step."""
    kept = state.of_tokens
    found = {name: tuple(kept[name][:new]) for name in ("scores", "logits") if name in kept}
    read = int(call.inputs.prompt_len - call.inputs.cached)
    for name, layers in state.of_prompt.items():
        first = tuple(layer[..., :read, :] if name != "hidden_states" else layer[:, :read] for layer in layers)
        steps = (tuple(layer[step] for layer in kept[name]) for step in range(1, new))
        found[name] = tuple(
            tuple(_of_present(call, layer, name, step) for layer in layers)
            for step, layers in enumerate((first, *steps))
        )
    return found


def _of_present(call: GenerationCall, layer: jax.Array, name: str, step: int) -> jax.Array:
    """Attention weights without those of positions in the cache that have no token yet."""
    is_whole = name == "attentions" and layer.shape[-1] == call.static.cache_len
    return layer[..., : int(call.inputs.prompt_len) + step] if is_whole else layer


def _of_beams(call: GenerationCall, state: BeamState) -> GenerateOutput:
    count, start = call.settings.num_return_sequences or 1, call.prompt.input_ids.shape[1]
    *finished, length, failed = jax.device_get((*state.finished, state.length, state.failed))
    check_logits(failed, int(length) - start)
    tokens, scores, origins = (array[:, :count].reshape(-1, *array.shape[2:]) for array in finished)
    new = int((origins >= 0).sum(-1).max())
    kept: dict[str, Any] = {name: tuple(array[: length - start]) for name, array in state.of_tokens.items()}
    return GenerateOutput(
        sequences=_with_prompts(call, tokens[:, start : start + new]),
        sequences_scores=jax.device_put(scores),
        beam_indices=jax.device_put(origins[:, :new]),
        **kept,
    )

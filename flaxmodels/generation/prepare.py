"""A call of `generate` before it runs: its arguments checked, and split into what is compiled and what is data."""

from __future__ import annotations

import functools
import logging
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution.structure import structure_of
from flaxmodels.generation.beams import beam_strategy
from flaxmodels.generation.config import DEFAULT_NEW_TOKENS, GenerationConfig, kept_outputs
from flaxmodels.generation.device_memory import check_memory
from flaxmodels.generation.merge_settings import merge_settings
from flaxmodels.generation.processing import Custom, ids, processor_values
from flaxmodels.generation.prompt import (
    Prompt,
    bucket,
    decoder_prompt,
    encoder_features,
    encoder_inputs,
    read_prompt,
)
from flaxmodels.generation.result import DecodingCache
from flaxmodels.generation.runner import DynamicInputs, StaticArgs, Strategy, compiled
from flaxmodels.generation.sampling import generate_tokens
from flaxmodels.generation.speculation import speculative_strategy
from flaxmodels.policy import to_dtype

logger = logging.getLogger("flaxmodels")


@dataclass(frozen=True)
class GenerationCall:
    """One call of `generate`, ready to run.

    Attributes:
        model: what generates.
        values: its flat parameters.
        settings: all settings, merged.
        prompt: the prompt as it was given.
        has_ids: whether the prompt was given as ids, and not as embeddings.
        strategy: how tokens are chosen.
        inputs: what its program is called with.
        static: what is compiled.
    """

    model: Any
    values: list[Any]
    settings: GenerationConfig
    prompt: Prompt
    has_ids: bool
    strategy: Strategy
    inputs: DynamicInputs
    static: StaticArgs

    def run(self) -> Any:
        """The state after the last token: one call of one program."""
        draft = [] if self.strategy.draft is None else [self.strategy.draft]
        models, values = zip((self.model, self.values), *draft, strict=True)
        return compiled(*models, program=self.strategy.program)(*values, self.inputs, static=self.static)


class _Prompted(NamedTuple):
    """The prompt, its embeddings if it has no ids, and the inputs of the encoder."""

    prompt: Prompt
    inputs_embeds: Any = None
    encoder: dict[str, np.ndarray] | None = None


def prepare_call(
    model: Any,
    input_ids: Any = None,
    generation_config: Any = None,
    prng_key: jax.Array | None = None,
    *,
    attention_mask: Any = None,
    inputs_embeds: Any = None,
    decoder_input_ids: Any = None,
    params: Any = None,
    seed: int | Sequence[int] | None = None,
    past_key_values: DecodingCache | None = None,
    cache_dtype: Any = None,
    logits_processor: Custom | Sequence[Custom] = (),
    assistant_model: Any = None,
    assistant_params: Any = None,
    **settings: Any,
) -> GenerationCall:
    """What `generate` will run.

    The arguments are described there.

    Raises:
        ConfigError, FlaxModelsError: as `generate`, but for what only shows when it runs.
    """
    _check_model(model, decoder_input_ids, assistant_model, assistant_params)
    if input_ids is None and model.main_input_name in settings:
        input_ids = settings.pop(model.main_input_name)
    given = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
    merged = merge_settings(model.generation_config, generation_config, settings)
    merged, prompted = _read_inputs(model, given, decoder_input_ids, merged, params)
    prompt = prompted.prompt
    new_tokens = _new_tokens(model, prompt, merged)
    strategy = _strategy(model, prompt, merged, new_tokens, past_key_values, assistant_model, assistant_params)
    cached = 0 if past_key_values is None else _cached(past_key_values, prompted, merged)
    static = _static_args(prompt, cached, new_tokens, strategy, merged, logits_processor, cache_dtype)
    values = structure_of(model).values(params)
    check_memory(model, static, len(prompt.input_ids), values)
    inputs = DynamicInputs(
        **_prompt_inputs(prompted, merged, model.config.target_vocab_size),
        **_ends(merged, new_tokens),
        **_randomness(merged, prng_key, seed, len(prompt.input_ids)),
        cache=past_key_values.layers if cached and past_key_values is not None else None,
        cached=np.int32(cached),
        strategy=strategy.inputs,
    )
    return GenerationCall(model, values, merged, prompt, prompted.inputs_embeds is None, strategy, inputs, static)


def _check_model(model: Any, decoder_input_ids: Any, assistant_model: Any, assistant_params: Any) -> None:
    if not model.can_generate():
        raise FlaxModelsError(
            f"{type(model).__name__} cannot generate, as it does not predict the next token; "
            "load the checkpoint with AutoModelForCausalLM"
        )
    if decoder_input_ids is not None and not model.config.is_encoder_decoder:
        raise FlaxModelsError(f"decoder_input_ids: {type(model).__name__} has no encoder; pass them as input_ids")
    if assistant_params is not None and assistant_model is None:
        raise FlaxModelsError("assistant_params are given without assistant_model; give both")


def _read_inputs(
    model: Any, given: dict[str, Any], decoder_input_ids: Any, settings: GenerationConfig, params: Any
) -> tuple[GenerationConfig, _Prompted]:
    """The prompt and the inputs of the encoder, and the settings, which a model may change with them."""
    if not model.config.is_encoder_decoder:
        return settings, _Prompted(read_prompt(given, settings, model.input_checks), given["inputs_embeds"])
    encoder = _encoder_inputs(model, given)
    settings, decoder_input_ids = model.begin_decoding(encoder, settings, decoder_input_ids, params)
    batch = len(next(iter(encoder.values())))
    return settings, _Prompted(decoder_prompt(decoder_input_ids, batch, settings, model.input_checks), encoder=encoder)


def _encoder_inputs(model: Any, given: dict[str, Any]) -> dict[str, np.ndarray]:
    if model.main_input_name != "input_ids":
        return encoder_features(model.main_input_name, given["input_ids"], model.source_shape, model.input_checks)
    encoder = encoder_inputs(given, model.input_checks)
    if not encoder:
        raise FlaxModelsError(f"{type(model).__name__}: generate() needs input_ids, the input of the encoder")
    return encoder


def _strategy(
    model: Any,
    prompt: Prompt,
    settings: GenerationConfig,
    new_tokens: int,
    past_key_values: Any,
    assistant_model: Any,
    assistant_params: Any,
) -> Strategy:
    if assistant_model is not None or settings.prompt_lookup_num_tokens:
        most = bucket(new_tokens)  # more draft tokens would be beyond the completion
        return speculative_strategy(model, prompt, settings, most, assistant_model, assistant_params)
    if (settings.num_beams or 1) > 1:
        return beam_strategy(settings, past_key_values)
    return Strategy(generate_tokens, settings.num_return_sequences or 1)


def _cached(cache: DecodingCache, prompted: _Prompted, settings: GenerationConfig) -> int:
    """How many tokens of the prompt the cache holds; the last token is always read again, for its scores."""
    if not isinstance(cache, DecodingCache):
        raise FlaxModelsError(
            f"past_key_values: expected those of an earlier result of generate(), got {type(cache).__name__}"
        )
    if prompted.encoder or prompted.inputs_embeds is not None:
        raise FlaxModelsError("past_key_values are for decoders with input_ids; leave them out")
    rows = len(prompted.prompt.input_ids)
    if len(cache.tokens) != rows or (settings.num_return_sequences or 1) > 1:
        raise FlaxModelsError(
            f"past_key_values: expected as many rows as prompts, {rows}, and one completion for each; "
            f"they have {len(cache.tokens)} rows"
        )
    return cache.common(prompted.prompt)


def _static_args(
    prompt: Prompt,
    cached: int,
    new_tokens: int,
    strategy: Strategy,
    settings: GenerationConfig,
    logits_processor: Custom | Sequence[Custom],
    cache_dtype: Any,
) -> StaticArgs:
    """What is compiled: lengths in steps that other prompts share; `cached` tokens are not read again."""
    length = prompt.input_ids.shape[1]
    prefill_len, max_new_tokens = bucket(length - cached), bucket(new_tokens + strategy.overshoot)
    return StaticArgs(
        max(bucket(length) + max_new_tokens, bucket(cached + prefill_len) if cached else 0),
        max_new_tokens,
        prefill_len,
        rows_per_prompt=strategy.rows_per_prompt,
        do_sample=bool(settings.do_sample),
        custom=(logits_processor,) if callable(logits_processor) else tuple(logits_processor),
        outputs=kept_outputs(settings),
        cache_dtype=None if cache_dtype is None else str(to_dtype(cache_dtype)),
        strategy=strategy.static,
    )


def _new_tokens(model: Any, prompt: Prompt, settings: GenerationConfig) -> int:
    """How many tokens may be generated."""
    length, limit = prompt.input_ids.shape[1], _positions(model)
    taken = length if model.padding_takes_positions else prompt.longest
    if settings.max_new_tokens is not None:
        new_tokens = settings.max_new_tokens
    elif settings.max_length is not None:
        new_tokens = settings.max_length - length
        if new_tokens < 1:
            raise FlaxModelsError(
                f"max_length={settings.max_length} is not above the {length} tokens of the prompt; "
                "raise it, or pass max_new_tokens"
            )
    else:
        new_tokens = max(1, int(min(DEFAULT_NEW_TOKENS, limit - taken)))
    least = max(settings.min_new_tokens or 0, (settings.min_length or 0) - length)
    if least > new_tokens:
        raise FlaxModelsError(
            f"min_length or min_new_tokens ask for {least} new tokens or more, but at most {new_tokens} are generated; "
            "raise max_new_tokens or max_length"
        )
    if taken + new_tokens > limit:
        _beyond_positions(model, taken, new_tokens, int(limit))
    return new_tokens


def _positions(model: Any) -> float:
    """How many positions there are: those of the model's table, or those that it was trained with."""
    checks = model.input_checks
    if table := checks.sizes.get(f"{checks.caches}positions"):
        return table[0] - checks.positions.first
    return getattr(model.config, "max_position_embeddings", None) or math.inf


def _beyond_positions(model: Any, length: int, new_tokens: int, limit: int) -> None:
    """Refuse more positions than a model has parameters for; warn where positions are computed."""
    name, checks = type(model).__name__, model.input_checks
    if f"{checks.caches}positions" in checks.sizes:
        raise FlaxModelsError(
            f"a prompt of {length} tokens and {new_tokens} new ones exceed the {limit} positions of {name} "
            "(max_position_embeddings); shorten the prompt, or lower max_new_tokens"
        )
    _warn_once(f"{name} was made for {limit} positions (max_position_embeddings); completions beyond them may be poor")


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _prompt_inputs(prompted: _Prompted, settings: GenerationConfig, vocab_size: int) -> dict[str, Any]:
    """The prompt, padded to a length that others share, and what is made of it."""
    padded, length = prompted.prompt.padded(), prompted.prompt.input_ids.shape[1]
    embeds = None if prompted.inputs_embeds is None else jnp.asarray(prompted.inputs_embeds)
    if embeds is not None:
        embeds = jnp.pad(embeds, ((0, 0), (0, padded.input_ids.shape[1] - length), (0, 0)))
    return {
        "input_ids": padded.input_ids,
        "attention_mask": padded.attention_mask,
        "inputs_embeds": embeds,
        "prompt_len": np.int32(length),
        "encoder": prompted.encoder,
        "processors": processor_values(settings, vocab_size, length, "input_ids" in (prompted.encoder or {})),
    }


def _ends(settings: GenerationConfig, new_tokens: int) -> dict[str, Any]:
    """Where completions end."""
    ends, pad_token_id = settings.eos_token_ids, settings.pad_token_id
    return {
        "max_new_tokens": np.int32(new_tokens),
        "eos_token_ids": ids(ends),
        "pad_token_id": np.int32(pad_token_id if pad_token_id is not None else (*ends, 0)[0]),
    }


def _randomness(settings: GenerationConfig, prng_key: jax.Array | None, seed: Any, batch: int) -> dict[str, Any]:
    """`rng` or `seeds` of the inputs."""
    if prng_key is not None and seed is not None:
        raise FlaxModelsError("prng_key and seed are both given; give one")
    if not settings.do_sample:
        return {}
    if prng_key is not None:
        return {"rng": prng_key}
    several = isinstance(seed, list | tuple | np.ndarray)
    seeds = list(seed) if several else [secrets.randbits(32) if seed is None else seed]
    if wrong := [one for one in seeds if not isinstance(one, Integral) or not 0 <= int(one) < 2**32]:
        raise FlaxModelsError(f"seed={wrong[0]}: expected an integer from 0 to 4294967295")
    if not several:
        return {"rng": np.uint32(seeds[0])}
    if len(seeds) != batch:
        raise FlaxModelsError(f"seed: expected one for each of {batch} prompts, got {len(seeds)}")
    return {"seeds": np.array(seeds, np.uint32)}

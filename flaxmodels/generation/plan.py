"""What a call of `generate` will do: its arguments checked, and divided into what is compiled and what is data."""

from __future__ import annotations

import functools
import logging
import math
import secrets
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation.config import DEFAULT_NEW_TOKENS, GenerationConfig, settle
from flaxmodels.generation.job import Job
from flaxmodels.generation.logits import NO_TOKEN, Custom
from flaxmodels.generation.memory import check_memory
from flaxmodels.generation.processing import ids, int32, processing
from flaxmodels.generation.prompt import (
    Prompt,
    bucket,
    decoder_prompt,
    encoder_features,
    encoder_inputs,
    read_prompt,
)
from flaxmodels.generation.reader import Program, Request
from flaxmodels.generation.result import DecodingCache
from flaxmodels.nn.functional import functional
from flaxmodels.nn.policy import to_dtype

MAX_ASSISTANT_TOKENS = 64

logger = logging.getLogger("flaxmodels")


def plan(
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
) -> Job:
    """What `generate` will do; the arguments are described there."""
    _check_model(model, decoder_input_ids, assistant_model, assistant_params)
    if input_ids is None and model.main_input_name in settings:
        input_ids = settings.pop(model.main_input_name)
    chosen = settle(model.generation_config, generation_config, settings)
    given = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
    encoder = _encoder(model, given) if model.config.is_encoder_decoder else None
    if encoder is not None:
        chosen, decoder_input_ids = model.begin_decoding(encoder, chosen, decoder_input_ids, params)
    texts = _texts(model, given, encoder, decoder_input_ids, chosen)
    prompt = texts.prompt
    new_tokens = _new_tokens(model, prompt, chosen)
    way = _way(model, prompt, chosen, assistant_model, past_key_values, new_tokens)
    cached = 0 if past_key_values is None else _cached(model, past_key_values, texts, chosen)
    slots, room, chunk = _sizes(prompt.input_ids.shape[1], cached, new_tokens + way.overshoot)
    program = Program(
        slots,
        room,
        chunk,
        repeats=way.repeats,
        sample=bool(chosen.do_sample),
        custom=(logits_processor,) if callable(logits_processor) else tuple(logits_processor),
        wanted=tuple(name for name in _WANTED if getattr(chosen, name)),
        cache_dtype=None if cache_dtype is None else str(to_dtype(cache_dtype)),
        variant=way.variant,
    )
    values = functional(model).values(params)
    check_memory(model, program, len(prompt.input_ids), values)
    request = Request(
        **_tokens(texts, chosen, new_tokens, model.config.target_vocab_size),
        **_randomness(chosen, prng_key, seed, len(prompt.input_ids)),
        encoder=texts.encoder,
        cache=past_key_values.layers if cached and past_key_values is not None else None,
        cached=np.int32(cached),
        numbers=way.numbers,
    )
    draft = None if assistant_model is None else (assistant_model, functional(assistant_model).values(assistant_params))
    return Job(way.strategy, model, values, chosen, prompt, request, program, texts.embeds is not None, draft)


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


class _Texts(NamedTuple):
    """The prompt, its embeddings if it has no ids, and the inputs of the encoder."""

    prompt: Prompt
    embeds: Any = None
    encoder: dict[str, np.ndarray] | None = None


def _encoder(model: Any, given: dict[str, Any]) -> dict[str, np.ndarray]:
    """The inputs of the encoder."""
    if model.main_input_name != "input_ids":
        return encoder_features(model.main_input_name, given["input_ids"], model.source_shape, model.input_checks)
    encoder = encoder_inputs(given, model.input_checks)
    if not encoder:
        raise FlaxModelsError(f"{type(model).__name__}: generate() needs input_ids, the input of the encoder")
    return encoder


def _texts(
    model: Any,
    given: dict[str, Any],
    encoder: dict[str, np.ndarray] | None,
    decoder_input_ids: Any,
    settings: GenerationConfig,
) -> _Texts:
    if encoder is not None:
        batch = len(next(iter(encoder.values())))
        return _Texts(decoder_prompt(decoder_input_ids, batch, settings, model.input_checks), encoder=encoder)
    return _Texts(read_prompt(given, settings, model.input_checks), given["inputs_embeds"])


class _Way(NamedTuple):
    """A way of decoding: what it adds to the program and to its data, and by how much it may exceed an answer."""

    strategy: str
    repeats: int = 1
    variant: tuple[Any, ...] = ()
    numbers: dict[str, Any] = {}
    overshoot: int = 0


def _way(
    model: Any,
    prompt: Prompt,
    settings: GenerationConfig,
    assistant_model: Any,
    past_key_values: Any,
    new_tokens: int,
) -> _Way:
    if guesses := min(_guesses(settings, assistant_model), bucket(new_tokens)):  # more would be beyond the answer
        _check_guessing(model, prompt, settings, assistant_model)
        numbers = {"max_matching_ngram_size": int32(settings.max_matching_ngram_size or 2)}
        return _Way("speculate", variant=(guesses,), numbers=numbers, overshoot=guesses + 1)
    beams, ends = settings.num_beams or 1, settings.eos_token_ids
    if beams == 1:
        return _Way("sample", settings.num_return_sequences or 1)
    _check_beams(settings, past_key_values)
    fill = (settings.pad_token_id or ends[0]) if ends else NO_TOKEN
    penalty = 1.0 if settings.length_penalty is None else settings.length_penalty
    numbers = {"length_penalty": np.float32(penalty), "fill": np.int32(fill)}
    return _Way("beams", beams, (settings.early_stopping or False, beams * max(2, 1 + len(ends))), numbers)


_WANTED = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


def _guesses(settings: GenerationConfig, assistant_model: Any) -> int:
    """How many tokens are guessed at once; 0 if none are."""
    if assistant_model is None:
        return settings.prompt_lookup_num_tokens or 0
    guesses = settings.num_assistant_tokens or 5
    if guesses > MAX_ASSISTANT_TOKENS:
        raise FlaxModelsError(
            f"num_assistant_tokens={guesses}: expected at most {MAX_ASSISTANT_TOKENS}, each of which is compiled"
        )
    return guesses


def _check_guessing(model: Any, prompt: Prompt, settings: GenerationConfig, assistant_model: Any) -> None:
    guesses = "guessed tokens (assistant_model, prompt_lookup_num_tokens)"
    if len(prompt.input_ids) > 1:
        raise FlaxModelsError(
            f"{guesses} are for one prompt, not for {len(prompt.input_ids)}, "
            "whose answers would grow at different paces"
        )
    if (settings.num_beams or 1) > 1 or (settings.num_return_sequences or 1) > 1:
        raise FlaxModelsError(f"{guesses} are for one answer; use neither num_beams nor num_return_sequences")
    if wanted := [name for name in _WANTED if getattr(settings, name)]:
        raise FlaxModelsError(f"{wanted[0]} is not implemented for {guesses}")
    if assistant_model is None:
        return
    if settings.prompt_lookup_num_tokens:
        raise FlaxModelsError("assistant_model and prompt_lookup_num_tokens both guess tokens; give one")
    config, encodes = getattr(assistant_model, "config", None), model.config.is_encoder_decoder
    if config is None or not assistant_model.can_generate() or config.is_encoder_decoder != encodes:
        kind = "an encoder-decoder" if encodes else "a decoder"
        raise FlaxModelsError(
            f"assistant_model: expected {kind} that predicts the next token, got {type(assistant_model).__name__}"
        )
    if config.vocab_size != model.config.vocab_size:
        raise FlaxModelsError(
            f"assistant_model: expected a vocabulary of {model.config.vocab_size} tokens as that of the model, got "
            f"{config.vocab_size}"
        )


def _check_beams(settings: GenerationConfig, past_key_values: Any) -> None:
    if unknown := [name for name in ("output_attentions", "output_hidden_states") if getattr(settings, name)]:
        raise FlaxModelsError(f"{unknown[0]} is not implemented for num_beams above 1; run the model on the result")
    if past_key_values is not None:
        raise FlaxModelsError("past_key_values do not go with num_beams, whose texts share no cache")


def _cached(model: Any, cache: DecodingCache, texts: _Texts, settings: GenerationConfig) -> int:
    """How many tokens of the prompt the cache holds; the last token is always read again, for its scores."""
    if not isinstance(cache, DecodingCache):
        raise FlaxModelsError(
            f"past_key_values: expected those of an earlier result of generate(), got {type(cache).__name__}"
        )
    prompt = texts.prompt
    if texts.encoder or texts.embeds is not None:
        raise FlaxModelsError("past_key_values are for decoders with input_ids; leave them out")
    if len(cache.tokens) != len(prompt.input_ids) or (settings.num_return_sequences or 1) > 1:
        raise FlaxModelsError(
            f"past_key_values: expected as many rows as prompts, {len(prompt.input_ids)}, and one answer for each; "
            f"they have {len(cache.tokens)} rows"
        )
    return cache.common(prompt)


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
                f"max_length={settings.max_length} leaves no room behind a prompt of {length} tokens; "
                "raise it, or pass max_new_tokens"
            )
    else:
        new_tokens = max(1, int(min(DEFAULT_NEW_TOKENS, limit - taken)))
    least = max(settings.min_new_tokens or 0, (settings.min_length or 0) - length)
    if least > new_tokens:
        raise FlaxModelsError(
            f"min_length or min_new_tokens ask for {least} new tokens, but there is room for {new_tokens}; "
            "raise max_new_tokens or max_length"
        )
    if taken + new_tokens > limit:
        _beyond_positions(model, taken, new_tokens, int(limit))
    return new_tokens


def _positions(model: Any) -> float:
    """How many positions a text has: those of the model's table, or those that it was trained with."""
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
    _warn_once(f"{name} was made for {limit} positions (max_position_embeddings); text beyond them may be poor")


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _sizes(length: int, cached: int, new_tokens: int) -> tuple[int, int, int]:
    """`slots`, `room` and `chunk` of a program, in steps that other prompts share; `cached` tokens are read already."""
    chunk, room = bucket(length - cached), bucket(new_tokens)
    slots = max(bucket(length) + room, bucket(cached + chunk) if cached else 0)
    return slots, room, chunk


def _tokens(texts: _Texts, settings: GenerationConfig, new_tokens: int, vocab_size: int) -> dict[str, Any]:
    """The prompt filled up to a size that others share, and what becomes of the next tokens."""
    padded, length, ends = texts.prompt.padded(), texts.prompt.input_ids.shape[1], settings.eos_token_ids
    embeds = None if texts.embeds is None else jnp.asarray(texts.embeds)
    if embeds is not None:
        embeds = jnp.pad(embeds, ((0, 0), (0, padded.input_ids.shape[1] - length), (0, 0)))
    return {
        "input_ids": padded.input_ids,
        "attention_mask": padded.attention_mask,
        "inputs_embeds": embeds,
        "prompt_len": np.int32(length),
        "max_new_tokens": np.int32(new_tokens),
        "eos_token_ids": ids(ends),
        "pad_token_id": np.int32(settings.pad_token_id if settings.pad_token_id is not None else (*ends, 0)[0]),
        "settings": processing(settings, vocab_size, length, "input_ids" in (texts.encoder or {})),
    }


def _randomness(settings: GenerationConfig, prng_key: jax.Array | None, seed: Any, batch: int) -> dict[str, Any]:
    """`rng` or `seeds` of the request."""
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

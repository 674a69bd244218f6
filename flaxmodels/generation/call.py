"""`generate`: prompts in, prompts with their answers out."""

from __future__ import annotations

import functools
import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation import loop
from flaxmodels.generation.config import DEFAULT_NEW_TOKENS, GenerationConfig, settle
from flaxmodels.generation.logits import NO_TOKEN, Custom
from flaxmodels.generation.processing import ids, processing
from flaxmodels.generation.prompt import Prompt, bucket, decoder_prompt, encoder_inputs, read_prompt
from flaxmodels.generation.reading import Program, Request
from flaxmodels.generation.result import DecodingCache, GenerateOutput, Job, StopStrings
from flaxmodels.generation.sampling import State
from flaxmodels.nn.functional import functional
from flaxmodels.nn.policy import to_dtype

logger = logging.getLogger("flaxmodels")

BLOCK = 8
"""Tokens that are decoded between two looks of the host."""


def generate(
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
    logits_processor: Sequence[Custom] = (),
    assistant_model: Any = None,
    assistant_params: Any = None,
    streamer: Any = None,
    tokenizer: Any = None,
    **settings: Any,
) -> GenerateOutput:
    """Continue prompts, one compiled call for prompt and answer.

    The lengths of prompt and answer are compiled as powers of two, so that others rarely compile anew; other numbers
    never do.

    Args:
        model: one that predicts the next token.
        input_ids: int `[batch, prompt_len]`, padded on the left; `bos_token_id` if not given. Of an encoder-decoder,
            the input of the encoder, padded on the right.
        generation_config: settings that come before the model's own.
        prng_key: for drawing; a fresh one if neither it nor `seed` is given.
        attention_mask: `[batch, prompt_len]`, 0 for padding.
        inputs_embeds: float `[batch, prompt_len, hidden]` in the place of `input_ids`; the result then has the answers
            alone.
        decoder_input_ids: int `[batch, prompt_len]`, with which the text of an encoder-decoder begins, in the place of
            `decoder_start_token_id`.
        params: used in place of the model's own.
        seed: in place of `prng_key`, an integer from 0 to 2**32 - 1, or one for each prompt.
        past_key_values: of an earlier result. What this prompt has in common with it is not read again.
        cache_dtype: of keys and values; that of the computation by default.
        logits_processor: functions of tokens int32 `[rows, room]` (-1 for padding), scores float32 `[rows, vocab]` and
            how many tokens there are, which return scores; called while the program is traced.
        assistant_model: a smaller model with the same vocabulary, which guesses tokens that `model` then checks: the
            result is the same, sooner. For one prompt at a time.
        assistant_params: in place of its own.
        streamer: gets the prompts, then the tokens of each step, by `put`, and `end()`.
        tokenizer: for `stop_strings`.
        settings: the attributes of `GenerationConfig`, which come before both configurations.

    Raises:
        ConfigError: settings that are unknown, impossible, contradictory or not implemented; all are listed.
        FlaxModelsError: a model that cannot generate, or a prompt that it cannot continue.
    """
    job = plan(
        model,
        input_ids,
        generation_config,
        prng_key,
        attention_mask=attention_mask,
        inputs_embeds=inputs_embeds,
        decoder_input_ids=decoder_input_ids,
        params=params,
        seed=seed,
        past_key_values=past_key_values,
        cache_dtype=cache_dtype,
        logits_processor=logits_processor,
        assistant_model=assistant_model,
        assistant_params=assistant_params,
        **settings,
    )
    looks = {"streamer": streamer, "stop_strings": job.settings.stop_strings, "max_time": job.settings.max_time}
    looks = [name for name, value in looks.items() if value is not None]
    if not looks:
        return job.finish(job.run())
    _check_order(job, looks[0])
    stops = StopStrings.read(tokenizer, job.settings.stop_strings)
    if streamer is not None:
        streamer.put(job.prompt.input_ids)
    state = None
    for last, new in _blocks(job, stops):
        state = last
        if streamer is not None:
            for column in new.T:
                streamer.put(column)
    if streamer is not None:
        streamer.end()
    return job.finish(state, stops)


def stream(model: Any, *args: Any, tokenizer: Any = None, **kwargs: Any) -> Iterator[np.ndarray]:
    """Tokens of an answer while it is decoded, int32 `[batch, some]`; takes what `generate` takes, but `streamer`.

    The arguments are checked, and errors raised, at once.
    """
    job = plan(model, *args, **kwargs)
    _check_order(job, "stream()")
    stops = StopStrings.read(tokenizer, job.settings.stop_strings)
    return (new for _, new in _blocks(job, stops))


def _check_order(job: Job, name: str) -> None:
    if job.strategy != "sample":
        raise FlaxModelsError(f"{name} needs tokens that come one after another: no num_beams, no guessed tokens")


def _blocks(job: Job, stops: StopStrings | None) -> Iterator[tuple[State, np.ndarray]]:
    """The state after each block of tokens, and these tokens."""
    begun = time.monotonic()
    values = loop.prepared(job.model, job.values)
    program = replace(job.program, prepared=True)
    state = loop.compiled(job.model, loop.begin_tokens)(values, job.request, program=program)
    advance = loop.compiled(job.model, loop.advance_tokens, donate="state")
    start, seen = int(job.request.prompt_len), 0
    while True:
        tokens, length, finished = jax.device_get((state.text.tokens, state.text.length, state.finished))
        answers = tokens[:, start:length]
        if stops is not None:
            finished = finished | stops.ended(answers)
            answers = stops.cut(answers, int(job.request.pad_token_id))
            state = state._replace(finished=finished)
        new, seen = answers[:, seen:], answers.shape[1]
        late = job.settings.max_time is not None and time.monotonic() - begun > job.settings.max_time
        done = finished.all() or late or seen >= job.request.max_new_tokens
        yield state, new
        if done:
            return
        state = advance(values, job.request, state, np.int32(seen + BLOCK), program=program)


def warmup(
    model: Any, batch_size: int = 1, prompt_len: int = 1, max_new_tokens: int = DEFAULT_NEW_TOKENS, **settings: Any
) -> None:
    """Compile what calls of `generate` with this many rows, and prompts and answers of up to these lengths, will run.

    A prompt of zeros is continued by one token. `settings` are those that the calls will have.
    """
    prompt = np.zeros((batch_size, prompt_len), np.int32)
    job = plan(model, prompt, attention_mask=np.ones_like(prompt), max_new_tokens=max_new_tokens, **settings)
    job = replace(job, request=job.request._replace(max_new_tokens=np.int32(1)))
    jax.block_until_ready(job.run())


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
    logits_processor: Sequence[Custom] = (),
    assistant_model: Any = None,
    assistant_params: Any = None,
    **settings: Any,
) -> Job:
    """What `generate` would do, with the same arguments."""
    if not model.can_generate():
        raise FlaxModelsError(
            f"{type(model).__name__} cannot generate, as it does not predict the next token; "
            "load the checkpoint with AutoModelForCausalLM"
        )
    chosen = settle(model.generation_config, generation_config, settings)
    vocab_size = model.config.vocab_size
    encoder = None
    if decoder_input_ids is not None and not model.config.is_encoder_decoder:
        raise FlaxModelsError(f"decoder_input_ids: {type(model).__name__} has no encoder; pass them as input_ids")
    if assistant_params is not None and assistant_model is None:
        raise FlaxModelsError("assistant_params are given without assistant_model; give both")
    if callable(logits_processor):
        logits_processor = (logits_processor,)
    if model.config.is_encoder_decoder:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
        encoder = encoder_inputs(given, vocab_size)
        if not encoder:
            raise FlaxModelsError(f"{type(model).__name__}: generate() needs input_ids, the input of the encoder")
        _check_source(model, encoder)
        prompt = decoder_prompt(decoder_input_ids, len(next(iter(encoder.values()))), chosen, vocab_size)
        inputs_embeds = None
    else:
        prompt = read_prompt(input_ids, attention_mask, chosen, vocab_size, inputs_embeds)
        shape, features = np.shape(inputs_embeds), model.config.hidden_size
        if inputs_embeds is not None and shape[-1] != features:
            raise FlaxModelsError(f"inputs_embeds: expected [batch, prompt_len, {features}], got {shape}")
    new_tokens = _new_tokens(model, prompt, chosen)
    guesses = _guesses(chosen, assistant_model)
    beams = chosen.num_beams or 1
    if guesses:
        _check_guessing(model, prompt, chosen, assistant_model)
    cached = 0 if past_key_values is None else _cached(model, past_key_values, prompt, inputs_embeds, chosen)
    length = prompt.input_ids.shape[1]
    chunk = bucket(length - cached)
    room = bucket(new_tokens + (guesses + 1 if guesses else 0))
    program = Program(
        slots=max(bucket(length) + room, bucket(cached + chunk) if cached else 0),
        room=room,
        chunk=chunk,
        repeats=beams if beams > 1 else chosen.num_return_sequences or 1,
        sample=bool(chosen.do_sample),
        custom=tuple(logits_processor),
        wanted=tuple(name for name in _WANTED if getattr(chosen, name)),
        cache_dtype=None if cache_dtype is None else str(to_dtype(cache_dtype)),
    )
    ends, numbers = chosen.eos_token_ids, {}
    if beams > 1:
        program = replace(program, variant=(chosen.early_stopping or False, beams * max(2, 1 + len(ends))))
        fill = (chosen.pad_token_id or ends[0]) if ends else NO_TOKEN
        penalty = 1.0 if chosen.length_penalty is None else chosen.length_penalty
        numbers = {"length_penalty": np.float32(penalty), "fill": np.int32(fill)}
        _check_beams(program, past_key_values)
    if guesses:
        program = replace(program, variant=(guesses,))
        numbers = {"max_matching_ngram_size": np.int32(chosen.max_matching_ngram_size or 2)}
    padded = prompt.padded()
    request = Request(
        padded.input_ids,
        padded.attention_mask,
        prompt_len=np.int32(length),
        max_new_tokens=np.int32(new_tokens),
        eos_token_ids=ids(ends),
        pad_token_id=np.int32(chosen.pad_token_id if chosen.pad_token_id is not None else (*ends, 0)[0]),
        settings=processing(chosen, vocab_size, length, encoder is not None and "input_ids" in encoder),
        **_randomness(chosen, prng_key, seed, len(prompt.input_ids)),
        inputs_embeds=None if inputs_embeds is None else _padded_embeds(inputs_embeds, padded),
        encoder=encoder,
        cache=past_key_values.layers if cached and past_key_values is not None else None,
        cached=np.int32(cached),
        numbers=numbers,
    )
    values = functional(model).values(params)
    draft = None if assistant_model is None else (assistant_model, functional(assistant_model).values(assistant_params))
    strategy = "beams" if beams > 1 else "speculate" if guesses else "sample"
    return Job(strategy, model, values, chosen, prompt, request, program, inputs_embeds is not None, draft)


def _check_source(model: Any, encoder: dict[str, np.ndarray]) -> None:
    """Refuse an encoder's input that is longer than its table of positions."""
    mask, limit = encoder.get("attention_mask"), getattr(model.config, "max_position_embeddings", None)
    if mask is None or limit is None:
        return
    longest = int((mask * np.arange(1, mask.shape[1] + 1)).max())
    if longest > limit:
        raise FlaxModelsError(
            f"input_ids: {longest} tokens exceed the {limit} positions of {type(model).__name__} "
            "(max_position_embeddings); shorten the text"
        )


_WANTED = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


def _guesses(settings: GenerationConfig, assistant_model: Any) -> int:
    """How many tokens are guessed at once; 0 if none are."""
    if assistant_model is not None:
        return settings.num_assistant_tokens or 5
    return settings.prompt_lookup_num_tokens or 0


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


def _check_beams(program: Program, past_key_values: Any) -> None:
    if unknown := [name for name in ("output_attentions", "output_hidden_states") if name in program.wanted]:
        raise FlaxModelsError(f"{unknown[0]} is not implemented for num_beams above 1; run the model on the result")
    if past_key_values is not None:
        raise FlaxModelsError("past_key_values do not go with num_beams, whose texts share no cache")


def _cached(model: Any, cache: DecodingCache, prompt: Prompt, inputs_embeds: Any, settings: GenerationConfig) -> int:
    """How many tokens of the prompt the cache holds; the last token is always read again, for its scores."""
    if not isinstance(cache, DecodingCache):
        raise FlaxModelsError(
            f"past_key_values: expected those of an earlier result of generate(), got {type(cache).__name__}"
        )
    if model.config.is_encoder_decoder or inputs_embeds is not None:
        raise FlaxModelsError("past_key_values are for decoders with input_ids; leave them out")
    if len(cache.tokens) != len(prompt.input_ids) or (settings.num_return_sequences or 1) > 1:
        raise FlaxModelsError(
            f"past_key_values: expected as many rows as prompts, {len(prompt.input_ids)}, and one answer for each; "
            f"they have {len(cache.tokens)} rows"
        )
    return cache.common(prompt)


def _new_tokens(model: Any, prompt: Prompt, settings: GenerationConfig) -> int:
    """How many tokens may be generated."""
    length, limit = prompt.input_ids.shape[1], getattr(model.config, "max_position_embeddings", None)
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
        free = DEFAULT_NEW_TOKENS if limit is None else limit - prompt.longest
        new_tokens = max(1, min(DEFAULT_NEW_TOKENS, free))
    least = max(settings.min_new_tokens or 0, (settings.min_length or 0) - length)
    if least > new_tokens:
        raise FlaxModelsError(
            f"min_length or min_new_tokens ask for {least} new tokens, but there is room for {new_tokens}; "
            "raise max_new_tokens or max_length"
        )
    if limit is not None and prompt.longest + new_tokens > limit:
        _beyond_positions(model, prompt.longest, new_tokens, limit)
    return new_tokens


def _beyond_positions(model: Any, length: int, new_tokens: int, limit: int) -> None:
    """Refuse more positions than a model has parameters for; warn where positions are computed."""
    name = type(model).__name__
    if not hasattr(model.config, "rope"):
        raise FlaxModelsError(
            f"a prompt of {length} tokens and {new_tokens} new ones exceed the {limit} positions of {name} "
            "(max_position_embeddings); shorten the prompt, or lower max_new_tokens"
        )
    _warn_once(f"{name} was made for {limit} positions (max_position_embeddings); text beyond them may be poor")


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _padded_embeds(inputs_embeds: Any, padded: Prompt) -> jax.Array:
    """Filled on the right as the prompt is."""
    embeds = jnp.asarray(inputs_embeds)
    return jnp.pad(embeds, ((0, 0), (0, padded.input_ids.shape[1] - embeds.shape[1]), (0, 0)))


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

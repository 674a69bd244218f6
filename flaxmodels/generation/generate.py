"""`generate`: prompts in, prompts with their completions out; streaming, stop strings and time limits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation.config import DEFAULT_NEW_TOKENS
from flaxmodels.generation.logits import NO_TOKEN
from flaxmodels.generation.prepare import GenerationCall, prepare_call
from flaxmodels.generation.result import GenerateOutput, check_logits, result_of
from flaxmodels.generation.runner import cast_values, compiled
from flaxmodels.generation.sampling import SamplingState, decode_tokens, generate_tokens, prefill_tokens
from flaxmodels.generation.stop_strings import StopStrings

BLOCK = 8
"""Tokens that are decoded between two checks of the host."""


def generate(
    model: Any,
    input_ids: Any = None,
    generation_config: Any = None,
    prng_key: jax.Array | None = None,
    *,
    streamer: Any = None,
    tokenizer: Any = None,
    **options: Any,
) -> GenerateOutput:
    """Continue prompts: prefill and decoding are one compiled call.

    The lengths of prompt and completion are compiled as powers of two, so that others rarely compile anew; other
    numbers never do.

    Args:
        model: one that predicts the next token.
        input_ids: int `[batch, prompt_len]`, padded on the left; `bos_token_id` if not given. Of an encoder-decoder,
            the input of the encoder, padded on the right, or floats such as `input_features`, by that name too.
        generation_config: settings that come before the model's own.
        prng_key: the key to sample with; a fresh one if neither it nor `seed` is given.
        streamer: gets the prompts, then the tokens of each step, by `put`, and `end()`.
        tokenizer: what decodes tokens for `stop_strings`.
        options: the attributes of `GenerationConfig`, which come before both configurations, and those that follow.
        attention_mask: `[batch, prompt_len]`, 0 for padding.
        inputs_embeds: float `[batch, prompt_len, hidden]` in place of `input_ids`; the result then has the completions
            alone.
        decoder_input_ids: int `[batch, prompt_len]`, with which the decoder of an encoder-decoder begins, in place of
            `decoder_start_token_id`.
        params: parameters in place of the model's own.
        seed: an integer from 0 to 2**32 - 1, or one for each prompt, in place of `prng_key`.
        past_key_values: the cache of an earlier result. What this prompt has in common with it is not read again.
        cache_dtype: the dtype of keys and values; that of the computation by default.
        logits_processor: functions of tokens int32 `[rows, cache_len]` (-1 for padding), scores float32 `[rows, vocab]`
            and how many tokens there are, which return scores. They are compiled into the program, so pass the same
            function again rather than a new one that does the same.
        assistant_model: a smaller model with the same vocabulary, which drafts tokens that `model` then checks: the
            result is the same, sooner. For one prompt at a time.
        assistant_params: parameters in place of its own.

    Raises:
        ConfigError: settings that are unknown, impossible, contradictory or not implemented; all are listed.
        FlaxModelsError: a model that cannot generate, or a prompt that it cannot continue; what would take more memory
            than the device has; logits that are NaN or infinite, in rows that have not ended.
    """
    call = prepare_call(model, input_ids, generation_config, prng_key, **options)
    settings = call.settings
    host_checks = {"streamer": streamer, "stop_strings": settings.stop_strings, "max_time": settings.max_time}
    host_checks = [name for name, value in host_checks.items() if value is not None]
    if not host_checks:
        return result_of(call, call.run())
    _check_strategy(call, host_checks[0])
    stops = StopStrings.of(tokenizer, settings.stop_strings)
    return result_of(call, _decode_on_host(call, stops, streamer), stops)


def _decode_on_host(call: GenerationCall, stops: StopStrings | None, streamer: Any) -> SamplingState:
    """The state after the last token; a streamer gets the tokens meanwhile."""
    if streamer is not None:
        streamer.put(call.prompt.input_ids)
    for state, new in _blocks(call, stops):
        last = state
        if streamer is not None:
            for column in new.T:
                streamer.put(column)
    if streamer is not None:
        streamer.end()
    return last  # pyright: ignore[reportPossiblyUnboundVariable]  # there is one block at least


def stream(model: Any, *args: Any, tokenizer: Any = None, **kwargs: Any) -> Iterator[np.ndarray]:
    """Tokens of the completions while they are decoded, int32 `[batch, some]`.

    It takes what `generate` takes, but `streamer`. The arguments are checked, and errors raised, at once.

    Raises:
        ConfigError, FlaxModelsError: as `generate`; for logits that are NaN or infinite while decoding goes on.
    """
    call = prepare_call(model, *args, **kwargs)
    _check_strategy(call, "stream()")
    stops = StopStrings.of(tokenizer, call.settings.stop_strings)
    return (new for _, new in _blocks(call, stops))


def _check_strategy(call: GenerationCall, name: str) -> None:
    if call.strategy.program is not generate_tokens:
        raise FlaxModelsError(f"{name} needs tokens that come one after another: no num_beams, no draft tokens")


def _blocks(call: GenerationCall, stops: StopStrings | None) -> Iterator[tuple[SamplingState, np.ndarray]]:
    """The state after each block of tokens, and these tokens."""
    begun = time.monotonic()
    inputs, static, values = call.inputs, call.static, cast_values(call.model, call.values)
    decode = compiled(call.model, program=decode_tokens, donate="state")
    state = compiled(call.model, program=prefill_tokens)(values, inputs, static=static)
    start, seen = int(inputs.prompt_len), 0
    while True:
        fetched = (state.sequences.tokens, state.sequences.length, state.finished, state.failed)
        tokens, length, finished, failed = jax.device_get(fetched)
        check_logits(failed, int(length) - start)
        completions = tokens[:, start:length]
        if stops is not None:
            finished = finished | stops.ended(completions)
            completions = stops.cut(completions, int(inputs.pad_token_id))
            state = state._replace(finished=finished)
        new, seen = completions[:, seen:], completions.shape[1]
        is_late = call.settings.max_time is not None and time.monotonic() - begun > call.settings.max_time
        is_done = finished.all() or is_late or seen >= inputs.max_new_tokens
        yield state, new
        if is_done:
            return
        state = decode(values, inputs, state, np.int32(seen + BLOCK), static=static)


def warmup(
    model: Any,
    batch_size: int = 1,
    prompt_len: int = 1,
    max_new_tokens: int = DEFAULT_NEW_TOKENS,
    *,
    streaming: bool = False,
    **settings: Any,
) -> None:
    """Compile what calls with this many rows, and prompts and completions of up to these lengths, will run.

    A prompt of zeros is continued by two tokens at most.

    Args:
        model: one that predicts the next token.
        batch_size, prompt_len, max_new_tokens: sizes of the calls.
        streaming: whether they are of `stream`, or of `generate` with a streamer, stop strings or a time limit.
        settings: those that the calls will have.

    Raises:
        ConfigError, FlaxModelsError: as `generate`.
    """
    prompt = model.empty_prompt(batch_size, prompt_len)
    call = prepare_call(model, **prompt, max_new_tokens=max_new_tokens, **settings)
    no_ends, few = np.full_like(call.inputs.eos_token_ids, NO_TOKEN), np.int32(min(2, max_new_tokens))
    call = replace(call, inputs=call.inputs._replace(max_new_tokens=few, eos_token_ids=no_ends))
    if streaming:
        _check_strategy(call, "streaming=True")
    state = _decode_on_host(call, None, None) if streaming else call.run()
    jax.block_until_ready(state)

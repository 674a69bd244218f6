"""`generate`: prompts in, prompts with their answers out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation import loop
from flaxmodels.generation.config import DEFAULT_NEW_TOKENS
from flaxmodels.generation.job import Job
from flaxmodels.generation.logits import NO_TOKEN
from flaxmodels.generation.plan import plan
from flaxmodels.generation.result import GenerateOutput, StopStrings, check_logits
from flaxmodels.generation.sampling import State

BLOCK = 8
"""Tokens that are decoded between two looks of the host."""


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
    """Continue prompts, one compiled call for prompt and answer.

    The lengths of prompt and answer are compiled as powers of two, so that others rarely compile anew; other numbers
    never do.

    Args:
        model: one that predicts the next token.
        input_ids: int `[batch, prompt_len]`, padded on the left; `bos_token_id` if not given. Of an encoder-decoder,
            the input of the encoder, padded on the right, or floats such as `input_features`, by that name too.
        generation_config: settings that come before the model's own.
        prng_key: for drawing; a fresh one if neither it nor `seed` is given.
        streamer: gets the prompts, then the tokens of each step, by `put`, and `end()`.
        tokenizer: for `stop_strings`.
        options: the attributes of `GenerationConfig`, which come before both configurations, and those that follow.
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
            how many tokens there are, which return scores. They are compiled into the program, so pass the same
            function again rather than a new one that does the same.
        assistant_model: a smaller model with the same vocabulary, which guesses tokens that `model` then checks: the
            result is the same, sooner. For one prompt at a time.
        assistant_params: in place of its own.

    Raises:
        ConfigError: settings that are unknown, impossible, contradictory or not implemented; all are listed.
        FlaxModelsError: a model that cannot generate, or a prompt that it cannot continue; what would take more memory
            than the device has; logits that are NaN or infinite, in rows that have not ended.
    """
    job = plan(model, input_ids, generation_config, prng_key, **options)
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

    The arguments are checked, and errors raised, at once; logits that are NaN or infinite while it goes on.
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
    state = loop.compiled(job.model, loop.begin_tokens)(values, job.request, program=job.program)
    advance = loop.compiled(job.model, loop.advance_tokens, donate="state")
    start, seen = int(job.request.prompt_len), 0
    while True:
        fetched = (state.text.tokens, state.text.length, state.finished, state.failed)
        tokens, length, finished, failed = jax.device_get(fetched)
        check_logits(failed, int(length) - start)
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
        state = advance(values, job.request, state, np.int32(seen + BLOCK), program=job.program)


def warmup(
    model: Any,
    batch_size: int = 1,
    prompt_len: int = 1,
    max_new_tokens: int = DEFAULT_NEW_TOKENS,
    *,
    streaming: bool = False,
    **settings: Any,
) -> None:
    """Compile what calls with this many rows, and prompts and answers of up to these lengths, will run.

    A prompt of zeros is continued by two tokens at most. With `streaming` it is for `stream`, and for `generate` with
    a streamer, stop strings or a time limit. `settings` are those that the calls will have.
    """
    prompt = model.empty_prompt(batch_size, prompt_len)
    job = plan(model, **prompt, max_new_tokens=max_new_tokens, **settings)
    ends, few = np.full_like(job.request.eos_token_ids, NO_TOKEN), np.int32(min(2, max_new_tokens))
    job = replace(job, request=job.request._replace(max_new_tokens=few, eos_token_ids=ends))
    if streaming:
        _check_order(job, "streaming=True")
    state = [state for state, _ in _blocks(job, None)][-1] if streaming else job.run()
    jax.block_until_ready(state)

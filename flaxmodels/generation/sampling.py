"""Greedy decoding and sampling, each row for itself: the programs, and the loop in them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxmodels.generation.runner import DynamicInputs, ModelRunner, Sequences, StaticArgs, runner_of


class SamplingState(NamedTuple):
    """How far decoding is.

    Attributes:
        sequences: prompts and completions.
        finished: bool `[rows]`, whether a row has ended.
        failed: bool `[rows]`, whether the logits of its last token were NaN or infinite, which ends decoding.
        of_prompt: what is kept of the outputs of the prompt.
        of_tokens: what is kept of each new token, `[max_new_tokens, ...]`.
    """

    sequences: Sequences
    finished: jax.Array
    failed: jax.Array
    of_prompt: dict[str, Any]
    of_tokens: dict[str, Any]


def generate_tokens(bind: Any, values: Any, inputs: DynamicInputs, *, static: StaticArgs) -> SamplingState:
    """Prefill, and decode to the end: one program."""
    runner = runner_of(bind, values, inputs, static)
    return _decode(runner, _prefill(runner), static.max_new_tokens)


def prefill_tokens(bind: Any, values: Any, inputs: DynamicInputs, *, static: StaticArgs) -> SamplingState:
    """Prefill, and choose the first tokens: the first of several programs."""
    return _prefill(runner_of(bind, values, inputs, static))


def decode_tokens(
    bind: Any, values: Any, inputs: DynamicInputs, state: SamplingState, until: Any, *, static: StaticArgs
) -> SamplingState:
    """Decode until completions have `until` tokens: the further programs."""
    runner = runner_of(bind, values, inputs, static)
    runner.repeat()
    return _decode(runner, state, until)


def _prefill(runner: ModelRunner) -> SamplingState:
    sequences, outputs = runner.prefill()
    finished = jnp.zeros(len(sequences.tokens), bool)
    logits = outputs.pop("logits")
    kept = score_buffers(runner.static, logits)
    if outputs:
        step, _ = jax.eval_shape(runner, sequences.tokens[:, :1], sequences.cache, 0)
        del step["logits"]
        kept |= jax.tree.map(lambda each: jnp.zeros((runner.static.max_new_tokens, *each.shape), each.dtype), step)
    return _append(runner, SamplingState(sequences, finished, finished, outputs, kept), logits)


def score_buffers(static: StaticArgs, logits: jax.Array) -> dict[str, jax.Array]:
    """float32 zeros `[max_new_tokens, rows, vocab]` for the scores and logits that are kept, by name."""
    names = [name for name in ("scores", "logits") if f"output_{name}" in static.outputs]
    return {name: jnp.zeros((static.max_new_tokens, *logits.shape), jnp.float32) for name in names}


def _decode(runner: ModelRunner, state: SamplingState, until: Any) -> SamplingState:
    """Decode until all rows have ended or one has failed, or completions have `until` tokens or all asked for."""
    prompt_len, most = runner.inputs.prompt_len, jnp.minimum(until, runner.inputs.max_new_tokens)

    def goes_on(state: SamplingState) -> jax.Array:
        return (state.sequences.length - prompt_len < most) & ~state.finished.all() & ~state.failed.any()

    return jax.lax.while_loop(goes_on, lambda state: _step(runner, state), state)


def _step(runner: ModelRunner, state: SamplingState) -> SamplingState:
    sequences = state.sequences
    last = jax.lax.dynamic_slice_in_dim(sequences.tokens, sequences.length - 1, 1, axis=1)
    outputs, cache = runner(last, sequences.cache, 0)
    logits = outputs.pop("logits")
    step = sequences.length - runner.inputs.prompt_len
    kept = {name: _write(state.of_tokens[name], value, step) for name, value in outputs.items()}
    state = state._replace(sequences=sequences._replace(cache=cache), of_tokens=state.of_tokens | kept)
    return _append(runner, state, logits)


def _append(runner: ModelRunner, state: SamplingState, logits: jax.Array) -> SamplingState:
    """The sequences, each with a token that `logits` `[rows, vocab]` choose."""
    sequences, inputs = state.sequences, runner.inputs
    step = sequences.length - inputs.prompt_len
    scores = runner.process(logits, sequences.tokens, sequences.length)
    offered = {"logits": logits, "scores": scores}
    kept = {name: _write(buffer, offered[name], step) for name, buffer in state.of_tokens.items() if name in offered}
    if runner.static.do_sample:
        keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys(runner), step)
        token = jax.vmap(jax.random.categorical)(keys, scores)
    else:
        token = scores.argmax(-1)
    token = jnp.where(state.finished, inputs.pad_token_id, token).astype(jnp.int32)
    tokens = jax.lax.dynamic_update_slice(sequences.tokens, token[:, None], (0, sequences.length))
    sequences = Sequences(tokens, sequences.length + 1, sequences.cache)
    finished, failed = state.finished | runner.ends(token), ~state.finished & runner.fails(logits)
    return SamplingState(sequences, finished, failed, state.of_prompt, state.of_tokens | kept)


def row_keys(runner: ModelRunner) -> jax.Array:
    """A key for each row, `[rows]`, so that what it samples does not depend on the other rows."""
    rng, repeats = runner.inputs.rng, runner.static.rows_per_prompt
    prompts = len(runner.inputs.input_ids)
    if runner.inputs.seeds is not None:
        keys = jax.vmap(jax.random.key)(runner.inputs.seeds)
        if repeats == 1:
            return keys
        return jax.vmap(lambda key: jax.random.split(key, repeats))(keys).reshape(-1)
    if not jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
        rng = jax.random.wrap_key_data(rng) if rng.ndim else jax.random.key(rng)
    return jax.random.split(rng, prompts * repeats)


def _write(buffers: Any, values: Any, step: jax.Array) -> Any:
    return jax.tree.map(lambda buffer, value: buffer.at[step].set(value), buffers, values)

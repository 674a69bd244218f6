"""Greedy decoding and sampling, each row for itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxmodels.generation.reader import Reader, Text


class State(NamedTuple):
    """How far decoding is.

    Attributes:
        text: prompts and answers.
        finished: bool `[rows]`, whether a row has ended.
        failed: bool `[rows]`, whether the logits of its last token were NaN or infinite, which ends decoding.
        first: what is kept of the outputs of the prompt.
        kept: what is kept of each new token, `[room, ...]`.
    """

    text: Text
    finished: jax.Array
    failed: jax.Array
    first: dict[str, Any]
    kept: dict[str, Any]


def begin(reader: Reader) -> State:
    """Read the prompts and choose a first token for each row."""
    text, outputs = reader.begin()
    finished = jnp.zeros(len(text.tokens), bool)
    logits = outputs.pop("logits")
    kept = {
        name: jnp.zeros((reader.program.room, *logits.shape), jnp.float32)
        for name in ("scores", "logits")
        if f"output_{name}" in reader.program.wanted
    }
    if outputs:
        step, _ = jax.eval_shape(reader, text.tokens[:, :1], text.cache, 0)
        del step["logits"]
        kept |= jax.tree.map(lambda each: jnp.zeros((reader.program.room, *each.shape), each.dtype), step)
    return _append(reader, State(text, finished, finished, outputs, kept), logits)


def advance(reader: Reader, state: State, until: Any) -> State:
    """Decode until all rows have ended or one has failed, or answers have `until` tokens or as many as asked for."""
    start, request = reader.request.prompt_len, reader.request
    most = jnp.minimum(until, request.max_new_tokens)

    def goes_on(state: State) -> jax.Array:
        return (state.text.length - start < most) & ~state.finished.all() & ~state.failed.any()

    return jax.lax.while_loop(goes_on, lambda state: _decode(reader, state), state)


def _decode(reader: Reader, state: State) -> State:
    text = state.text
    last = jax.lax.dynamic_slice_in_dim(text.tokens, text.length - 1, 1, axis=1)
    outputs, cache = reader(last, text.cache, 0)
    logits = outputs.pop("logits")
    step = text.length - reader.request.prompt_len
    kept = {name: _write(state.kept[name], value, step) for name, value in outputs.items()}
    return _append(reader, state._replace(text=text._replace(cache=cache), kept=state.kept | kept), logits)


def _append(reader: Reader, state: State, logits: jax.Array) -> State:
    """The text with a token chosen by `logits` `[rows, vocab]` behind each row."""
    text, request = state.text, reader.request
    step = text.length - request.prompt_len
    scores = reader.process(logits, text.tokens, text.length)
    offered = {"logits": logits, "scores": scores}
    kept = {name: _write(state.kept[name], value, step) for name, value in offered.items() if name in state.kept}
    if reader.program.sample:
        keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys(reader), step)
        token = jax.vmap(jax.random.categorical)(keys, scores)
    else:
        token = scores.argmax(-1)
    token = jnp.where(state.finished, request.pad_token_id, token).astype(jnp.int32)
    tokens = jax.lax.dynamic_update_slice(text.tokens, token[:, None], (0, text.length))
    finished, failed = state.finished | reader.ends(token), ~state.finished & reader.fails(logits)
    return State(Text(tokens, text.length + 1, text.cache), finished, failed, state.first, state.kept | kept)


def row_keys(reader: Reader) -> jax.Array:
    """A key for each row, so that what it draws does not depend on the other rows."""
    rng, repeats = reader.request.rng, reader.program.repeats
    prompts = len(reader.request.input_ids)
    if reader.request.seeds is not None:
        keys = jax.vmap(jax.random.key)(reader.request.seeds)
        if repeats == 1:
            return keys
        return jax.vmap(lambda key: jax.random.split(key, repeats))(keys).reshape(-1)
    if not jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
        rng = jax.random.wrap_key_data(rng) if rng.ndim else jax.random.key(rng)
    return jax.random.split(rng, prompts * repeats)


def _write(buffers: Any, values: Any, step: jax.Array) -> Any:
    return jax.tree.map(lambda buffer, value: buffer.at[step].set(value), buffers, values)

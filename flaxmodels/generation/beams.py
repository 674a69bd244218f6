"""Beam search and beam sampling (arXiv 1609.08144 for the length penalty), with the results of transformers."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxmodels.generation.reader import Reader
from flaxmodels.generation.sampling import row_keys
from flaxmodels.nn.cache import Cache, take_rows

_NEVER = -1e9
"""A score that no text can have; finite, so that sums of two remain comparable."""


class Beams(NamedTuple):
    """Texts of each prompt, the best first.

    Attributes:
        tokens: int32 `[batch, several, slots]`.
        scores: float32 `[batch, several]`, sums of log probabilities; of finished texts by their length.
        origins: int32 `[batch, several, room]`, of each new token the row of the step before that it continues; -1
            behind the end.
    """

    tokens: jax.Array
    scores: jax.Array
    origins: jax.Array

    def choose(self, count: int) -> tuple[jax.Array, Beams]:
        """The numbers and the texts of the `count` best."""
        _, best = jax.lax.top_k(self.scores, count)
        return best, self.take(best)

    def take(self, numbers: jax.Array) -> Beams:
        """The texts of these numbers, int32 `[batch, count]`."""
        pick = jax.vmap(lambda array, rows: array[rows])
        return Beams(*(pick(array, numbers) for array in self))


class State(NamedTuple):
    """`running` texts that can go on, `finished` ones, of which `done` `[batch, beams]` are any, and whether a prompt
    can still get better ones, `open` `[batch]`. `stuck`: every continuation of the last step has ended. `failed`: the
    prompts whose last logits were NaN or infinite, which ends the search, bool `[batch]`."""

    length: jax.Array
    cache: Cache
    running: Beams
    finished: Beams
    done: jax.Array
    open: jax.Array
    stuck: jax.Array
    failed: jax.Array
    kept: dict[str, Any]


def search(reader: Reader) -> State:
    """Read the prompts and search until nothing better can be found."""
    beams = reader.program.repeats
    text, outputs = reader.begin()
    batch = len(text.tokens) // beams
    request = reader.request
    slots = jnp.arange(reader.program.slots)
    blank = jnp.where((slots >= text.length)[None], request.numbers["fill"], text.tokens).reshape(batch, beams, -1)
    origins = jnp.full((batch, beams, reader.program.room), -1, jnp.int32)
    never = jnp.full((batch, beams), _NEVER)
    kept = {
        name: jnp.zeros((reader.program.room, *outputs["logits"].shape), jnp.float32)
        for name in ("scores", "logits")
        if f"output_{name}" in reader.program.wanted
    }
    state = State(
        text.length,
        text.cache,
        Beams(blank, never.at[:, 0].set(0.0), origins),
        Beams(blank, never, origins),
        jnp.zeros((batch, beams), bool),
        jnp.ones(batch, bool),
        jnp.zeros((), bool),
        jnp.zeros(batch, bool),
        kept,
    )
    state = _step(reader, state, outputs["logits"])

    def goes_on(state: State) -> jax.Array:
        full = state.done.all() & _early(reader)
        return state.open.any() & ~full & ~state.stuck & ~state.failed.any()

    def decode(state: State) -> State:
        flat = state.running.tokens.reshape(batch * beams, -1)
        last = jax.lax.dynamic_slice_in_dim(flat, state.length - 1, 1, axis=1)
        outputs, cache = reader(last, state.cache, 0)
        return _step(reader, state._replace(cache=cache), outputs["logits"])

    return jax.lax.while_loop(goes_on, decode, state)


def _early(reader: Reader) -> bool:
    return reader.program.variant[0] is True


def _step(reader: Reader, state: State, logits: jax.Array) -> State:
    """Continue every running text by the tokens that make the best ones, and put aside those that end."""
    request, (early, candidates) = reader.request, reader.program.variant
    beams = reader.program.repeats
    step = state.length - request.prompt_len
    log_probabilities = _log_probabilities(reader, state, logits)
    offered = _continue(reader, state, log_probabilities, candidates)
    tokens = jax.lax.dynamic_index_in_dim(offered.tokens, state.length, axis=2, keepdims=False)
    length = state.length + 1
    ended = reader.ends(tokens) | (step + 1 >= request.max_new_tokens)

    going = offered._replace(scores=offered.scores + _NEVER * ended)
    _, running = going.choose(beams)
    penalty = request.numbers["length_penalty"]
    new = step + 1
    blocked = (state.done.all(-1) & _early(reader)) | ~state.open
    may_finish = ended & (jnp.arange(candidates) < beams)[None]
    scores = offered.scores / new.astype(jnp.float32) ** penalty
    scores = scores + _NEVER * blocked[:, None] + _NEVER * ~may_finish
    joined = Beams(
        *(jnp.concatenate(pair, 1) for pair in zip(state.finished, offered._replace(scores=scores), strict=True))
    )
    best, finished = joined.choose(beams)
    done = jnp.take_along_axis(jnp.concatenate([state.done, may_finish], 1), best, axis=1)

    longest = jnp.where((early == "never") & (penalty > 0), request.max_new_tokens, new).astype(jnp.float32)
    possible = running.scores[:, 0] / longest**penalty
    worst = jnp.where(done, finished.scores.min(-1, keepdims=True), _NEVER)
    rows = jax.lax.dynamic_index_in_dim(running.origins, step, axis=2, keepdims=False).reshape(-1)
    records = {"logits": logits, "scores": log_probabilities}
    kept = {name: buffer.at[step].set(records[name]) for name, buffer in state.kept.items()}
    return State(
        length,
        take_rows(state.cache, rows),
        running,
        finished,
        done,
        state.open & (possible[:, None] > worst).any(-1),
        ended.all(),
        _failed(reader, state, logits),
        kept,
    )


def _failed(reader: Reader, state: State, logits: jax.Array) -> jax.Array:
    """Of the prompts that are searched for, bool `[batch]`; texts that only fill the number of beams do not count."""
    counts = (state.running.scores > _NEVER / 2) & state.open[:, None]
    return (reader.fails(logits).reshape(counts.shape) & counts).any(-1)


def _log_probabilities(reader: Reader, state: State, logits: jax.Array) -> jax.Array:
    batch, beams, slots = state.running.tokens.shape
    keep = reader.program.variant[1] // beams
    tokens = state.running.tokens.reshape(batch * beams, slots)
    return reader.process(jax.nn.log_softmax(logits), tokens, state.length, keep)


def _continue(reader: Reader, state: State, scores: jax.Array, candidates: int) -> Beams:
    """The best, or drawn, continuations of each prompt's running texts by one token."""
    running = state.running
    batch, beams, _ = running.tokens.shape
    step = state.length - reader.request.prompt_len
    scores = scores.reshape(batch, beams, -1) + running.scores[..., None]
    vocab = scores.shape[-1]
    flat = scores.reshape(batch, -1)
    if reader.program.sample:
        keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys(reader)[::beams], step)
        # The largest of scores with Gumbel noise are a sample without replacement (arXiv 1903.06059).
        noise = jax.vmap(lambda key: jax.random.gumbel(key, flat.shape[1:]))(keys)
        _, chosen = jax.lax.top_k(flat + noise, candidates)
    else:
        _, chosen = jax.lax.top_k(flat, candidates)
    origins, tokens = chosen // vocab, chosen % vocab
    best = running.take(origins)
    rows = origins + beams * jnp.arange(batch)[:, None]
    return Beams(
        best.tokens.at[:, :, state.length].set(tokens),
        jnp.take_along_axis(flat, chosen, axis=1),
        best.origins.at[:, :, step].set(rows),
    )

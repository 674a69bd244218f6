"""Beam search and beam sampling (arXiv 1609.08144 for the length penalty), with the results of transformers."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation.config import GenerationConfig
from flaxmodels.generation.logits import NO_TOKEN
from flaxmodels.generation.runner import DynamicInputs, ModelRunner, Sequences, StaticArgs, Strategy, runner_of
from flaxmodels.generation.sampling import row_keys, score_buffers
from flaxmodels.nn.cache import Cache, take_rows

_NEVER = -1e9
"""A score that no sequence can have; finite, so that sums of two remain comparable."""


def beam_strategy(settings: GenerationConfig, past_key_values: Any) -> Strategy:
    """The search that settings with several beams ask for.

    Raises:
        FlaxModelsError: outputs that a search does not keep, or a cache of an earlier result.
    """
    if unknown := [name for name in ("output_attentions", "output_hidden_states") if getattr(settings, name)]:
        raise FlaxModelsError(f"{unknown[0]} is not implemented for num_beams above 1; run the model on the result")
    if past_key_values is not None:
        raise FlaxModelsError("past_key_values do not go with num_beams, whose sequences share no cache")
    beams, ends = settings.num_beams, settings.eos_token_ids
    fill = (settings.pad_token_id or ends[0]) if ends else NO_TOKEN
    penalty = 1.0 if settings.length_penalty is None else settings.length_penalty
    static = (settings.early_stopping or False, beams * max(2, 1 + len(ends)))
    inputs = {"length_penalty": np.float32(penalty), "fill": np.int32(fill)}
    return Strategy(search_beams, beams, static, inputs)


class Beams(NamedTuple):
    """Sequences of each prompt, the best first.

    Attributes:
        tokens: int32 `[batch, several, cache_len]`.
        scores: float32 `[batch, several]`, sums of log probabilities; of finished sequences by their length.
        origins: int32 `[batch, several, max_new_tokens]`, of each new token the row of the step before that it
            continues; -1 after the end.
    """

    tokens: jax.Array
    scores: jax.Array
    origins: jax.Array

    def choose(self, count: int) -> tuple[jax.Array, Beams]:
        """The numbers, int32 `[batch, count]`, and the sequences of the `count` best."""
        _, best = jax.lax.top_k(self.scores, count)
        return best, self.take(best)

    def take(self, numbers: jax.Array) -> Beams:
        """The sequences of these numbers, int32 `[batch, count]`."""
        pick = jax.vmap(lambda array, rows: array[rows])
        return Beams(*(pick(array, numbers) for array in self))


class BeamState(NamedTuple):
    """How far the search is.

    Attributes:
        length: the length of the running sequences, int32.
        cache: the cache of the running sequences.
        running: the sequences that can go on.
        finished: those that have ended, of which `done` are any.
        done: bool `[batch, beams]`.
        open: bool `[batch]`, whether a prompt can still get better ones.
        stuck: whether every continuation of the last step has ended.
        failed: bool `[batch]`, the prompts whose last logits were NaN or infinite, which ends the search.
        of_tokens: what is kept of each new token, `[max_new_tokens, ...]`.
    """

    length: jax.Array
    cache: Cache
    running: Beams
    finished: Beams
    done: jax.Array
    open: jax.Array
    stuck: jax.Array
    failed: jax.Array
    of_tokens: dict[str, Any]


def search_beams(bind: Any, values: Any, inputs: DynamicInputs, *, static: StaticArgs) -> BeamState:
    """Prefill, and search until nothing better can be found: one program."""
    runner = runner_of(bind, values, inputs, static)
    sequences, outputs = runner.prefill()
    state = _begin(runner, sequences, score_buffers(static, outputs["logits"]))
    state = _step(runner, state, outputs["logits"])

    def goes_on(state: BeamState) -> jax.Array:
        full = state.done.all() & _early(runner)
        return state.open.any() & ~full & ~state.stuck & ~state.failed.any()

    def decode(state: BeamState) -> BeamState:
        tokens = state.running.tokens
        flat = tokens.reshape(-1, tokens.shape[-1])
        last = jax.lax.dynamic_slice_in_dim(flat, state.length - 1, 1, axis=1)
        outputs, cache = runner(last, state.cache, 0)
        return _step(runner, state._replace(cache=cache), outputs["logits"])

    return jax.lax.while_loop(goes_on, decode, state)


def _begin(runner: ModelRunner, sequences: Sequences, of_tokens: dict[str, Any]) -> BeamState:
    """The prompt of each row as its one running sequence."""
    static, beams = runner.static, runner.static.rows_per_prompt
    batch = len(sequences.tokens) // beams
    is_new = (jnp.arange(static.cache_len) >= sequences.length)[None]
    blank = jnp.where(is_new, runner.inputs.strategy["fill"], sequences.tokens).reshape(batch, beams, -1)
    origins = jnp.full((batch, beams, static.max_new_tokens), -1, jnp.int32)
    never = jnp.full((batch, beams), _NEVER)
    return BeamState(
        sequences.length,
        sequences.cache,
        Beams(blank, never.at[:, 0].set(0.0), origins),
        Beams(blank, never, origins),
        jnp.zeros((batch, beams), bool),
        jnp.ones(batch, bool),
        jnp.zeros((), bool),
        jnp.zeros(batch, bool),
        of_tokens,
    )


def _early(runner: ModelRunner) -> bool:
    return runner.static.strategy[0] is True


def _step(runner: ModelRunner, state: BeamState, logits: jax.Array) -> BeamState:
    """Continue every running sequence by the tokens that make the best ones, and put aside those that end."""
    inputs, candidates = runner.inputs, runner.static.strategy[1]
    step = state.length - inputs.prompt_len
    log_probabilities = _log_probabilities(runner, state, logits)
    offered = _continue(runner, state, log_probabilities, candidates)
    tokens = jax.lax.dynamic_index_in_dim(offered.tokens, state.length, axis=2, keepdims=False)
    ended = runner.ends(tokens) | (step + 1 >= inputs.max_new_tokens)

    going = offered._replace(scores=offered.scores + _NEVER * ended)
    _, running = going.choose(runner.static.rows_per_prompt)
    finished, done = _finish(runner, state, offered, ended)
    rows = jax.lax.dynamic_index_in_dim(running.origins, step, axis=2, keepdims=False).reshape(-1)
    kept = {"logits": logits, "scores": log_probabilities}
    return BeamState(
        state.length + 1,
        take_rows(state.cache, rows),
        running,
        finished,
        done,
        state.open & _can_improve(runner, running, finished, done, step + 1),
        ended.all(),
        _failed(runner, state, logits),
        {name: buffer.at[step].set(kept[name]) for name, buffer in state.of_tokens.items()},
    )


def _finish(runner: ModelRunner, state: BeamState, offered: Beams, ended: jax.Array) -> tuple[Beams, jax.Array]:
    """The best finished sequences, those that have `ended` among them, and which of them are any."""
    new = state.length - runner.inputs.prompt_len + 1
    beams = runner.static.rows_per_prompt
    blocked = (state.done.all(-1) & _early(runner)) | ~state.open
    may_finish = ended & (jnp.arange(ended.shape[-1]) < beams)[None]
    scores = offered.scores / new.astype(jnp.float32) ** runner.inputs.strategy["length_penalty"]
    scores = scores + _NEVER * blocked[:, None] + _NEVER * ~may_finish
    offered = offered._replace(scores=scores)
    joined = Beams(*(jnp.concatenate(pair, 1) for pair in zip(state.finished, offered, strict=True)))
    best, finished = joined.choose(beams)
    return finished, jnp.take_along_axis(jnp.concatenate([state.done, may_finish], 1), best, axis=1)


def _can_improve(runner: ModelRunner, running: Beams, finished: Beams, done: jax.Array, new: jax.Array) -> jax.Array:
    """bool `[batch]`: whether a running sequence may become better than the worst finished one."""
    penalty = runner.inputs.strategy["length_penalty"]
    is_never = runner.static.strategy[0] == "never"
    longest = jnp.where(is_never & (penalty > 0), runner.inputs.max_new_tokens, new).astype(jnp.float32)
    possible = running.scores[:, 0] / longest**penalty
    worst = jnp.where(done, finished.scores.min(-1, keepdims=True), _NEVER)
    return (possible[:, None] > worst).any(-1)


def _failed(runner: ModelRunner, state: BeamState, logits: jax.Array) -> jax.Array:
    """Of the prompts that are searched for, bool `[batch]`; sequences that only fill up the beams do not count."""
    counts = (state.running.scores > _NEVER / 2) & state.open[:, None]
    return (runner.fails(logits).reshape(counts.shape) & counts).any(-1)


def _log_probabilities(runner: ModelRunner, state: BeamState, logits: jax.Array) -> jax.Array:
    batch, beams, cache_len = state.running.tokens.shape
    keep = runner.static.strategy[1] // beams
    tokens = state.running.tokens.reshape(batch * beams, cache_len)
    return runner.process(jax.nn.log_softmax(logits), tokens, state.length, keep)


def _continue(runner: ModelRunner, state: BeamState, scores: jax.Array, candidates: int) -> Beams:
    """The best, or sampled, continuations of each prompt's running sequences by one token."""
    running = state.running
    batch, beams, _ = running.tokens.shape
    step = state.length - runner.inputs.prompt_len
    scores = scores.reshape(batch, beams, -1) + running.scores[..., None]
    vocab = scores.shape[-1]
    flat = scores.reshape(batch, -1)
    if runner.static.do_sample:
        keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys(runner)[::beams], step)
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

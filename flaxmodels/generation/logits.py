"""Logits processors: pure functions of scores, which work alone, under `jax.jit` and in `generate`.

Each takes scores, float32 `[rows, vocab]`, and the value of its setting, and returns scores of this shape in which
tokens that may not come have minus infinity. Those of `processing.PROCESSORS` also take the tokens so far, a `History`;
those of `processing.WARPERS` shape the distribution that tokens are sampled from. Numbers may be traced, so that others
do not compile anew. Names, order and results are those of transformers, but padding is never a part of a sequence.
Sources: top-k, arXiv 1805.04833; top-p, arXiv 1904.09751; typical, arXiv 2202.00666; epsilon and eta, arXiv 2210.15191;
min-p, arXiv 2407.01082; repetition, arXiv 1909.05858; frequency and presence, the OpenAI API.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Number = jax.Array | float | int
NO_TOKEN = -1
"""In a history: padding, or the position of a token to come. In a list of token ids: nothing."""
ANY_TOKEN = -2
"""In a list of sequences: what fills the shorter ones, on the left."""


class History(NamedTuple):
    """The tokens so far.

    Attributes:
        tokens: int32 `[rows, cache_len]`, of which the first `length` count; -1 is padding.
        length: int32, of prompt and completion, padding included.
        start: int32, of the prompt.
        stop: int32, the most that `length` can become.
        source: int32 `[rows, source_len]`, the tokens of an encoder's input; -1 is padding.
    """

    tokens: jax.Array
    length: Number
    start: Number
    stop: Number
    source: jax.Array | None = None


# ---- what may come next


def sequence_bias(scores: jax.Array, value: tuple[jax.Array, jax.Array], history: History) -> jax.Array:
    """Adds a bias to the last token of each sequence whose other tokens have just come.

    `value` is the sequences, int32 `[several, longest]`, filled on the left with `ANY_TOKEN`, and their biases.
    """
    sequences, bias = value
    width = sequences.shape[1] - 1
    tokens = jnp.pad(history.tokens, ((0, 0), (width, 0)), constant_values=NO_TOKEN)
    latest = jax.lax.dynamic_slice_in_dim(tokens, history.length, width, axis=1)
    before, last = sequences[:, :-1], sequences[:, -1]
    fits = ((latest[:, None] == before[None]) | (before == ANY_TOKEN)[None]).all(-1)
    added = jnp.where(fits, bias[None], 0.0)
    return scores.at[:, _ids(last, scores)].add(added, mode="drop")


def bad_words(scores: jax.Array, sequences: jax.Array, history: History) -> jax.Array:
    """Forbids sequences of tokens, int32 `[several, longest]`, filled on the left with `ANY_TOKEN`."""
    return sequence_bias(scores, (sequences, jnp.full(len(sequences), -jnp.inf)), history)


def repetition_penalty(scores: jax.Array, penalty: Number, history: History) -> jax.Array:
    """Tokens that are there already: positive scores are divided by `penalty`, negative ones multiplied."""
    penalised = jnp.where(scores < 0, scores * penalty, scores / penalty)
    return jnp.where(_counts(history.tokens, 0, history.length, scores) > 0, penalised, scores)


def encoder_repetition_penalty(scores: jax.Array, penalty: Number, history: History) -> jax.Array:
    """The tokens of the encoder's input: positive scores are multiplied by `penalty`, negative ones divided."""
    source = _source(history)
    raised = jnp.where(scores < 0, scores / penalty, scores * penalty)
    return jnp.where(_counts(source, 0, source.shape[1], scores) > 0, raised, scores)


def frequency_penalty(scores: jax.Array, penalty: Number, history: History) -> jax.Array:
    """Subtracts `penalty` for each time that a token has come in the completion."""
    return scores - penalty * _counts(history.tokens, history.start, history.length, scores)


def presence_penalty(scores: jax.Array, penalty: Number, history: History) -> jax.Array:
    """Subtracts `penalty` from tokens that have come in the completion."""
    return scores - penalty * (_counts(history.tokens, history.start, history.length, scores) > 0)


def no_repeat_ngram(scores: jax.Array, size: Number, history: History) -> jax.Array:
    """Forbids tokens that would end a run of `size` tokens that is there already; 0 forbids none."""
    return _without_ngrams(scores, size, history.tokens, history.length, history)


def encoder_no_repeat_ngram(scores: jax.Array, size: Number, history: History) -> jax.Array:
    """Forbids tokens that would end a run of `size` tokens that the encoder's input has."""
    source = _source(history)
    return _without_ngrams(scores, size, source, source.shape[1], history)


def min_length(scores: jax.Array, value: tuple[Number, jax.Array], history: History) -> jax.Array:
    """Forbids the ids `value[1]` as long as prompt and completion are shorter than `value[0]`."""
    return jnp.where(history.length < value[0], _forbid(scores, value[1]), scores)


def min_new_tokens(scores: jax.Array, value: tuple[Number, jax.Array], history: History) -> jax.Array:
    """Forbids the ids `value[1]` as long as the completion is shorter than `value[0]`."""
    return jnp.where(history.length < history.start + value[0], _forbid(scores, value[1]), scores)


def forced_bos(scores: jax.Array, token: Number, history: History) -> jax.Array:
    """Only `token` after the first one."""
    return jnp.where(history.length == 1, _only(scores, jnp.reshape(token, 1)), scores)


def forced_tokens(scores: jax.Array, value: jax.Array, history: History) -> jax.Array:
    """Only given tokens at given positions: int32 `[several, 2]` of position and token, counted from 0."""
    here = value[:, 0] == history.length
    token = jnp.where(here, value[:, 1], NO_TOKEN)
    return jnp.where(here.any(), _only(scores, token), scores)


def forced_eos(scores: jax.Array, tokens: jax.Array, history: History) -> jax.Array:
    """Only `tokens` as the last token that the length allows; int32 `[several]`."""
    return jnp.where(history.length == history.stop - 1, _only(scores, tokens), scores)


def remove_invalid_values(scores: jax.Array, value: Number, history: History) -> jax.Array:
    """NaN becomes 0, and infinities the largest numbers there are."""
    return jnp.nan_to_num(scores)


def exponential_decay_length_penalty(
    scores: jax.Array, value: tuple[Number, Number, jax.Array], history: History
) -> jax.Array:
    """Ids `value[2]` become likelier by a factor `value[1]` a token, once the completion is longer than `value[0]`."""
    start, factor, ends = value
    excess = history.length - history.start - start
    growth = jnp.power(jnp.float32(factor), excess) - 1
    ids = _ids(ends, scores)
    found = jnp.take(scores, ids, axis=-1, mode="fill", fill_value=0.0)
    extra = jnp.where((excess > 0) & jnp.isfinite(found), jnp.abs(found) * growth, 0.0)
    return scores.at[:, ids].set(found + extra, mode="drop")


def suppress_tokens(scores: jax.Array, tokens: jax.Array, history: History) -> jax.Array:
    """Forbids `tokens`."""
    return _forbid(scores, tokens)


def begin_suppress_tokens(scores: jax.Array, value: tuple[Number, jax.Array], history: History) -> jax.Array:
    """Forbids the ids `value[1]` as token number `value[0]` of the completion, counted from 0."""
    return jnp.where(history.length == history.start + value[0], _forbid(scores, value[1]), scores)


def timestamps(scores: jax.Array, value: tuple[Number, Number, Number], history: History) -> jax.Array:
    """The grammar of Whisper's timestamps, which are the tokens after the first of `value` (arXiv 2212.04356).

    They do not decrease, come in pairs but for the first one and that before the end, and one comes wherever all of
    them together are likelier than any other token. Text is below the second of `value`, the end. The completion begins
    with a timestamp that is at most the third.
    """
    quiet, end, first = value
    ids, positions = jnp.arange(scores.shape[-1])[None], jnp.arange(history.tokens.shape[1])[None]
    is_time, new = ids > quiet, history.length - history.start
    last, before = (
        jax.lax.dynamic_index_in_dim(history.tokens, jnp.maximum(history.length - back, 0), axis=1) for back in (1, 2)
    )
    opened = (new >= 1) & (last > quiet)
    paired = (new < 2) | (before > quiet)
    times = (history.tokens > quiet) & (positions >= history.start) & (positions < history.length)
    latest_position = jnp.where(times, positions, -1).max(-1, keepdims=True)
    newest = jnp.where(latest_position < 0, quiet, jnp.take_along_axis(history.tokens, latest_position, axis=1))
    least = jnp.where(opened & ~paired, newest, newest + 1)
    forbidden = (ids == quiet) | (is_time & (ids < least)) | (opened & jnp.where(paired, is_time, ids < end))
    forbidden |= (new == 0) & (~is_time | (ids > first))
    logs = jax.nn.log_softmax(jnp.where(forbidden, -jnp.inf, scores))
    time = jax.nn.logsumexp(jnp.where(is_time, logs, -jnp.inf), axis=-1, keepdims=True)
    text = jnp.where(is_time, -jnp.inf, logs).max(-1, keepdims=True)
    return jnp.where(forbidden | (~is_time & (time > text)), -jnp.inf, scores)


def logit_bias(scores: jax.Array, value: tuple[jax.Array, jax.Array], history: History) -> jax.Array:
    """Adds the biases `value[1]` to the ids `value[0]`."""
    return scores.at[:, _ids(value[0], scores)].add(value[1][None], mode="drop")


# ---- what is sampled from


def temperature(scores: jax.Array, value: Number, keep: Number = 1) -> jax.Array:
    """Divided by `value`, which is above 0: below 1 likely tokens become likelier."""
    return scores.astype(jnp.float32) / value


def top_k(scores: jax.Array, k: Number, keep: Number = 1) -> jax.Array:
    """Only the `k` likeliest tokens, at least `keep`, and those that tie with the last of them."""
    kept = _largest(scores, lambda kept: kept.sum(-1) >= jnp.maximum(k, keep))
    return _only_kept(scores, kept)


def top_p(scores: jax.Array, p: Number, keep: Number = 1) -> jax.Array:
    """Only the likeliest tokens, as many as reach probability `p` together; ties stay together."""
    probabilities = jax.nn.softmax(scores.astype(jnp.float32))

    def enough(kept: jax.Array) -> jax.Array:
        return (jnp.where(kept, 0.0, probabilities).sum(-1) <= 1 - p) & (kept.sum(-1) >= keep)

    return _only_kept(scores, _largest(scores, enough))


def min_p(scores: jax.Array, p: Number, keep: Number = 1) -> jax.Array:
    """Only tokens that have at least `p` times the probability of the likeliest."""
    probabilities = jax.nn.softmax(scores.astype(jnp.float32))
    return _above(scores, probabilities, p * probabilities.max(-1, keepdims=True), keep)


def typical_p(scores: jax.Array, mass: Number, keep: Number = 1) -> jax.Array:
    """Only the tokens whose surprise is closest to the expected one, as many as reach probability `mass`."""
    logs = jax.nn.log_softmax(scores.astype(jnp.float32))
    probabilities = jnp.exp(logs)
    distance = jnp.abs(-logs - _entropy(logs)[..., None])

    def enough(kept: jax.Array) -> jax.Array:
        return (jnp.where(kept, probabilities, 0.0).sum(-1) >= mass) & (kept.sum(-1) >= keep)

    return _only_kept(scores, _largest(-distance, enough))


def epsilon_cutoff(scores: jax.Array, epsilon: Number, keep: Number = 1) -> jax.Array:
    """Only tokens of at least probability `epsilon`."""
    return _above(scores, jax.nn.softmax(scores.astype(jnp.float32)), epsilon, keep)


def eta_cutoff(scores: jax.Array, epsilon: Number, keep: Number = 1) -> jax.Array:
    """Only tokens of at least probability min(epsilon, sqrt(epsilon) * exp(-entropy))."""
    logs = jax.nn.log_softmax(scores.astype(jnp.float32))
    eta = jnp.minimum(epsilon, jnp.sqrt(epsilon) * jnp.exp(-_entropy(logs)))[..., None]
    return _above(scores, jnp.exp(logs), eta, keep)


# ---- their parts


def _ids(tokens: jax.Array, scores: jax.Array) -> jax.Array:
    """Ids for a scatter that drops what is no token: a negative index would count from the end."""
    return jnp.where(tokens < 0, scores.shape[-1], tokens)


def _forbid(scores: jax.Array, tokens: jax.Array) -> jax.Array:
    return scores.at[:, _ids(tokens, scores)].set(-jnp.inf, mode="drop")


def _only(scores: jax.Array, tokens: jax.Array) -> jax.Array:
    return jnp.full_like(scores, -jnp.inf).at[:, _ids(tokens, scores)].set(0.0, mode="drop")


def _only_kept(scores: jax.Array, kept: jax.Array) -> jax.Array:
    return jnp.where(kept, scores.astype(jnp.float32), -jnp.inf)


def _source(history: History) -> jax.Array:
    assert history.source is not None
    return history.source


def _counts(tokens: jax.Array, start: Number, stop: Number, scores: jax.Array) -> jax.Array:
    """How often each token is among `tokens[:, start:stop]`, `[rows, vocab]`."""
    positions = jnp.arange(tokens.shape[1])
    counted = (positions >= start) & (positions < stop)
    ids = jnp.where(counted[None], _ids(tokens, scores), scores.shape[-1])
    return jnp.zeros_like(scores).at[jnp.arange(len(tokens))[:, None], ids].add(1, mode="drop")


def _without_ngrams(
    scores: jax.Array, size: Number, sequence: jax.Array, length: Number, history: History
) -> jax.Array:
    """Forbids each token of `sequence[:, :length]` before which come the last `size - 1` tokens of the history."""
    positions = jnp.arange(sequence.shape[1])

    def compare(back: jax.Array, same: jax.Array) -> jax.Array:
        latest = jax.lax.dynamic_index_in_dim(history.tokens, history.length - back, axis=1)
        return same & (jnp.roll(sequence, back, axis=1) == latest) & (latest != NO_TOKEN)

    ends = jnp.broadcast_to(((positions >= size - 1) & (positions < length))[None], sequence.shape)
    possible = (history.length >= size - 1) & (size > 0)
    ends = jax.lax.fori_loop(1, jnp.where(possible, size, 1), compare, ends & possible)
    ids = jnp.where(ends, _ids(sequence, scores), scores.shape[-1])
    return scores.at[jnp.arange(len(sequence))[:, None], ids].set(-jnp.inf, mode="drop")


def _entropy(logs: jax.Array) -> jax.Array:
    return -jnp.where(jnp.isneginf(logs), 0.0, jnp.exp(logs) * logs).sum(-1)


def _above(scores: jax.Array, probabilities: jax.Array, least: Number, keep: Number) -> jax.Array:
    """The tokens of at least probability `least`, and the `keep` likeliest."""
    if isinstance(keep, int) and keep == 1:
        likeliest = scores >= scores.max(-1, keepdims=True)
    else:
        likeliest = _largest(scores, lambda kept: kept.sum(-1) >= keep)
    return _only_kept(scores, (probabilities >= least) | likeliest)


def _largest(keys: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """A mask of the fewest largest keys that are enough, ties included, and at least of the largest one.

    `enough` is asked about such masks. The threshold is found bit by bit, because on a CPU the 32 passes over a
    vocabulary of 49,152 take a tenth of the time of sorting it.
    """
    order = _as_ordered_integers(keys.astype(jnp.float32))

    def refine(bit: jax.Array, threshold: jax.Array) -> jax.Array:
        higher = threshold + (jnp.int32(1) << (31 - bit))
        return jnp.where(enough(order >= higher[..., None]), higher, threshold)

    lowest = jnp.full(keys.shape[:-1], jnp.iinfo(jnp.int32).min)
    threshold = jnp.minimum(jax.lax.fori_loop(0, 32, refine, lowest), order.max(-1))
    return order >= threshold[..., None]


def _as_ordered_integers(keys: jax.Array) -> jax.Array:
    """int32 that compare as float32 do, the two zeros as equal."""
    bits = jax.lax.bitcast_convert_type(jnp.where(keys == 0, 0.0, keys), jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.iinfo(jnp.int32).max, bits)

"""Speculative decoding (arXiv 2211.17192): several tokens are guessed, then checked in one pass of the model.

Guesses come from a smaller model, or from what followed the last tokens earlier in the text (prompt lookup). Greedy
decoding gives the tokens that it would give alone; drawn tokens have the distribution that they would have alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxmodels.generation.logits import NO_TOKEN
from flaxmodels.generation.reader import Reader, Text
from flaxmodels.generation.sampling import row_keys
from flaxmodels.nn.cache import Cache, rewound


class State(NamedTuple):
    """The text of one row, whether it has ended, whether the logits of its last token were NaN or infinite, bool `[1]`,
    the draft model's cache, and how many passes there were."""

    text: Text
    finished: jax.Array
    failed: jax.Array
    draft: Cache | None
    passes: jax.Array


class Guess(NamedTuple):
    """Guessed tokens, int32 `[guesses]`, -1 for none, and the probabilities they were drawn with `[guesses, vocab]`."""

    tokens: jax.Array
    probabilities: jax.Array | None
    cache: Cache | None


def decode(reader: Reader, draft: Reader | None) -> State:
    """Read the prompt and decode until the text ends.

    Args:
        reader: of the model, whose `program.variant` is the number of guesses a pass.
        draft: of the smaller model; `None` looks the guesses up in the text.
    """
    request = reader.request
    text, outputs = reader.begin()
    first = _choose(reader, reader.process(outputs["logits"], text.tokens, text.length), text.length)
    tokens = jax.lax.dynamic_update_slice(text.tokens, first[:, None], (0, text.length))
    cache = None if draft is None else draft.begin()[0].cache
    text, failed = Text(tokens, text.length + 1, text.cache), reader.fails(outputs["logits"])
    state = State(text, reader.ends(first)[0], failed, cache, jnp.ones((), jnp.int32))
    guess = _looked_up(reader) if draft is None else _drafted(reader, draft)
    stop = request.prompt_len + request.max_new_tokens

    return jax.lax.while_loop(
        lambda state: (state.text.length < stop) & ~state.finished & ~state.failed.any(),
        lambda state: _check(reader, state, guess(state), stop),
        state,
    )


def _drafted(reader: Reader, draft: Reader) -> Callable[[State], Guess]:
    """Guesses of a smaller model, which reads what its cache lacks and then its own guesses."""
    (count,) = reader.program.variant

    def guess(state: State) -> Guess:
        tokens, length, _ = state.text
        assert state.draft is not None
        # Between two passes the draft's cache lacks the last token, or the last two.
        behind = rewound(state.draft, length - 2)
        last = jax.lax.dynamic_slice_in_dim(tokens, length - 2, 2, axis=1)
        outputs, cache = draft(last, behind, 1)
        guessed, chances = [], []
        for number in range(count):
            scores = reader.process(outputs["logits"], tokens, length + number)
            token = _choose(reader, scores, length + number, salt=1)
            tokens = jax.lax.dynamic_update_slice(tokens, token[:, None], (0, length + number))
            guessed.append(token[0])
            chances.append(jax.nn.softmax(scores[0]))
            if number + 1 < count:
                outputs, cache = draft(token[:, None], cache, 0)
        return Guess(jnp.stack(guessed), jnp.stack(chances) if reader.program.sample else None, cache)

    return guess


def _looked_up(reader: Reader) -> Callable[[State], Guess]:
    """What followed the first place where the longest run of the last tokens of the text stands."""
    (count,) = reader.program.variant
    longest = reader.request.numbers["max_matching_ngram_size"]

    def guess(state: State) -> Guess:
        tokens, length, _ = state.text
        row = tokens[0]
        places = jnp.arange(len(row))

        def compare(found: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            back, same, run = found
            last = row[jnp.maximum(length - 1 - back, 0)]
            same = same & (jnp.roll(row, back) == last) & (places >= back) & (last != NO_TOKEN) & (length > back)
            return back + 1, same, run + same

        start = (jnp.zeros((), jnp.int32), places < length - 1, jnp.zeros_like(row))
        _, _, run = jax.lax.while_loop(lambda found: (found[0] < longest) & found[1].any(), compare, start)
        best = jnp.argmax(run)
        ahead = best + 1 + jnp.arange(count)
        follows = (run[best] > 0) & (ahead < length)
        return Guess(jnp.where(follows, row[jnp.minimum(ahead, len(row) - 1)], NO_TOKEN), None, None)

    return guess


def _check(reader: Reader, state: State, guess: Guess, stop: jax.Array) -> State:
    """Read the guesses, keep those that stand, and add the token that the model itself puts behind them."""
    text, count = state.text, len(guess.tokens)
    length = text.length
    drafted = jax.lax.dynamic_update_slice(text.tokens, jnp.maximum(guess.tokens, 0)[None], (0, length))
    read = jax.lax.dynamic_slice_in_dim(drafted, length - 1, count + 1, axis=1)
    outputs, cache = reader(read, text.cache, None)

    def score(number: jax.Array, logits: jax.Array) -> jax.Array:
        return reader.process(logits[None], drafted, length + number)[0]

    numbers = jnp.arange(count + 1)
    scores = jax.lax.map(lambda pair: score(*pair), (numbers, outputs["logits"][0]))
    if reader.program.sample:
        stands, own = _draw(reader, scores, guess, length)
    else:
        own = scores.argmax(-1).astype(jnp.int32)
        stands = own[:count] == guess.tokens
    kept = jnp.cumprod(stands & (guess.tokens >= 0)).sum()
    chosen = jnp.where(numbers < kept, jnp.append(guess.tokens, 0), own)
    ends = reader.ends(chosen) & (numbers <= kept)
    added = jnp.minimum(jnp.where(ends.any(), jnp.argmax(ends), kept) + 1, stop - length)
    fails = reader.fails(outputs["logits"][0]) & (numbers < added)
    added = jnp.where(fails.any(), jnp.argmax(fails) + 1, added)
    tokens = jax.lax.dynamic_update_slice(
        text.tokens, jnp.where(numbers < added, chosen, NO_TOKEN)[None].astype(jnp.int32), (0, length)
    )
    finished = (ends & (numbers < added)).any()
    cache = rewound(cache, length + added - 1)
    text = Text(tokens, length + added, cache)
    return State(text, finished, fails.any(keepdims=True), guess.cache, state.passes + 1)


def _draw(reader: Reader, scores: jax.Array, guess: Guess, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which guesses stand, and the token to put in the place of each one, or behind the last."""
    count = len(guess.tokens)
    chances = jax.nn.softmax(scores)
    guessed = jax.nn.one_hot(guess.tokens, scores.shape[-1]) if guess.probabilities is None else guess.probabilities
    ids = jnp.maximum(guess.tokens, 0)[:, None]
    wanted = jnp.take_along_axis(chances[:count], ids, 1)[:, 0]
    offered = jnp.take_along_axis(guessed, ids, 1)[:, 0]
    places = length + jnp.arange(count + 1)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    stands = jax.vmap(jax.random.uniform)(fold(_key(reader, 2), places[:count])) * offered < wanted
    rest = jnp.maximum(chances[:count] - guessed, 0.0)
    rest = jnp.where((guess.tokens >= 0)[:, None] & (rest.sum(-1, keepdims=True) > 0), rest, chances[:count])
    own = jax.vmap(jax.random.categorical)(
        fold(_key(reader, 3), places), jnp.log(jnp.concatenate([rest, chances[count:]]))
    )
    return stands, own.astype(jnp.int32)


def _key(reader: Reader, salt: int) -> jax.Array:
    return jax.random.fold_in(row_keys(reader)[0], salt)


def _choose(reader: Reader, scores: jax.Array, length: jax.Array, salt: int = 0) -> jax.Array:
    """int32 `[1]`."""
    if not reader.program.sample:
        return scores.argmax(-1).astype(jnp.int32)
    return jax.random.categorical(jax.random.fold_in(_key(reader, salt), length), scores).astype(jnp.int32)

"""Speculative decoding (arXiv 2211.17192): several tokens are drafted, then checked in one pass of the model.

Draft tokens come from a smaller model, or from what followed the last tokens earlier in the sequence (prompt lookup).
Greedy decoding gives the tokens that it would give alone; sampled tokens have the distribution that they would have
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution.structure import structure_of
from flaxmodels.generation.config import GenerationConfig, kept_outputs
from flaxmodels.generation.logits import NO_TOKEN
from flaxmodels.generation.processing import int32
from flaxmodels.generation.prompt import Prompt
from flaxmodels.generation.runner import DynamicInputs, ModelRunner, Sequences, StaticArgs, Strategy, runner_of
from flaxmodels.generation.sampling import row_keys
from flaxmodels.nn.cache import Cache, max_rewind, rewound

MAX_ASSISTANT_TOKENS = 64


def speculative_strategy(
    model: Any, prompt: Prompt, settings: GenerationConfig, most: int, assistant_model: Any, assistant_params: Any
) -> Strategy:
    """Decoding with draft tokens, at most `most` a pass, of the assistant model, or if that is `None` of the sequence.

    Raises:
        FlaxModelsError: several prompts or completions, outputs that are not kept, a draft model that does not fit, or
            more than `MAX_ASSISTANT_TOKENS` draft tokens of it.
    """
    count = min(_num_draft_tokens(settings, assistant_model), most)
    _check(model, prompt, settings, assistant_model)
    inputs = {"max_matching_ngram_size": int32(settings.max_matching_ngram_size or 2)}
    if assistant_model is None:
        return Strategy(look_up_tokens, static=(count,), inputs=inputs, overshoot=count + 1)
    draft = (assistant_model, structure_of(assistant_model).values(assistant_params))
    return Strategy(draft_tokens, static=(count,), inputs=inputs, overshoot=count + 1, draft=draft)


def _num_draft_tokens(settings: GenerationConfig, assistant_model: Any) -> int:
    """How many tokens are drafted at once."""
    if assistant_model is None:
        return settings.prompt_lookup_num_tokens or 0
    count = settings.num_assistant_tokens or 5
    if count > MAX_ASSISTANT_TOKENS:
        raise FlaxModelsError(
            f"num_assistant_tokens={count}: expected at most {MAX_ASSISTANT_TOKENS}, each of which is compiled"
        )
    return count


def _check(model: Any, prompt: Prompt, settings: GenerationConfig, assistant_model: Any) -> None:
    who = "draft tokens (assistant_model, prompt_lookup_num_tokens)"
    if len(prompt.input_ids) > 1:
        raise FlaxModelsError(
            f"{who} are for one prompt, not for {len(prompt.input_ids)}, whose completions would grow at different "
            "paces"
        )
    if (settings.num_beams or 1) > 1 or (settings.num_return_sequences or 1) > 1:
        raise FlaxModelsError(f"{who} are for one completion; use neither num_beams nor num_return_sequences")
    if wanted := kept_outputs(settings):
        raise FlaxModelsError(f"{wanted[0]} is not implemented for {who}")
    _check_rewinds(model, who)
    if assistant_model is not None:
        _check_assistant(model, settings, assistant_model)
        _check_rewinds(assistant_model, who)


def _check_assistant(model: Any, settings: GenerationConfig, assistant_model: Any) -> None:
    if settings.prompt_lookup_num_tokens:
        raise FlaxModelsError("assistant_model and prompt_lookup_num_tokens both draft tokens; give one")
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


def _check_rewinds(model: Any, who: str) -> None:
    if max_rewind(jax.eval_shape(lambda: model.init_cache(1, 1))) < MAX_ASSISTANT_TOKENS:
        raise FlaxModelsError(f"{who} need a cache that can forget wrong ones; that of {type(model).__name__} cannot")


class SpeculationState(NamedTuple):
    """How far decoding is.

    Attributes:
        sequences: the sequence, of one row.
        finished: bool, whether it has ended.
        failed: bool `[1]`, whether the logits of its last token were NaN or infinite.
        draft_cache: the cache of the draft model.
        passes: int32, how often the model was run.
    """

    sequences: Sequences
    finished: jax.Array
    failed: jax.Array
    draft_cache: Cache | None
    passes: jax.Array


class Draft(NamedTuple):
    """Draft tokens, int32 `[count]`, -1 for none, and the probabilities they were sampled with `[count, vocab]`."""

    tokens: jax.Array
    probabilities: jax.Array | None
    cache: Cache | None


def look_up_tokens(bind: Any, values: Any, inputs: DynamicInputs, *, static: StaticArgs) -> SpeculationState:
    """Decode with draft tokens from the sequence itself: one program."""
    runner = runner_of(bind, values, inputs, static)
    return _decode(runner, None, _looked_up(runner))


def draft_tokens(
    bind: Any, bind_draft: Any, values: Any, draft_values: Any, inputs: DynamicInputs, *, static: StaticArgs
) -> SpeculationState:
    """Decode with draft tokens of a smaller model: one program."""
    runner = runner_of(bind, values, inputs, static)
    whole = replace(static, prefill_len=inputs.input_ids.shape[1])  # the cache of the model is not that of the draft
    drafter = runner_of(bind_draft, draft_values, inputs._replace(cache=None, cached=0), whole)
    return _decode(runner, drafter, _drafted(runner, drafter))


def _decode(
    runner: ModelRunner, drafter: ModelRunner | None, draft: Callable[[SpeculationState], Draft]
) -> SpeculationState:
    """Prefill, and decode until the sequence ends."""
    inputs = runner.inputs
    sequences, outputs = runner.prefill()
    tokens, length, cache = sequences
    first = _choose(runner, runner.process(outputs["logits"], tokens, length), length)
    tokens = jax.lax.dynamic_update_slice(tokens, first[:, None], (0, length))
    draft_cache = None if drafter is None else drafter.prefill()[0].cache
    state = SpeculationState(
        Sequences(tokens, length + 1, cache),
        runner.ends(first)[0],
        runner.fails(outputs["logits"]),
        draft_cache,
        jnp.ones((), jnp.int32),
    )
    stop = inputs.prompt_len + inputs.max_new_tokens
    return jax.lax.while_loop(
        lambda state: (state.sequences.length < stop) & ~state.finished & ~state.failed.any(),
        lambda state: _verify(runner, state, draft(state), stop),
        state,
    )


def _drafted(runner: ModelRunner, drafter: ModelRunner) -> Callable[[SpeculationState], Draft]:
    """Draft tokens of a smaller model, which reads what its cache lacks and then its own tokens."""
    (count,) = runner.static.strategy

    def draft(state: SpeculationState) -> Draft:
        tokens, length, _ = state.sequences
        assert state.draft_cache is not None
        # Between two passes the draft's cache lacks the last token, or the last two.
        before = rewound(state.draft_cache, length - 2)
        last = jax.lax.dynamic_slice_in_dim(tokens, length - 2, 2, axis=1)
        outputs, cache = drafter(last, before, 1)
        drafted, probabilities = [], []
        for number in range(count):
            scores = runner.process(outputs["logits"], tokens, length + number)
            token = _choose(runner, scores, length + number, salt=1)
            tokens = jax.lax.dynamic_update_slice(tokens, token[:, None], (0, length + number))
            drafted.append(token[0])
            probabilities.append(jax.nn.softmax(scores[0]))
            if number + 1 < count:
                outputs, cache = drafter(token[:, None], cache, 0)
        return Draft(jnp.stack(drafted), jnp.stack(probabilities) if runner.static.do_sample else None, cache)

    return draft


def _looked_up(runner: ModelRunner) -> Callable[[SpeculationState], Draft]:
    """What followed the first occurrence of the longest run of the last tokens of the sequence."""
    (count,) = runner.static.strategy
    longest = runner.inputs.strategy["max_matching_ngram_size"]

    def draft(state: SpeculationState) -> Draft:
        tokens, length, _ = state.sequences
        row = tokens[0]
        positions = jnp.arange(len(row))

        def compare(found: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            back, same, run = found
            last = row[jnp.maximum(length - 1 - back, 0)]
            same = same & (jnp.roll(row, back) == last) & (positions >= back) & (last != NO_TOKEN) & (length > back)
            return back + 1, same, run + same

        start = (jnp.zeros((), jnp.int32), positions < length - 1, jnp.zeros_like(row))
        _, _, run = jax.lax.while_loop(lambda found: (found[0] < longest) & found[1].any(), compare, start)
        best = jnp.argmax(run)
        ahead = best + 1 + jnp.arange(count)
        follows = (run[best] > 0) & (ahead < length)
        return Draft(jnp.where(follows, row[jnp.minimum(ahead, len(row) - 1)], NO_TOKEN), None, None)

    return draft


def _verify(runner: ModelRunner, state: SpeculationState, draft: Draft, stop: jax.Array) -> SpeculationState:
    """Read the draft tokens, keep those that are accepted, and add the token that the model itself puts after them."""
    sequences, count = state.sequences, len(draft.tokens)
    length = sequences.length
    drafted = jax.lax.dynamic_update_slice(sequences.tokens, jnp.maximum(draft.tokens, 0)[None], (0, length))
    read = jax.lax.dynamic_slice_in_dim(drafted, length - 1, count + 1, axis=1)
    outputs, cache = runner(read, sequences.cache, None)
    logits = outputs["logits"][0]

    def score(number: jax.Array, logits: jax.Array) -> jax.Array:
        return runner.process(logits[None], drafted, length + number)[0]

    numbers = jnp.arange(count + 1)
    scores = jax.lax.map(lambda pair: score(*pair), (numbers, logits))
    if runner.static.do_sample:
        accepted, own = _sample(runner, scores, draft, length)
    else:
        own = scores.argmax(-1).astype(jnp.int32)
        accepted = own[:count] == draft.tokens
    kept = jnp.cumprod(accepted & (draft.tokens >= 0)).sum()
    chosen = jnp.where(numbers < kept, jnp.append(draft.tokens, 0), own)
    ends = runner.ends(chosen) & (numbers <= kept)
    added = jnp.minimum(jnp.where(ends.any(), jnp.argmax(ends), kept) + 1, stop - length)
    fails = runner.fails(logits) & (numbers < added)
    added = jnp.where(fails.any(), jnp.argmax(fails) + 1, added)
    new = jnp.where(numbers < added, chosen, NO_TOKEN)[None].astype(jnp.int32)
    tokens = jax.lax.dynamic_update_slice(sequences.tokens, new, (0, length))
    sequences = Sequences(tokens, length + added, rewound(cache, length + added - 1))
    finished = (ends & (numbers < added)).any()
    return SpeculationState(sequences, finished, fails.any(keepdims=True), draft.cache, state.passes + 1)


def _sample(runner: ModelRunner, scores: jax.Array, draft: Draft, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which draft tokens are accepted, and the token to put in place of each one, or after the last."""
    count = len(draft.tokens)
    chances = jax.nn.softmax(scores)
    drafted = jax.nn.one_hot(draft.tokens, scores.shape[-1]) if draft.probabilities is None else draft.probabilities
    ids = jnp.maximum(draft.tokens, 0)[:, None]
    wanted = jnp.take_along_axis(chances[:count], ids, 1)[:, 0]
    offered = jnp.take_along_axis(drafted, ids, 1)[:, 0]
    positions = length + jnp.arange(count + 1)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    accepted = jax.vmap(jax.random.uniform)(fold(_key(runner, 2), positions[:count])) * offered < wanted
    rest = jnp.maximum(chances[:count] - drafted, 0.0)
    rest = jnp.where((draft.tokens >= 0)[:, None] & (rest.sum(-1, keepdims=True) > 0), rest, chances[:count])
    own = jax.vmap(jax.random.categorical)(
        fold(_key(runner, 3), positions), jnp.log(jnp.concatenate([rest, chances[count:]]))
    )
    return accepted, own.astype(jnp.int32)


def _key(runner: ModelRunner, salt: int) -> jax.Array:
    return jax.random.fold_in(row_keys(runner)[0], salt)


def _choose(runner: ModelRunner, scores: jax.Array, length: jax.Array, salt: int = 0) -> jax.Array:
    """int32 `[1]`."""
    if not runner.static.do_sample:
        return scores.argmax(-1).astype(jnp.int32)
    return jax.random.categorical(jax.random.fold_in(_key(runner, salt), length), scores).astype(jnp.int32)

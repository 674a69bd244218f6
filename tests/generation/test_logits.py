"""Logits processors beside those of transformers, or beside a loop where it has none."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process

from flaxmodels.generation.config import GenerationConfig
from flaxmodels.generation.logits import ANY_TOKEN, NO_TOKEN, History, temperature, top_k, top_p
from flaxmodels.generation.processing import PROCESSORS, WARPERS, process, processor_values

THEIR_WARPERS = {
    "temperature": logits_process.TemperatureLogitsWarper,
    "top_k": logits_process.TopKLogitsWarper,
    "top_p": logits_process.TopPLogitsWarper,
    "min_p": logits_process.MinPLogitsWarper,
    "typical_p": logits_process.TypicalLogitsWarper,
    "epsilon_cutoff": logits_process.EpsilonLogitsWarper,
    "eta_cutoff": logits_process.EtaLogitsWarper,
}
OURS = {"temperature": temperature, "top_k": top_k, "top_p": top_p}


def random_scores(shape=(4, 211), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32)


def warped(scores: np.ndarray, **settings) -> np.ndarray:
    """The scores after the warpers of transformers, in the order of `settings`."""
    tensor = torch.tensor(scores)
    for name, value in settings.items():
        tensor = THEIR_WARPERS[name](value)(torch.zeros(len(scores), 1, dtype=torch.long), tensor)
    return tensor.numpy()


def assert_same(ours, theirs) -> None:
    """The same tokens are removed; the others differ by the rounding of a division."""
    np.testing.assert_allclose(ours, theirs, rtol=2e-7)


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", value) for value in (0.3, 1.0, 2.5)]
    + [("top_k", value) for value in (1, 2, 17, 210, 211, 5000)]
    + [("top_p", value) for value in (1e-9, 0.2, 0.5, 0.9, 0.999)],
)
def test_a_processor_equals_its_warper(name, value):
    scores = random_scores()
    assert_same(jax.jit(OURS[name])(scores, value), warped(scores, **{name: value}))


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
        {"top_k": 3, "top_p": 0.99},
        {"temperature": 3.0, "top_p": 0.5},
        {"temperature": 1.5, "top_k": 40},
        {},
    ],
)
def test_processors_apply_in_the_order_of_transformers(settings):
    scores = random_scores(seed=1)
    assert_same(process(scores, dict(reversed(settings.items()))), warped(scores, **settings))


def test_tokens_that_tie_with_the_last_one_stay():
    scores = np.array([[1.0, 5.0, 3.0, 3.0, 3.0, -2.0]], np.float32)
    expected = [[-np.inf, 5.0, 3.0, 3.0, 3.0, -np.inf]]
    np.testing.assert_array_equal(top_k(scores, 2), expected)
    np.testing.assert_array_equal(top_k(scores, 2), warped(scores, top_k=2))
    np.testing.assert_array_equal(top_p(scores, 0.85), expected)


def test_the_token_that_crosses_the_threshold_stays():
    scores = np.log([[0.5, 0.3, 0.15, 0.05]]).astype(np.float32)
    assert np.isfinite(top_p(scores, 0.6)).tolist() == [[True, True, False, False]]
    assert np.isfinite(top_p(scores, 0.4)).tolist() == [[True, False, False, False]]


def test_removed_tokens_stay_removed():
    scores = np.where(np.arange(211) % 2, random_scores(), -np.inf)
    np.testing.assert_array_equal(top_k(scores, 150), scores)
    np.testing.assert_array_equal(top_p(scores, 0.9), warped(scores, top_p=0.9))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_any_shape_and_dtype_gives_float32(dtype):
    scores = jnp.asarray(random_scores((2, 3, 50)), dtype)
    for name, value in {"temperature": 0.5, "top_k": 7, "top_p": 0.7}.items():
        result = OURS[name](scores, value)
        assert (result.shape, result.dtype) == (scores.shape, jnp.float32)
        expected = warped(np.asarray(scores, np.float32).reshape(6, 50), **{name: value})
        assert_same(result.reshape(6, 50), expected)
    assert process(scores, {}).dtype == jnp.float32


def test_the_two_zeros_tie():
    scores = np.array([[0.0, -0.0, -1.0, 0.0]], np.float32)
    assert np.isfinite(top_k(scores, 1)).tolist() == np.isfinite(warped(scores, top_k=1)).tolist()
    assert np.isfinite(top_k(scores, 1)).sum() == 3


# ---- sequences

VOCAB, ROWS, CACHE_LEN, STOP = 50, 4, 45, 31
LETTERS = 3
"""So few tokens come in sequences that runs of them come again."""


class Sample(NamedTuple):
    """Sequences as ours and as theirs are given it."""

    history: History
    tokens: torch.Tensor
    source: torch.Tensor
    start: int

    @classmethod
    def random(cls, length: int, seed: int, letters: Sequence[int] | None = None) -> Sample:
        """A random one, with random tokens after its `length`."""
        rng = np.random.default_rng([seed, length])
        letters = rng.choice(VOCAB, LETTERS, replace=False).tolist() if letters is None else letters
        tokens, source = (rng.choice(list(letters), (ROWS, count)).astype(np.int32) for count in (CACHE_LEN, 12))
        start = (length + 1) // 2
        history = History(tokens, np.int32(length), np.int32(start), np.int32(STOP), source)
        theirs = [torch.tensor(array, dtype=torch.long) for array in (tokens[:, :length], source)]
        return cls(history, *theirs, start=start)


LENGTHS = (1, 2, 3, 5, 12, 30, 40)


@functools.cache
def compiled(name: str, static: str | None = None) -> Callable[..., jax.Array]:
    return jax.jit((PROCESSORS | WARPERS)[name], static_argnames=static)


def on_the_left(sequences) -> np.ndarray:
    """int32 `[several, longest]`, filled with `ANY_TOKEN`."""
    longest = max(map(len, sequences))
    return np.array([[ANY_TOKEN] * (longest - len(row)) + list(row) for row in sequences], np.int32)


def array(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


def some_sequences(sample: Sample) -> dict[tuple[int, ...], float]:
    """Of one to four tokens, and biases. In some rows all but the last token have just come."""
    a, b, *_ = np.unique(sample.history.tokens).tolist()
    just_come = [(*row[-count:], a) for row, count in zip(sample.tokens.tolist(), (1, 2, 3, 3), strict=True)]
    sequences = dict.fromkeys([(a,), (7,), (a, b), (b, b, a), (b, a, a, 9), *just_come])
    return {ids: float(number) - 3.5 for number, ids in enumerate(sequences)}


class Case(NamedTuple):
    """Of a sample, what ours is given and the processor of theirs."""

    name: str
    ours: Callable[[Sample], Any]
    theirs: Callable[[Sample], logits_process.LogitsProcessor]


def of_numbers(name: str, kind: type, values, theirs) -> list[Case]:
    return [Case(name, lambda _, v=value: kind(v), functools.partial(theirs, value=value)) for value in values]


CASES = [
    Case(
        "sequence_bias",
        lambda sample: (on_the_left(some_sequences(sample)), np.array([*some_sequences(sample).values()], np.float32)),
        lambda sample: logits_process.SequenceBiasLogitsProcessor(some_sequences(sample)),
    ),
    Case(
        "bad_words_ids",
        lambda sample: on_the_left(some_sequences(sample)),
        lambda sample: logits_process.NoBadWordsLogitsProcessor(list(map(list, some_sequences(sample)))),
    ),
    *of_numbers(
        "repetition_penalty",
        np.float32,
        (0.4, 1.7),
        lambda _, value: logits_process.RepetitionPenaltyLogitsProcessor(value),
    ),
    *of_numbers(
        "encoder_repetition_penalty",
        np.float32,
        (0.4, 1.7),
        lambda sample, value: logits_process.EncoderRepetitionPenaltyLogitsProcessor(value, sample.source),
    ),
    *of_numbers(
        "no_repeat_ngram_size",
        np.int32,
        (1, 2, 3, 4, 5),
        lambda _, value: logits_process.NoRepeatNGramLogitsProcessor(value),
    ),
    *of_numbers(
        "encoder_no_repeat_ngram_size",
        np.int32,
        (1, 2, 3, 4),
        lambda sample, value: logits_process.EncoderNoRepeatNGramLogitsProcessor(value, sample.source),
    ),
    *[
        Case(
            name,
            lambda _, least=least, ends=ends: (np.int32(least), array(*ends)),
            functools.partial(theirs, least=least, ends=ends),
        )
        for name, theirs in {
            "min_length": lambda _, least, ends: logits_process.MinLengthLogitsProcessor(least, ends),
            "min_new_tokens": lambda sample, least, ends: logits_process.MinNewTokensLengthLogitsProcessor(
                sample.start, least, ends
            ),
        }.items()
        for least, ends in ((1, [0]), (3, [0, 49, 7]), (6, [8, 8]), (20, [11]))
        if (name, least) != ("min_length", 1)  # no sequence is that short
    ],
    *of_numbers(
        "forced_bos_token_id", np.int32, (0, 49), lambda _, value: logits_process.ForcedBOSTokenLogitsProcessor(value)
    ),
    *[
        Case(
            "forced_eos_token_id",
            lambda _, ends=ends: array(*ends),
            lambda _, ends=ends: logits_process.ForcedEOSTokenLogitsProcessor(STOP, ends),
        )
        for ends in ([0], [7, 49, 7])
    ],
    *[
        Case(
            "exponential_decay_length_penalty",
            lambda _, start=start, factor=factor, ends=ends: (np.int32(start), np.float32(factor), array(*ends)),
            lambda sample, start=start, factor=factor, ends=ends: logits_process.ExponentialDecayLengthPenalty(
                (start, factor), ends, sample.start
            ),
        )
        for start, factor, ends in ((0, 1.5, [3]), (2, 1.01, [0, 49]), (4, 0.7, [8, 8]))
    ],
    Case(
        "suppress_tokens",
        lambda _: array(0, 7, 49, 7),
        lambda _: logits_process.SuppressTokensLogitsProcessor([0, 7, 49, 7]),
    ),
    *[
        Case(
            "begin_suppress_tokens",
            lambda _, index=index: (np.int32(index), array(0, 7, 49)),
            lambda sample, index=index: logits_process.SuppressTokensAtBeginLogitsProcessor(
                [0, 7, 49], sample.start + index
            ),
        )
        for index in (0, 1, 6)
    ],
    *[
        Case(
            "return_timestamps",
            lambda _, index=index: (np.int32(24), np.int32(20), np.int32(VOCAB if index is None else 25 + index)),
            lambda sample, index=index: logits_process.WhisperTimeStampLogitsProcessor(
                SimpleNamespace(no_timestamps_token_id=24, eos_token_id=20, max_initial_timestamp_index=index),
                sample.start,
            ),
        )
        for index in (None, 0, 7)
    ],
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_processor_of_texts_equals_its_counterpart(case):
    changed = 0
    for seed, length in itertools.product(range(3), LENGTHS):
        scores, sample = random_scores((ROWS, VOCAB), seed), Sample.random(length, seed)
        expected = case.theirs(sample)(sample.tokens, torch.tensor(scores)).numpy()
        found = compiled(case.name)(scores, case.ours(sample), sample.history)
        np.testing.assert_allclose(found, expected, rtol=5e-7, atol=1e-6)
        changed += (expected != scores).any()
    assert changed, "the samples must be such that something changes"


def test_invalid_values_are_replaced_as_theirs_are():
    scores = random_scores((ROWS, VOCAB))
    scores[0, :3] = np.nan, np.inf, -np.inf
    scores[2] = np.nan
    sample = Sample.random(5, 0)
    expected = logits_process.InfNanRemoveLogitsProcessor()(sample.tokens, torch.tensor(scores)).numpy()
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(compiled("remove_invalid_values")(scores, np.bool_(True), sample.history), expected)


@pytest.mark.parametrize("name", ["no_repeat_ngram_size", "encoder_no_repeat_ngram_size"])
@pytest.mark.parametrize("length", LENGTHS)
def test_runs_of_no_tokens_may_repeat(name, length):
    scores = random_scores((ROWS, VOCAB))
    np.testing.assert_array_equal(compiled(name)(scores, np.int32(0), Sample.random(length, 0).history), scores)


@pytest.mark.parametrize("name", ["no_repeat_ngram_size", "encoder_no_repeat_ngram_size"])
def test_a_text_shorter_than_the_run_forbids_nothing(name):
    scores = random_scores((ROWS, VOCAB))
    for size in range(4, 60, 9):
        history = Sample.random(size - 2, 0).history
        np.testing.assert_array_equal(compiled(name)(scores, np.int32(size), history), scores)


def test_impossible_scores_stay_so_however_likely_the_end_becomes():
    """Whether a token that may not come ends the completion or not, and even where the factor overflows."""
    scores = np.full((ROWS, VOCAB), -np.inf, np.float32)
    scores[:, 3] = 2.0
    value = (np.int32(0), np.float32(1e30), array(3, 4, NO_TOKEN))
    found = compiled("exponential_decay_length_penalty")(scores, value, Sample.random(12, 0).history)
    np.testing.assert_array_equal(found, np.where(np.arange(VOCAB) == 3, np.inf, scores))


# ---- processors without a counterpart


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("penalty", [-0.5, 0.0, 1.3])
def test_penalties_of_the_answer_equal_a_loop(penalty, seed):
    scores = random_scores((ROWS, VOCAB), seed)
    for sample in (Sample.random(length, seed) for length in LENGTHS):
        frequency, presence = scores.copy(), scores.copy()
        for row, tokens in enumerate(sample.tokens[:, sample.start :].tolist()):
            for token in tokens:
                frequency[row, token] -= penalty
            for token in set(tokens):
                presence[row, token] -= penalty
        value = np.float32(penalty)
        found = compiled("frequency_penalty")(scores, value, sample.history)
        np.testing.assert_allclose(found, frequency, rtol=1e-5, atol=1e-5)
        found = compiled("presence_penalty")(scores, value, sample.history)
        np.testing.assert_allclose(found, presence, rtol=1e-6, atol=1e-6)


def test_biases_of_tokens_equal_a_loop():
    scores, biases = random_scores((ROWS, VOCAB)), {0: 1.5, 49: -3.0, 7: 20.0}
    expected = scores.copy()
    for token, bias in biases.items():
        expected[:, token] += np.float32(bias)
    value = (array(*biases, NO_TOKEN), np.array([*biases.values(), 99.0], np.float32))
    np.testing.assert_array_equal(compiled("logit_bias")(scores, value, Sample.random(5, 0).history), expected)


def test_forced_tokens_equal_a_loop():
    scores, forced = random_scores((ROWS, VOCAB)), {0: 3, 5: 49, 12: 0}
    value = np.array([*forced.items(), (NO_TOKEN, NO_TOKEN)], np.int32)
    for length in (0, *LENGTHS):
        expected = scores
        if length in forced:
            expected = np.full_like(scores, -np.inf)
            expected[:, forced[length]] = 0.0
        history = Sample.random(5, 0).history._replace(length=np.int32(length))
        found = compiled("forced_decoder_ids")(scores, value, history)
        np.testing.assert_array_equal(found, expected)


# ---- what is no part of a sequence

VALUES = {
    "sequence_bias": (on_the_left([[1], [2, 3], [1, 2, 3, 0]]), np.array([1.0, -2.0, 5.0], np.float32)),
    "encoder_repetition_penalty": np.float32(1.5),
    "repetition_penalty": np.float32(1.5),
    "frequency_penalty": np.float32(0.5),
    "presence_penalty": np.float32(0.5),
    "no_repeat_ngram_size": np.int32(3),
    "encoder_no_repeat_ngram_size": np.int32(2),
    "bad_words_ids": on_the_left([[1], [2, 3], [1, 2, 3, 0]]),
    "min_length": (np.int32(8), array(1, 2)),
    "min_new_tokens": (np.int32(4), array(1, 2)),
    "forced_bos_token_id": np.int32(3),
    "forced_eos_token_id": array(3, 2),
    "forced_decoder_ids": np.array([[7, 2]], np.int32),
    "remove_invalid_values": np.bool_(True),
    "exponential_decay_length_penalty": (np.int32(2), np.float32(1.3), array(1, 2)),
    "suppress_tokens": array(1, 2),
    "begin_suppress_tokens": (np.int32(3), array(1, 2)),
    "return_timestamps": (np.int32(1), np.int32(1), np.int32(3)),
    "logit_bias": (array(1, 2), np.array([1.0, 2.0], np.float32)),
}
"""One of each, for sequences of the tokens 0 to 3."""


def test_there_is_a_value_for_each_processor():
    assert VALUES.keys() == PROCESSORS.keys()


@pytest.mark.parametrize("name", VALUES)
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_the_room_behind_a_text_has_no_effect(name, seed, length):
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 3, (ROWS, VOCAB)).astype(np.float32)
    tokens, source = (rng.integers(0, 4, (ROWS, count), np.int32) for count in (length, 6))
    empty = np.pad(tokens, ((0, 0), (0, 12 - length)), constant_values=NO_TOKEN)
    full = np.append(tokens, rng.integers(NO_TOKEN, VOCAB, (ROWS, 12 - length), np.int32), axis=1)
    found = [
        compiled(name)(scores, VALUES[name], History(each, np.int32(length), np.int32(1), np.int32(8), source))
        for each in (empty, full)
    ]
    np.testing.assert_array_equal(*found)


ABSOLUTE = ("min_length", "forced_bos_token_id", "forced_decoder_ids")
"""These count from where the row begins, padding included."""


@pytest.mark.parametrize("name", [name for name in VALUES if name not in ABSOLUTE])
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_padding_has_no_effect(name, seed, length):
    """Nor has padding after the encoder's input."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 3, (ROWS, VOCAB)).astype(np.float32)
    tokens, source = (rng.integers(0, 4, (ROWS, count), np.int32) for count in (length, 6))

    def found(left: int, right: int) -> jax.Array:
        padded = np.pad(tokens, ((0, 0), (left, 12 - length - left)), constant_values=NO_TOKEN)
        padded_source = np.pad(source, ((0, 0), (0, right)), constant_values=NO_TOKEN)
        numbers = (np.int32(number + left) for number in (length, 1, 8))
        return compiled(name)(scores, VALUES[name], History(padded, *numbers, source=padded_source))

    expected = found(0, 0)
    for left, right in ((1, 0), (4, 0), (0, 3), (3, 3)):
        np.testing.assert_array_equal(found(left, right), expected)


# ---- warpers


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "value"),
    [("top_k", value) for value in (1, 2, 17, 50, 5000)]
    + [("top_p", value) for value in (1e-9, 0.2, 0.5, 0.9, 0.999)]
    + [("min_p", value) for value in (1e-4, 0.05, 0.3, 0.9, 1.0)]
    + [("typical_p", value) for value in (1e-9, 0.2, 0.5, 0.9, 0.999)]
    + [("epsilon_cutoff", value) for value in (1e-4, 0.01, 0.2, 0.9)]
    + [("eta_cutoff", value) for value in (1e-4, 0.01, 0.2, 0.9)],
)
def test_a_warper_that_keeps_several_tokens_equals_its_counterpart(name, value, keep):
    """Traced or not, for flat and steep scores of which some are impossible already."""
    scores = random_scores((18, VOCAB)) * np.tile(np.array([0.1, 0.5, 1, 1, 2, 4], np.float32), 3)[:, None]
    scores[9:, ::3] = -np.inf
    expected = THEIR_WARPERS[name](value, min_tokens_to_keep=keep)(None, torch.tensor(scores)).numpy()
    np.testing.assert_array_equal(compiled(name)(scores, value, keep), expected)
    np.testing.assert_array_equal(compiled(name, "keep")(scores, value, keep=keep), expected)


# ---- all together


def random_settings(rng: np.random.Generator) -> dict[str, Any]:
    """About half of all settings that transformers has too."""

    def tokens(count: int) -> list[int]:
        return rng.integers(0, VOCAB, count).tolist()

    offered = {
        "sequence_bias": [[tokens(1), 1.5], [tokens(1), -2.0]],
        "encoder_repetition_penalty": float(rng.uniform(0.5, 2)),
        "repetition_penalty": float(rng.uniform(0.5, 2)),
        "no_repeat_ngram_size": int(rng.integers(1, 4)),
        "encoder_no_repeat_ngram_size": int(rng.integers(1, 4)),
        "bad_words_ids": [tokens(1), tokens(1)],
        "min_length": int(rng.integers(1, 40)),
        "min_new_tokens": int(rng.integers(1, 20)),
        "remove_invalid_values": True,
        "exponential_decay_length_penalty": (int(rng.integers(0, 3)), 1.02),
        "suppress_tokens": tokens(3),
        "begin_suppress_tokens": tokens(3),
        "temperature": float(rng.uniform(0.3, 3)),
        "top_k": int(rng.integers(5, VOCAB)),
        "top_p": float(rng.uniform(0.5, 0.99)),
        "min_p": float(rng.uniform(0, 0.05)),
        "typical_p": float(rng.uniform(0.5, 0.99)),
        "epsilon_cutoff": float(rng.uniform(0, 0.01)),
        "eta_cutoff": float(rng.uniform(0, 0.01)),
        "renormalize_logits": True,
    }
    return {name: value for name, value in offered.items() if rng.random() < 0.5}


ENDS = [4, 9]


def their_list(given: dict[str, Any], sample: Sample, keep: int = 1) -> logits_process.LogitsProcessorList:
    """In the order of `GenerationMixin._get_logits_processor`."""
    made = {
        "sequence_bias": logits_process.SequenceBiasLogitsProcessor,
        "encoder_repetition_penalty": lambda value: logits_process.EncoderRepetitionPenaltyLogitsProcessor(
            value, sample.source
        ),
        "repetition_penalty": logits_process.RepetitionPenaltyLogitsProcessor,
        "no_repeat_ngram_size": logits_process.NoRepeatNGramLogitsProcessor,
        "encoder_no_repeat_ngram_size": lambda value: logits_process.EncoderNoRepeatNGramLogitsProcessor(
            value, sample.source
        ),
        "bad_words_ids": lambda value: logits_process.NoBadWordsLogitsProcessor(value, ENDS),
        "min_length": lambda value: logits_process.MinLengthLogitsProcessor(value, ENDS),
        "min_new_tokens": lambda value: logits_process.MinNewTokensLengthLogitsProcessor(sample.start, value, ENDS),
        "forced_bos_token_id": logits_process.ForcedBOSTokenLogitsProcessor,
        "forced_eos_token_id": lambda value: logits_process.ForcedEOSTokenLogitsProcessor(STOP, value),
        "remove_invalid_values": lambda _: logits_process.InfNanRemoveLogitsProcessor(),
        "exponential_decay_length_penalty": lambda value: logits_process.ExponentialDecayLengthPenalty(
            value, ENDS, sample.start
        ),
        "suppress_tokens": logits_process.SuppressTokensLogitsProcessor,
        "begin_suppress_tokens": lambda value: logits_process.SuppressTokensAtBeginLogitsProcessor(
            value, sample.start + (sample.start == 1 and "forced_bos_token_id" in given)
        ),
        "temperature": logits_process.TemperatureLogitsWarper,
        **{
            name: functools.partial(cls, min_tokens_to_keep=keep)
            for name, cls in THEIR_WARPERS.items()
            if name != "temperature"
        },
        "renormalize_logits": lambda _: logits_process.LogitNormalization(),
    }
    return logits_process.LogitsProcessorList([make(given[name]) for name, make in made.items() if name in given])


def assert_composed(given: dict[str, Any], sample: Sample, scores: np.ndarray, keep: int = 1) -> np.ndarray:
    """`process` equals the list of transformers, whose scores are returned."""
    values = processor_values(GenerationConfig(**given, eos_token_id=ENDS, do_sample=True), VOCAB, sample.start, True)
    values = {name: values[name] for name in reversed(values) if name in given}
    assert values.keys() == given.keys()
    found = np.array(jax.jit(process)(scores, values, sample.history, keep=keep))
    expected = their_list(given, sample, keep)(sample.tokens, torch.tensor(scores)).numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)
    return expected


@pytest.mark.parametrize("seed", range(10))
def test_ten_combinations_equal_a_list_in_the_order_of_transformers(seed):
    rng = np.random.default_rng(seed)
    given = random_settings(rng)
    scores = random_scores((ROWS, VOCAB), seed)
    for length in (1, 2, 12):
        assert (assert_composed(given, Sample.random(length, seed), scores, keep=1 + seed % 3) != scores).any()


BIASES = {"sequence_bias": [[[4], -6.0], [[5], 6.0]]}


@pytest.mark.parametrize(
    ("length", "given"),
    [
        (30, BIASES | {"encoder_repetition_penalty": 1.5}),
        (30, BIASES | {"repetition_penalty": 1.7}),
        (30, BIASES | {"forced_eos_token_id": 4}),
        (30, BIASES | {"exponential_decay_length_penalty": (0, 1.5)}),
        (30, {"encoder_repetition_penalty": 1.5, "remove_invalid_values": True}),
        (30, {"repetition_penalty": 1.7, "remove_invalid_values": True}),
        (30, {"no_repeat_ngram_size": 1, "forced_eos_token_id": 4}),
        (30, {"encoder_no_repeat_ngram_size": 1, "forced_eos_token_id": 4}),
        (30, {"bad_words_ids": [[5]], "forced_eos_token_id": [4, 5]}),
        (30, {"min_length": 40, "forced_eos_token_id": [4, 5]}),
        (30, {"min_new_tokens": 40, "forced_eos_token_id": [4, 5]}),
        (1, {"min_new_tokens": 2, "forced_bos_token_id": 4}),
        (1, {"forced_bos_token_id": 4, "remove_invalid_values": True}),
        (1, {"forced_bos_token_id": 4, "suppress_tokens": [4]}),
        (30, {"forced_eos_token_id": 4, "remove_invalid_values": True}),
        (30, {"forced_eos_token_id": 4, "suppress_tokens": [4]}),
        (30, {"remove_invalid_values": True, "exponential_decay_length_penalty": (14, 1.5)}),
        (30, {"remove_invalid_values": True, "suppress_tokens": [4, 5]}),
        (1, {"remove_invalid_values": True, "begin_suppress_tokens": [4, 5]}),
        (30, {"exponential_decay_length_penalty": (0, 1.5), "top_k": 5}),
        (30, {"suppress_tokens": [4, 5], "top_p": 0.8}),
        (1, {"begin_suppress_tokens": [4, 5], "top_p": 0.8}),
        (30, {"temperature": 0.3, "top_p": 0.8}),
        (30, {"top_k": 10, "top_p": 0.8}),
        (30, {"top_p": 0.7, "min_p": 0.1}),
        (30, {"min_p": 0.1, "typical_p": 0.6}),
        (30, {"typical_p": 0.6, "epsilon_cutoff": 0.04}),
        (30, {"epsilon_cutoff": 0.04, "eta_cutoff": 0.3}),
        (30, {"eta_cutoff": 0.3, "renormalize_logits": True}),
    ],
    ids=str,
)
def test_two_settings_apply_in_the_order_of_transformers(length, given):
    """Where their order matters: theirs the other way round gives other scores."""
    changed = 0
    for seed in range(5):
        sample, scores = Sample.random(length, seed, letters=(4, 5, 6)), random_scores((ROWS, VOCAB), seed)
        scores[0, 4] = -np.inf
        expected = assert_composed(given, sample, scores)
        processors = their_list(given, sample)
        other = type(processors)(reversed(processors))(sample.tokens, torch.tensor(scores)).numpy()
        changed += (other != expected).any()
    assert changed


def test_processors_of_the_user_come_before_the_warpers():
    seen = []

    def raise_five(tokens, scores, length):
        seen.append((tokens.shape, scores.dtype))
        return scores.at[:, 5].add(100.0)

    scores, sample = random_scores((ROWS, VOCAB)), Sample.random(5, 0)
    values = {"suppress_tokens": array(5, 6), "top_k": np.int32(1), "logit_bias": (array(7), np.array([50.0], "f"))}
    assert np.isfinite(process(scores, values, sample.history, [raise_five])).nonzero()[1].tolist() == [7] * ROWS
    del values["suppress_tokens"]
    assert np.isfinite(process(scores, values, sample.history, [raise_five])).nonzero()[1].tolist() == [5] * ROWS
    assert seen == [((ROWS, CACHE_LEN), jnp.float32)] * 2


def test_without_a_history_there_is_no_text():
    scores = random_scores((ROWS, VOCAB))
    of_texts = ("repetition_penalty", "presence_penalty", "no_repeat_ngram_size", "forced_bos_token_id")
    np.testing.assert_array_equal(process(scores, {name: VALUES[name] for name in of_texts}), scores)
    banned = process(scores, {"bad_words_ids": VALUES["bad_words_ids"]})
    assert np.isneginf(banned).nonzero()[1].tolist() == [1] * ROWS

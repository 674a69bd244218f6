"""What `processing` makes of settings for `logits.process`."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import transformers

from flaxmodels.errors import FlaxModelsError
from flaxmodels.fields import fields_of
from flaxmodels.generation.config import GenerationConfig
from flaxmodels.generation.logits import ANY_TOKEN, NO_TOKEN, History
from flaxmodels.generation.processing import PROCESSORS, WARPERS, process, processor_values

VOCAB = 50
ENDS = {"eos_token_id": [4, 9]}
SAMPLE = {"do_sample": True}


def values_of(prompt_len: int = 3, has_source: bool = True, **settings: Any) -> dict[str, Any]:
    return processor_values(GenerationConfig(**settings), VOCAB, prompt_len, has_source)


def ids(*tokens: int, width: int = 8) -> np.ndarray:
    return np.array([*tokens, *[NO_TOKEN] * (width - len(tokens))], np.int32)


def numbers(*values: float, width: int = 8) -> np.ndarray:
    return np.array([*values, *[0.0] * (width - len(values))], np.float32)


def padded_ids(*sequences: list[int], width: int = 8) -> np.ndarray:
    """`width` rows of `width` tokens; those of fillers end with no token."""
    rows = [*sequences, *[[NO_TOKEN]] * (width - len(sequences))]
    return np.array([[ANY_TOKEN] * (width - len(row)) + row for row in rows], np.int32)


def assert_equal(found: Any, expected: Any) -> None:
    """The same structure, dtypes and numbers."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_array_equal(one, other)


# ---- which settings give which values

GIVEN = [
    ({"sequence_bias": {(5,): 2, (6, 7): -1.5}}, (padded_ids([5], [6, 7]), numbers(2, -1.5))),
    ({"sequence_bias": [[[5], 2], [[6, 7], -1.5]]}, (padded_ids([5], [6, 7]), numbers(2, -1.5))),
    ({"encoder_repetition_penalty": 1.5}, np.float32(1.5)),
    ({"repetition_penalty": 2}, np.float32(2)),
    ({"frequency_penalty": -0.5}, np.float32(-0.5)),
    ({"presence_penalty": 0.5}, np.float32(0.5)),
    ({"no_repeat_ngram_size": 3}, np.int32(3)),
    ({"encoder_no_repeat_ngram_size": 1}, np.int32(1)),
    ({"bad_words_ids": [[5], [6, 7, 8], (0,)]}, padded_ids([5], [6, 7, 8], [0])),
    ({"min_length": 7} | ENDS, (np.int32(7), ids(4, 9))),
    ({"min_new_tokens": 7, "eos_token_id": 0}, (np.int32(7), ids(0))),
    ({"forced_bos_token_id": 0}, np.int32(0)),
    ({"forced_eos_token_id": 0}, ids(0)),
    ({"forced_eos_token_id": [9, 49]}, ids(9, 49)),
    ({"forced_decoder_ids": [[1, 8], [2, None], (4, 0)]}, np.stack([ids(1, 4), ids(8, 0)], -1)),
    ({"remove_invalid_values": True}, np.bool_(True)),
    ({"exponential_decay_length_penalty": [3, 1.25]} | ENDS, (np.int32(3), np.float32(1.25), ids(4, 9))),
    ({"suppress_tokens": [0, 3]}, ids(0, 3)),
    ({"begin_suppress_tokens": [0, 3]}, (np.int32(0), ids(0, 3))),
    (
        {"return_timestamps": True, "no_timestamps_token_id": 20, "max_initial_timestamp_index": 3} | ENDS,
        (np.int32(20), np.int32(4), np.int32(24)),
    ),
    (
        {"return_timestamps": True, "no_timestamps_token_id": 20, "bos_token_id": 5},
        (np.int32(20), np.int32(5), np.int32(VOCAB)),
    ),
    ({"logit_bias": {7: 1, "8": -2.5}}, (ids(7, 8), numbers(1, -2.5))),
    ({"renormalize_logits": True}, np.bool_(True)),
    ({"temperature": 2} | SAMPLE, np.float32(2)),
    ({"top_k": 1} | SAMPLE, np.int32(1)),
    ({"top_p": 0.25} | SAMPLE, np.float32(0.25)),
    ({"min_p": 0.25} | SAMPLE, np.float32(0.25)),
    ({"typical_p": 0.25} | SAMPLE, np.float32(0.25)),
    ({"epsilon_cutoff": 0.25} | SAMPLE, np.float32(0.25)),
    ({"eta_cutoff": 0.25} | SAMPLE, np.float32(0.25)),
]


@pytest.mark.parametrize(("given", "value"), GIVEN, ids=lambda each: str(each) if isinstance(each, dict) else "")
def test_a_setting_gives_its_value(given, value):
    name = next(iter(given))
    found = values_of(**{"top_k": 0} | given)
    assert_equal(found, {name: value})


def test_every_value_of_a_processor_comes_from_a_setting():
    assert {next(iter(given)) for given, _ in GIVEN} == {*PROCESSORS, *WARPERS, "renormalize_logits"}


def test_numbers_and_arrays_of_numpy_are_as_good():
    found = values_of(
        suppress_tokens=np.array([1, 2]),
        begin_suppress_tokens=np.array([3, 4]),
        forced_eos_token_id=np.array([5, 6]),
        repetition_penalty=np.float64(2.0),
        no_repeat_ngram_size=np.int64(2),
        bad_words_ids=[np.array([7, 8])],
        sequence_bias=[(np.array([7, 8]), np.float32(3.0))],
    )
    expected = values_of(
        suppress_tokens=[1, 2],
        begin_suppress_tokens=[3, 4],
        forced_eos_token_id=[5, 6],
        repetition_penalty=2.0,
        no_repeat_ngram_size=2,
        bad_words_ids=[[7, 8]],
        sequence_bias={(7, 8): 3.0},
    )
    assert_equal(found, expected)
    assert len(found) == 7


NEUTRAL = {
    "sequence_bias": [{}, []],
    "encoder_repetition_penalty": [1, 1.0],
    "repetition_penalty": [1, 1.0],
    "frequency_penalty": [0, 0.0],
    "presence_penalty": [0, 0.0],
    "no_repeat_ngram_size": [0],
    "encoder_no_repeat_ngram_size": [0],
    "bad_words_ids": [[]],
    "min_length": [0],
    "min_new_tokens": [0],
    "forced_bos_token_id": [],
    "forced_eos_token_id": [],
    "forced_decoder_ids": [[]],
    "return_timestamps": [False, True],  # there are no tokens of time
    "remove_invalid_values": [False],
    "exponential_decay_length_penalty": [],
    "suppress_tokens": [[], np.array([], int)],
    "begin_suppress_tokens": [[], np.array([], int)],
    "logit_bias": [{}],
    "renormalize_logits": [False],
    "temperature": [1, 1.0],
    "top_k": [0],
    "top_p": [1, 1.0],
    "min_p": [0, 0.0],
    "typical_p": [1, 1.0],
    "epsilon_cutoff": [0, 0.0],
    "eta_cutoff": [0, 0.0],
}


@pytest.mark.parametrize("name", [*PROCESSORS, *WARPERS, "renormalize_logits"])
def test_neutral_values_give_none(name):
    for value in (*NEUTRAL[name], None):
        assert values_of(**{"top_k": 0} | {name: value} | ENDS | SAMPLE) == {}


@pytest.mark.parametrize(
    "settings",
    [{}, transformers.GenerationConfig().to_dict(), transformers.GenerationConfig._get_default_generation_params()],
    ids=["ours", "unset", "theirs"],
)
def test_defaults_give_none(settings):
    assert values_of(**settings) == {}


def test_by_default_tokens_are_drawn_from_the_fifty_likeliest():
    assert_equal(values_of(**SAMPLE), {"top_k": np.int32(50)})


def test_warpers_are_for_sampling():
    given = {name: value for settings, _ in GIVEN for name, value in settings.items() if name in WARPERS}
    assert values_of(**given).keys() == set()
    assert values_of(**given, **SAMPLE).keys() == WARPERS.keys()


def test_processors_of_the_source_need_one():
    given = {"encoder_repetition_penalty": 2.0, "encoder_no_repeat_ngram_size": 3}
    assert values_of(**given, has_source=False).keys() == set()
    assert values_of(**given).keys() == given.keys()


def test_without_a_token_that_ends_answers_its_processors_have_no_work():
    given = {"min_length": 3, "min_new_tokens": 3, "exponential_decay_length_penalty": (3, 2.0)}
    assert values_of(**given).keys() == values_of(**given, eos_token_id=[]).keys() == set()
    assert values_of(**given, eos_token_id=0).keys() == given.keys()


def test_a_token_that_ends_completions_is_no_bad_word():
    """A longer sequence that ends with it is."""
    found = values_of(bad_words_ids=[[4], [5], [8, 9], (9,)], **ENDS)
    assert_equal(found, {"bad_words_ids": padded_ids([5], [8, 9])})


@pytest.mark.parametrize(("prompt_len", "forced", "index"), [(1, None, 0), (1, 0, 1), (2, 0, 0), (2, None, 0)], ids=str)
def test_tokens_are_suppressed_after_a_forced_first_one(prompt_len, forced, index):
    found = values_of(prompt_len, begin_suppress_tokens=[5], forced_bos_token_id=forced)
    assert found["begin_suppress_tokens"][0] == index


def test_of_one_sequence_that_is_there_twice_the_last_bias_counts():
    """As in transformers; with a dict it cannot be there twice."""
    found = values_of(sequence_bias=[[[5], 1.0], [[6], 2.0], [[5], 3.0]])
    assert_equal(found, values_of(sequence_bias={(5,): 3.0, (6,): 2.0}))


# ---- ids beyond the vocabulary


@pytest.mark.parametrize(
    ("name", "value", "token"),
    [
        ("eos_token_id", 50, 50),
        ("eos_token_id", [3, 77], 77),
        ("forced_bos_token_id", 51, 51),
        ("forced_eos_token_id", 50, 50),
        ("forced_eos_token_id", [3, 50], 50),
        ("bad_words_ids", [[3], [60, 4]], 60),
        ("sequence_bias", {(3,): 1.0, (50, 4): 1.0}, 50),
        ("sequence_bias", [[[3, 70], 1.0]], 70),
        ("logit_bias", {3: 1.0, 50: 1.0}, 50),
        ("logit_bias", {"50": 1.0}, 50),
        ("forced_decoder_ids", [(1, 3), (2, 50)], 50),
    ],
)
def test_ids_beyond_the_vocabulary_are_refused(name, value, token):
    with pytest.raises(FlaxModelsError) as caught:
        values_of(**{name: value})
    assert str(caught.value) == (
        f"{name}: the token id {token} is beyond the model's vocabulary of 50; use the tokenizer of this model"
    )


def test_places_beyond_the_vocabulary_are_fine():
    assert values_of(forced_decoder_ids=[(99, 3)])["forced_decoder_ids"][0].tolist() == [99, 3]


@pytest.mark.parametrize("name", ["suppress_tokens", "begin_suppress_tokens"])
def test_suppressed_ids_beyond_the_vocabulary_change_nothing(name):
    """Files of speech models list ids that only their larger relatives have."""
    scores = np.random.default_rng(0).normal(size=(2, VOCAB)).astype(np.float32)
    history = History(np.zeros((2, 8), np.int32), np.int32(3), np.int32(3), np.int32(8))
    np.testing.assert_array_equal(process(scores, values_of(**{name: [50, 999]}), history), scores)
    assert np.isneginf(process(scores, values_of(**{name: [49, 999]}), history)).nonzero()[1].tolist() == [49, 49]


# ---- shapes


LISTS = {
    "eos_token_id": (list, ENDS | {"min_length": 9}),
    "forced_eos_token_id": (list, {}),
    "suppress_tokens": (list, {}),
    "begin_suppress_tokens": (list, {}),
    "bad_words_ids": (lambda tokens: [list(range(20, 20 + token)) for token in tokens], {}),
    "sequence_bias": (lambda tokens: {tuple(range(20, 20 + token)): 0.5 * token for token in tokens}, {}),
    "logit_bias": (lambda tokens: {token: 0.5 * token for token in tokens}, {}),
    "forced_decoder_ids": (lambda tokens: [(token, token) for token in tokens], {}),
}
"""Of a number of tokens, from 1, a value of each setting that is a list."""


def test_every_list_is_filled():
    expected = {name: field.kind.expected for name, field in fields_of(GenerationConfig).items()}
    lists = {name for name, words in expected.items() if any(kind in words for kind in ("list", "dict", "tuple"))}
    of_texts = {"stop_strings", "language", "prompt_ids", "lang_to_id", "task_to_id"}
    assert lists == LISTS.keys() | of_texts


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_different_lengths_compile_once(name):
    """Up to the width that they are filled to; then once more."""
    make, others = LISTS[name]
    program: Any = jax.jit(lambda *args: process(*args))  # of its own, as `jax.jit` counts for each function
    history = History(np.zeros((2, 20), np.int32), np.int32(3), np.int32(3), np.int32(8))
    scores = np.random.default_rng(0).normal(size=(2, VOCAB)).astype(np.float32)
    for count in (1, 2, 7, 8):
        program(scores, values_of(**others | {name: make(range(1, count + 1))}), history)
    assert program._cache_size() == 1
    program(scores, values_of(**others | {name: make(range(1, 10))}), history)
    assert program._cache_size() == 2


def after(start: int = 3, **settings: Any) -> np.ndarray:
    """Scores, 1 before, after a sequence of three tokens 30, whose completion begins at `start`; it has four in all."""
    history = History(np.full((1, 20), 30, np.int32), np.int32(3), np.int32(start), np.int32(4))
    return np.asarray(process(np.ones((1, VOCAB), np.float32), values_of(**settings), history))[0]


@pytest.mark.parametrize("count", [1, 5, 8, 9])
def test_what_lists_are_filled_with_changes_nothing(count):
    tokens = list(range(10, 10 + count))
    fits = tokens[:4]  # three tokens are too few before the others
    found = {
        "suppress_tokens": after(suppress_tokens=tokens),
        "begin_suppress_tokens": after(begin_suppress_tokens=tokens),
        "bad_words_ids": after(bad_words_ids=[[30] * before + [token] for before, token in enumerate(tokens)]),
        "sequence_bias": after(sequence_bias={(30,) * before + (token,): 2.0 for before, token in enumerate(tokens)}),
        "logit_bias": after(logit_bias=dict.fromkeys(tokens, 2.0)),
        "min_new_tokens": after(min_new_tokens=1, eos_token_id=tokens),
        "exponential_decay_length_penalty": after(2, exponential_decay_length_penalty=(0, 2.0), eos_token_id=tokens),
        "forced_eos_token_id": after(forced_eos_token_id=tokens),
        "forced_decoder_ids": after(forced_decoder_ids=[(3, token) for token in tokens]),
    }
    changed = {name: (scores != 1).nonzero()[0].tolist() for name, scores in found.items() if "forced" not in name}
    shorter = dict.fromkeys(("bad_words_ids", "sequence_bias"), fits)
    assert changed == dict.fromkeys(changed, tokens) | shorter
    for name in ("forced_eos_token_id", "forced_decoder_ids"):
        assert np.isfinite(found[name]).nonzero()[0].tolist() == tokens

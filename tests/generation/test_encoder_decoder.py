"""Generation with an encoder and a decoder, beside transformers, token for token."""

from __future__ import annotations

import numpy as np
import pytest
from generation.pairs import make_pair, torch_sequences
from models.comparisons import assert_close
from models.tiny_configs import CASES, HEADS, some_cases

READ_TEXT = [case for case in CASES if hasattr(case.ours, "encode") and case.ours.main_input_name == "input_ids"]
UNTIED = ("Generation-untied", "vocabularies-untied")
CONDITIONAL = [
    case for case in READ_TEXT if case.ours.can_generate() and not case.is_decoder and not case.name.endswith(UNTIED)
]
SETTINGS = [
    {},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "num_return_sequences": 2},
    {"no_repeat_ngram_size": 2, "forced_bos_token_id": 9},
    {"num_beams": 3},
    {"encoder_repetition_penalty": 1.5},
    {"encoder_no_repeat_ngram_size": 2, "num_beams": 2},
    {"min_length": 8, "repetition_penalty": 1.3},
    {"forced_eos_token_id": None, "suppress_tokens": [11, 12]},
]
FIRST_OF_EACH = [case for case in CONDITIONAL if case in HEADS]
ANSWERS = [(CONDITIONAL[0], settings) for settings in SETTINGS]
ANSWERS += [(case, settings) for case in FIRST_OF_EACH[1:] for settings in SETTINGS[:2]]
"""All settings with one model; greedy decoding and beams with one of each family."""
FURTHER = [(case, settings) for case in CONDITIONAL[1:] for settings in SETTINGS[:3] if (case, settings) not in ANSWERS]
NEW = 11


@pytest.fixture(scope="module", params=some_cases(FIRST_OF_EACH, exhaustive=CONDITIONAL))
def pair(request, tmp_path_factory):
    model, reference = make_pair(request.param, tmp_path_factory.mktemp("torch"))
    model.generation_config.eos_token_id = reference.generation_config.eos_token_id = 7
    return model, reference


KINDS = [case for case in FIRST_OF_EACH if case.head in ("BartForConditionalGeneration", "T5ForConditionalGeneration")]
"""One of each kind of encoder."""


def for_pairs(cases):
    """Run a test with each of these cases; with the others only where exhaustive tests are asked for."""
    return pytest.mark.parametrize("pair", some_cases(cases, exhaustive=CONDITIONAL), indirect=True)


def sources(model) -> dict[str, np.ndarray]:
    """Inputs of different lengths, padded on the right."""
    rng, pad = np.random.default_rng(0), model.config.pad_token_id
    mask = (np.arange(9) < np.array([[9], [5], [7]])).astype(np.int64)
    tokens = [token for token in range(model.config.vocab_size) if token != pad]
    return {"input_ids": np.where(mask, rng.choice(tokens, mask.shape), pad), "attention_mask": mask}


@pytest.mark.parametrize(
    ("pair", "settings"),
    ANSWERS + [pytest.param(*each, marks=pytest.mark.exhaustive) for each in FURTHER],
    indirect=["pair"],
    ids=str,
)
def test_answers_equal_torch(pair, settings):
    model, reference = pair
    batch = sources(model)
    if any(name.startswith("encoder_") for name in settings):
        # transformers counts the padding of the encoder's input among its tokens.
        settings = settings | {"suppress_tokens": [model.config.pad_token_id]}
    expected = torch_sequences(reference, batch, max_new_tokens=NEW, **settings)
    np.testing.assert_array_equal(model.generate(**batch, max_new_tokens=NEW, **settings).sequences, expected)


def test_a_text_can_begin_with_given_tokens(pair):
    model, reference = pair
    starts = (model.config.decoder_start_token_id, model.config.bos_token_id)
    start = next(token for token in starts if token is not None)  # transformers adds it where it is not given
    batch = sources(model) | {"decoder_input_ids": np.array([[start, 4], [start, 5], [start, 6]])}
    expected = torch_sequences(reference, batch, max_new_tokens=NEW)
    np.testing.assert_array_equal(model.generate(**batch, max_new_tokens=NEW).sequences, expected)


@for_pairs(CONDITIONAL)
def test_decoding_with_a_cache_equals_the_full_forward_pass(pair):
    model, _ = pair
    batch = sources(model)
    settings = {"max_new_tokens": NEW, "eos_token_id": None, "forced_eos_token_id": None, "output_hidden_states": True}
    found = model.generate(**batch, **settings)
    start = found.sequences.shape[1] - NEW
    outputs = model(**batch, decoder_input_ids=found.sequences[:, :-1], output_hidden_states=True)
    np.testing.assert_array_equal(outputs.logits.argmax(-1)[:, start - 1 :], found.sequences[:, start:])
    last = np.concatenate([step[-1] for step in found.hidden_states], axis=1)
    assert_close(last, outputs.decoder_hidden_states[-1], 2e-5)  # torch is 8e-6 from float64 for MT5


@for_pairs(KINDS)
def test_an_answer_is_streamed(pair):
    model, _ = pair
    batch = sources(model)
    expected = np.asarray(model.generate(**batch, max_new_tokens=NEW).sequences)
    new = np.concatenate(list(model.stream(**batch, max_new_tokens=NEW)), 1)
    np.testing.assert_array_equal(new, expected[:, expected.shape[1] - new.shape[1] :])


@for_pairs(KINDS)
def test_an_encoding_serves_further_passes(pair):
    model, _ = pair
    batch, ids = sources(model), np.array([[2, 4, 9], [2, 5, 8], [2, 6, 3]])
    encoded = model.encode(**batch)
    whole = model(**batch, decoder_input_ids=ids).logits
    given = model(attention_mask=batch["attention_mask"], decoder_input_ids=ids, encoder_outputs=encoded).logits
    assert_close(given, whole, 1e-5)

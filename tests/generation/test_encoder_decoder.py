"""Generation with an encoder and a decoder, beside transformers, token for token."""

from __future__ import annotations

import numpy as np
import pytest
from generation.pairs import make_pair, torch_sequences
from models.tiny_configs import CASES

CONDITIONAL = [
    case for case in CASES if case.ours.main_input_name == "input_ids" and case.head.endswith("ConditionalGeneration")
]
"""Those that read text."""
NEW = 11


@pytest.fixture(scope="module", params=CONDITIONAL, ids=str)
def pair(request, tmp_path_factory):
    model, reference = make_pair(request.param, tmp_path_factory.mktemp("torch"))
    model.generation_config.eos_token_id = reference.generation_config.eos_token_id = 7
    return model, reference


def sources(model) -> dict[str, np.ndarray]:
    """Inputs of different lengths, padded on the right."""
    rng, pad = np.random.default_rng(0), model.config.pad_token_id
    mask = (np.arange(9) < np.array([[9], [5], [7]])).astype(np.int64)
    words = [token for token in range(model.config.vocab_size) if token != pad]
    return {"input_ids": np.where(mask, rng.choice(words, mask.shape), pad), "attention_mask": mask}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "num_return_sequences": 2},
        {"no_repeat_ngram_size": 2, "forced_bos_token_id": 9},
        {"encoder_repetition_penalty": 1.5},
        {"encoder_no_repeat_ngram_size": 2, "num_beams": 2},
        {"min_length": 8, "repetition_penalty": 1.3},
        {"forced_eos_token_id": None, "suppress_tokens": [11, 12]},
    ],
    ids=str,
)
def test_answers_equal_torch(pair, settings):
    model, reference = pair
    batch = sources(model)
    expected = torch_sequences(reference, batch, max_new_tokens=NEW, **settings)
    np.testing.assert_array_equal(model.generate(**batch, max_new_tokens=NEW, **settings).sequences, expected)


def test_a_text_can_begin_with_given_tokens(pair):
    model, reference = pair
    batch = sources(model) | {"decoder_input_ids": np.array([[2, 4], [2, 5], [2, 6]])}
    expected = torch_sequences(reference, batch, max_new_tokens=NEW)
    np.testing.assert_array_equal(model.generate(**batch, max_new_tokens=NEW).sequences, expected)


def test_decoding_with_a_cache_equals_the_full_forward_pass(pair):
    model, _ = pair
    batch = sources(model)
    settings = {"max_new_tokens": NEW, "eos_token_id": None, "forced_eos_token_id": None, "output_hidden_states": True}
    found = model.generate(**batch, **settings)
    start = found.sequences.shape[1] - NEW
    outputs = model(**batch, decoder_input_ids=found.sequences[:, :-1], output_hidden_states=True)
    np.testing.assert_array_equal(outputs.logits.argmax(-1)[:, start - 1 :], found.sequences[:, start:])
    last = np.concatenate([step[-1] for step in found.hidden_states], axis=1)
    np.testing.assert_allclose(last, outputs.decoder_hidden_states[-1], rtol=1e-4, atol=1e-5)


def test_an_answer_is_streamed(pair):
    model, _ = pair
    batch = sources(model)
    expected = np.asarray(model.generate(**batch, max_new_tokens=NEW).sequences)
    new = np.concatenate(list(model.stream(**batch, max_new_tokens=NEW)), 1)
    np.testing.assert_array_equal(new, expected[:, expected.shape[1] - new.shape[1] :])


def test_an_encoding_serves_further_passes(pair):
    model, _ = pair
    batch, ids = sources(model), np.array([[2, 4, 9], [2, 5, 8], [2, 6, 3]])
    encoded = model.encode(**batch)
    whole = model(**batch, decoder_input_ids=ids).logits
    given = model(attention_mask=batch["attention_mask"], decoder_input_ids=ids, encoder_outputs=encoded).logits
    np.testing.assert_allclose(given, whole, rtol=1e-5, atol=1e-6)

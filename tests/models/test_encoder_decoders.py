"""What BART and its kin do beside the parametrised tests: default inputs, dropped layers, fixed positions."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from models.comparisons import assert_close, same_params
from models.tiny_configs import HEADS
from models.torch_reference import inputs_for, torch_model

from flaxmodels.errors import CheckpointMismatch, FlaxModelsError
from flaxmodels.nn.dropout import layer_dropout

CASES = {case.head: case for case in HEADS}


@pytest.mark.parametrize("head", ["BartModel", "MBartModel"])
def test_the_decoder_reads_the_shifted_input_by_default(head, tmp_path):
    case = CASES[head]
    reference = torch_model(case)
    reference.save_pretrained(tmp_path)
    inputs = {name: array for name, array in inputs_for(case).items() if not name.startswith("decoder_")}
    with torch.no_grad():
        theirs = reference(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    assert_close(case.ours.from_pretrained(tmp_path)(**inputs).last_hidden_state, theirs.last_hidden_state, 1e-5)


def test_a_text_without_a_start_is_refused():
    model = CASES["BartModel"].ours({**CASES["BartModel"].values, "decoder_start_token_id": None})
    with pytest.raises(FlaxModelsError, match=r"^pass decoder_input_ids: the configuration lacks decoder_start_token"):
        model(np.array([[5, 6]]))


def test_dropped_layers_leave_the_embeddings():
    case = CASES["BartModel"]
    without_dropout = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0)
    model = case.ours({**case.values, **without_dropout, "encoder_layerdrop": 1.0})
    inputs = inputs_for(case) | {"train": True, "dropout_rng": jax.random.key(0), "output_hidden_states": True}
    states = model(**inputs).encoder_hidden_states
    assert all((state == states[0]).all() for state in states)
    one, none = np.ones(3), np.zeros(3)
    sampled = [layer_dropout(none, one, 0.25, key)[0] for key in jax.random.split(jax.random.key(1), 200)]
    assert 0.65 < np.mean(sampled) < 0.85
    assert layer_dropout(none, one, 0.25, None) is one


def test_fixed_positions_are_computed_where_a_file_lacks_them():
    case = CASES["MarianMTModel"]
    model = case.ours(dict(case.values), seed=1)
    stored = {name: array for name, array in model.state_dict().items() if "embed_positions" not in name}
    stored.pop("final_logits_bias")
    loaded = case.ours.from_pretrained(None, config=model.config, state_dict=stored)
    assert same_params(loaded.params, model.params)
    described, params = case.ours.from_pretrained(None, config=model.config, state_dict=stored, _do_init=False)
    ids = np.array([[3, 4, 5]])
    np.testing.assert_array_equal(described(ids, params=params).logits, model(ids).logits)
    empty = case.ours.abstract(model.config)
    empty.load_state_dict(stored)
    assert same_params(empty.params, model.params)
    del stored["model.encoder.layers.0.fc1.bias"]
    with pytest.raises(CheckpointMismatch, match=r"^1 missing in state_dict\n  - model.encoder.layers.0.fc1.bias "):
        empty.load_state_dict(stored)


def test_what_a_model_has_is_kept_where_a_file_lacks_it():
    case = CASES["BartForConditionalGeneration"]
    model = case.ours(dict(case.values))
    model.final_logits_bias.set_value(model.final_logits_bias[...] + 3)
    model.load_state_dict({name: array for name, array in model.state_dict().items() if name != "final_logits_bias"})
    assert (model.final_logits_bias[...] == 3).all()


def test_a_decoder_alone_leaves_the_configuration_alone():
    case = CASES["BartForCausalLM"]
    config = case.ours.config_class(**case.values)
    model = case.ours(config)
    assert (model.config.is_decoder, model.config.is_encoder_decoder) == (True, False)
    assert (config.is_decoder, config.is_encoder_decoder) == (False, True)


@pytest.mark.parametrize("shared", [True, False])
def test_other_embeddings_are_shared_as_those_before(shared):
    case = CASES["MarianModel"]
    model = case.ours({**case.values, "share_encoder_decoder_embeddings": shared})
    other = case.ours(dict(case.values), seed=1).shared
    model.set_input_embeddings(other)
    assert model.get_input_embeddings() is other
    assert (model.decoder.embed_tokens is other) == (model.shared is other) == shared

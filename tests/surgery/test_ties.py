"""Parameters that are tied after the fact or from a checkpoint, and decoders that are encoders."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from models.comparisons import assert_close, same_params
from models.tiny_configs import HEADS
from models.torch_reference import tensors_in, torch_model

from flaxmodels.errors import ConfigError
from flaxmodels.models.bart import BartForConditionalGeneration
from flaxmodels.models.bert import BertForMaskedLM
from flaxmodels.models.llama import LlamaForCausalLM
from flaxmodels.models.t5 import T5ForConditionalGeneration
from flaxmodels.nn.dense import Linear, TiedLinear

T5 = Path(__file__).parents[1] / "fixtures" / "transformers4" / "T5ForConditionalGeneration"
CASES = {case.head: case for case in HEADS}
IDS = np.array([[5, 7, 11, 2], [1, 2, 3, 4]])
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def values(head: str, **changes) -> dict:
    return {**CASES[head].values, **changes}


@pytest.mark.parametrize("head", ["LlamaForCausalLM", "BertForMaskedLM", "DistilBertForMaskedLM", "GPTJForCausalLM"])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_tying_after_the_fact(head, scan_layers, tmp_path):
    case = CASES[head]
    reference: Any = torch_model(type(case)(head, case.family, head, values(head, tie_word_embeddings=False)))
    reference.save_pretrained(tmp_path / "torch")
    model = case.ours.from_pretrained(tmp_path / "torch", scan_layers=scan_layers)
    assert isinstance(model.get_output_embeddings(), Linear)
    for each in (model, reference):
        each.config.tie_word_embeddings = True
        each.tie_weights()
    assert isinstance(model.get_output_embeddings(), TiedLinear)
    assert model.get_output_embeddings().embedding is model.get_input_embeddings().embedding
    assert model.all_tied_weights_keys == reference.get_expanded_tied_weights_keys(all_submodels=True)
    reference.save_pretrained(tmp_path / "tied")
    expected = case.ours.from_pretrained(tmp_path / "tied")(IDS).logits
    np.testing.assert_allclose(model(IDS).logits, expected, rtol=1e-5, atol=1e-6)
    model.save_pretrained(tmp_path / "ours")
    assert same_params(tensors_in(tmp_path / "ours"), tensors_in(tmp_path / "tied"))


@pytest.fixture
def untied() -> Any:
    model = LlamaForCausalLM(values("LlamaForCausalLM", tie_word_embeddings=False, num_hidden_layers=1))
    model.config.tie_word_embeddings = True
    return model


def test_tying_is_symmetric_when_only_the_target_was_in_a_checkpoint(untied):
    head, missing = untied.state_dict()[HEAD], {EMBEDDING, "other"}
    untied.tie_weights(missing_keys=missing)
    assert missing == {"other"}
    assert untied.all_tied_weights_keys == {HEAD: EMBEDDING}
    np.testing.assert_array_equal(untied.get_input_embeddings().embedding[...], head)


def test_the_source_counts_when_it_was_in_the_checkpoint(untied):
    source, missing = untied.state_dict()[EMBEDDING], {HEAD}
    untied.tie_weights(missing, recompute_mapping=True)
    assert missing == set()
    np.testing.assert_array_equal(untied.state_dict()[HEAD], source)


def test_what_differs_in_a_checkpoint_is_not_tied(untied, caplog):
    with caplog.at_level(logging.WARNING, "flaxmodels"):
        untied.tie_weights(missing_keys=set())
    assert untied.all_tied_weights_keys == {}
    assert caplog.messages == [
        f"The configuration ties {HEAD} to {EMBEDDING}, but the checkpoint holds other values for it: it is not tied. "
        "Set config.tie_word_embeddings=False."
    ]
    untied.lm_head.kernel.set_value(untied.get_input_embeddings().embedding[...].T)
    untied.tie_weights(missing_keys=set())
    assert untied.all_tied_weights_keys == {HEAD: EMBEDDING}


def test_without_recomputing_nothing_new_is_tied(untied):
    untied.tie_weights(recompute_mapping=False)
    assert untied.all_tied_weights_keys == {}
    untied.tie_weights()
    missing = {HEAD}
    untied.tie_weights(missing, recompute_mapping=False)
    assert missing == set()


def test_a_tied_parameter_is_not_missing_by_one_of_its_names():
    model = BertForMaskedLM.abstract(values("BertForMaskedLM"))
    words, decoder = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
    for kind in (list, set):
        info = SimpleNamespace(missing_keys=kind([decoder, "cls.predictions.bias"]))
        model.mark_tied_weights_as_initialized(info)
        assert info.missing_keys == kind([])
        info = SimpleNamespace(missing_keys=kind([words, decoder]))
        model.mark_tied_weights_as_initialized(info)
        assert info.missing_keys == kind([words, decoder])


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_decoder_that_is_its_encoder(scan_layers, tmp_path):
    model = T5ForConditionalGeneration.from_pretrained(T5, scan_layers=scan_layers)
    arrays = {path.stem: np.load(path) for path in T5.glob("*.npy")}
    expected = arrays.pop("output")
    assert_close(model(**arrays).logits, expected, 1e-5)
    ties = model.all_tied_weights_keys
    first, second = (
        f"{part}.block.1.layer.{number}.DenseReluDense.wi.weight" for part, number in (("encoder", 1), ("decoder", 2))
    )
    assert ties[second] == first
    assert not any("EncDecAttention" in name for name in ties)
    assert same_params(
        {name: each for name, each in model.state_dict().items() if name in tensors_in(T5)}, tensors_in(T5)
    )
    model.save_pretrained(tmp_path)
    again = T5ForConditionalGeneration.from_pretrained(tmp_path)
    assert_close(again(**arrays).logits, expected, 1e-5)
    assert len(tensors_in(tmp_path)) == len(tensors_in(T5))


def test_a_tied_decoder_is_initialised_once_and_stays_tied():
    alike = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 20, "decoder_ffn_dim": 20}
    config = values("BartForConditionalGeneration", **alike)
    model = BartForConditionalGeneration(config | {"tie_encoder_decoder": True})
    state = model.state_dict()
    for name in ("self_attn.q_proj", "fc1", "final_layer_norm"):
        first, second = (state[f"model.{part}.layers.0.{name}.weight"] for part in ("encoder", "decoder"))
        np.testing.assert_array_equal(first, second)
    before = model.num_parameters()
    model.tie_embeddings_and_encoder_decoder()
    assert model.num_parameters() == before
    assert before < BartForConditionalGeneration.abstract(config).num_parameters()


def test_a_decoder_that_is_not_like_its_encoder_is_not_tied():
    with pytest.raises(ConfigError) as error:
        T5ForConditionalGeneration.abstract(
            values("T5ForConditionalGeneration", tie_encoder_decoder=True, num_layers=2, num_decoder_layers=3)
        )
    assert str(error.value) == ("tie_encoder_decoder=True needs as many layers of the decoder, 3, as of the encoder, 2")


def test_a_bias_follows_the_number_of_tokens():
    model: Any = BertForMaskedLM(values("BertForMaskedLM"))
    words = model.get_input_embeddings()
    model.get_bias()["bias"].set_value(jnp.arange(31.0))
    for rows, bias in ((33, [*range(31), 0, 0]), (30, range(30))):
        words.embedding.set_value(jnp.ones((rows, 36)))
        model.tie_weights()
        np.testing.assert_array_equal(model.get_bias()["bias"][...], bias)

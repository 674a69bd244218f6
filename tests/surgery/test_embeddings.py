"""The modules that embed the input and project the output, others in their place, and the bias of the logits."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny_configs import HEADS

from flaxmodels.errors import FlaxModelsError
from flaxmodels.nn.dense import Linear, TiedLinear
from flaxmodels.nn.embedding import Embedding, ScaledEmbedding
from flaxmodels.nn.initializers import normal, ones

CASES = {case.head: case for case in HEADS}
IDS = np.array([[5, 7, 11, 2], [1, 2, 3, 4]])


def model_of(head: str, **changes: Any) -> Any:
    return CASES[head].ours({**CASES[head].values, **changes})


def table(model: Any, rows: int, features: int) -> Embedding:
    made = Embedding(rows, features, model.policy, init=ones)
    made.embedding.set_value(jnp.arange(float(rows * features)).reshape(rows, features) % 7 / 7)
    return made


TIED = ["BertForMaskedLM", "BartForConditionalGeneration", "T5ForConditionalGeneration", "MarianMTModel"]


@pytest.mark.parametrize("head", [*TIED, "LlamaForCausalLM", "T5ForSequenceClassification"])
@pytest.mark.parametrize("more", [0, 3])
def test_ties_follow_other_input_embeddings(head, more):
    model = model_of(head)
    ties, old = model.all_tied_weights_keys, model.get_input_embeddings()
    new = table(model, old.num_embeddings + more, old.embedding.shape[1])
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is model.base_model.get_input_embeddings() is new
    assert model.all_tied_weights_keys == ties
    others = [value for value in model.state_dict().values() if value.shape == old.embedding.shape and more]
    assert len(others) == (more > 0 and head == "LlamaForCausalLM")
    if head in TIED:
        assert model.get_output_embeddings().embedding is new.embedding
    if more == 0 and not head.startswith("T5ForSeq"):
        assert not np.allclose(model(IDS).logits, model_of(head)(IDS).logits)
    if head == "BertForMaskedLM":
        assert model(IDS).logits.shape[-1] == old.num_embeddings + more


def test_input_embeddings_that_do_not_fit():
    heads = ("GemmaForCausalLM", "BertForMaskedLM", "ViTModel")
    gemma, bert, vit = (CASES[head].ours.abstract(dict(CASES[head].values)) for head in heads)
    before = gemma.get_input_embeddings()
    size = before.embedding.shape[1]
    for model, value, message in (
        (gemma, table(gemma, 31, size), "input embeddings: expected a module of ScaledEmbedding, got Embedding"),
        (bert, None, "input embeddings: expected a module of Embedding, got NoneType"),
        (
            vit,
            table(vit, 31, 36),
            f"input embeddings: expected a module of {type(vit.get_input_embeddings()).__name__}, got Embedding",
        ),
    ):
        with pytest.raises(TypeError) as error:
            model.set_input_embeddings(value)
        assert str(error.value) == message
    with pytest.raises(FlaxModelsError) as wrong:
        bert.set_input_embeddings(table(bert, 31, 35))
    assert str(wrong.value) == (
        "input embeddings of BertForMaskedLM: expected parameters {'embedding': (31, 36)}, got {'embedding': (31, 35)}"
    )
    with pytest.raises(NotImplementedError) as missing:
        model_of("ResNetModel").set_input_embeddings(None)
    assert str(missing.value) == "ResNetModel has no input embeddings"
    assert gemma.get_input_embeddings() is before
    scaled = ScaledEmbedding(33, size, gemma.policy, scale=2.0, init=ones)
    gemma.set_input_embeddings(scaled)
    assert gemma.get_input_embeddings() is scaled


@pytest.mark.parametrize(
    "head",
    ["LlamaForCausalLM", "BertForMaskedLM", "T5ForConditionalGeneration", "ModernBertForMaskedLM", "BartForCausalLM"],
)
def test_other_output_embeddings(head):
    model = model_of(head)
    old = model.get_output_embeddings()
    features = model.get_input_embeddings().embedding.shape[1]
    new: Any = Linear(features, 3, model.policy, init=normal(0.1))
    new.kernel.set_value(jnp.ones((features, 3)))
    new.bias.set_value(jnp.arange(3.0))
    model.set_output_embeddings(new)
    assert model.get_output_embeddings() is new
    assert model(IDS).logits.shape[-1] == 3
    model.set_output_embeddings(old)
    assert model.get_output_embeddings() is old
    with pytest.raises(FlaxModelsError) as error:
        model.set_output_embeddings(Linear(features + 1, 3, model.policy, init=ones))
    assert str(error.value) == f"output embeddings: expected a projection from {features} features, got {features + 1}"
    with pytest.raises(TypeError) as wrong:
        model.set_output_embeddings(model.get_input_embeddings())
    assert str(wrong.value).startswith("output embeddings: expected a Linear or a TiedLinear, got ")


def test_models_that_do_not_predict_tokens():
    model = model_of("BertModel")
    model.set_output_embeddings(None)
    found = (model.get_output_embeddings, model.get_lm_head, model.get_bias, model.get_output_layer_with_bias)
    assert [method() for method in (*found, model.get_prefix_bias_name)] == [None] * 5
    with pytest.raises(NotImplementedError) as error:
        model.set_output_embeddings(Linear(36, 3, model.policy, init=ones))
    assert str(error.value) == "BertModel has no output embeddings"
    with pytest.raises(FlaxModelsError) as wrong:
        model.set_bias({"bias": np.zeros(3)})
    assert str(wrong.value) == "set_bias: expected what get_bias gives, nothing, got bias"


@pytest.mark.parametrize(
    ("head", "lm_head", "layer", "bias"),
    [
        ("BertForMaskedLM", "cls.predictions", "cls/predictions", "bias"),
        ("RobertaForMaskedLM", "lm_head", "lm_head", "bias"),
        ("DistilBertForMaskedLM", "vocab_projector", "vocab_projector", "bias"),
        ("ElectraForMaskedLM", "generator_lm_head", "generator_lm_head", "bias"),
        ("AlbertForMaskedLM", "predictions", "predictions", "bias"),
        ("MPNetForMaskedLM", "lm_head", "lm_head", "bias"),
        ("GPTJForCausalLM", "lm_head", "lm_head", "bias"),
        ("BartForConditionalGeneration", "lm_head", "", "final_logits_bias"),
        ("LlamaForCausalLM", "lm_head", None, None),
    ],
)
def test_the_bias_of_the_logits(head, lm_head, layer, bias):
    model = model_of(head)
    owner = model
    for step in lm_head.split("."):
        owner = getattr(owner, step)
    assert model.get_lm_head() is owner
    if bias is None:
        assert model.get_bias() is model.get_output_layer_with_bias() is model.get_prefix_bias_name() is None
        return
    assert model.get_prefix_bias_name() == "/".join(filter(None, (head, layer)))
    found = model.get_bias()
    assert list(found) == [bias]
    assert getattr(model.get_output_layer_with_bias(), bias) is found[bias]
    before = model(IDS).logits
    new = np.linspace(-1, 1, before.shape[-1]).reshape(found[bias].shape)
    model.set_bias({bias: new})
    np.testing.assert_allclose(model(IDS).logits - before, np.broadcast_to(new.reshape(-1), before.shape), atol=1e-5)
    model.set_bias(model_of(head).get_bias())
    np.testing.assert_array_equal(model(IDS).logits, before)
    for value, message in (
        ({}, f"set_bias: expected what get_bias gives, {bias}, got nothing"),
        ({bias: np.zeros(3)}, f"set_bias: {bias}: expected the shape {found[bias].shape}, got (3,)"),
    ):
        with pytest.raises(FlaxModelsError) as error:
            model.set_bias(value)
        assert str(error.value) == message


def test_a_projection_of_its_own_has_its_own_bias():
    model = model_of("BertForMaskedLM", tie_word_embeddings=False)
    assert isinstance(model.get_output_embeddings(), Linear)
    assert model.get_bias()["bias"] is model.get_output_embeddings().bias
    assert model.get_prefix_bias_name() == "BertForMaskedLM/cls/predictions/decoder"
    assert isinstance(model_of("BertForMaskedLM").get_output_embeddings(), TiedLinear)

"""Another number of tokens: the numbers of torch, and all that follows the vocabulary."""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import Mesh, PartitionSpec
from models.comparisons import assert_close
from models.family import Case
from models.tiny_configs import CASES
from models.torch_reference import torch_model, torch_state

from flaxmodels.errors import FlaxModelsError
from flaxmodels.models.bert import BertForMaskedLM
from flaxmodels.models.llama import LlamaForCausalLM
from flaxmodels.models.vit import ViTModel
from flaxmodels.surgery.resize import row_distribution, sample_rows

BY_NAME = {case.name: case for case in CASES}
RESIZED = [
    *(
        "BertForMaskedLM",
        "BertForTokenClassification",
        "DistilBertForMaskedLM",
        "RobertaForCausalLM",
        "MPNetForMaskedLM",
    ),
    *("AlbertForMaskedLM", "ElectraForMaskedLM", "ModernBertForMaskedLM", "LlamaForCausalLM", "GemmaForCausalLM"),
    *("GPT2DoubleHeadsModel", "GPTJForCausalLM", "OPTForCausalLM", "BartForConditionalGeneration", "BartForCausalLM"),
    *(
        "MarianMTModel",
        "T5ForConditionalGeneration",
        "T5EncoderModel",
        "WhisperForConditionalGeneration",
        "CLIPTextModel",
    ),
    "SiglipModel",
]
UNTIED = ["BertForMaskedLM", "LlamaForCausalLM", "GPTJForCausalLM", "DistilBertForMaskedLM"]
IDS = np.array([[5, 7, 11, 2], [1, 2, 3, 4]])
UNUSED = {"cls.predictions.bias"}
"""Of an untied BERT: its decoder has a bias of its own, with which torch replaces this one."""


def pair(name: str, **changes) -> tuple[Any, Any]:
    """Our model and torch's, with the same values."""
    case = BY_NAME[name]
    case = Case(name, case.family, case.head, {**case.values, **changes})
    theirs: Any = torch_model(case)
    ours = case.ours.from_pretrained(None, config=theirs.config.to_dict(), state_dict=torch_state(theirs))
    return ours, theirs


def vocabulary(config) -> int:
    return (getattr(config, "text_config", None) or config).vocab_size


def compared(ours, theirs, size: int, old: int, **options) -> None:
    """Resize both; old rows are equal bit for bit, new ones as far as they are not random."""
    returned = ours.resize_token_embeddings(size, **options)
    with warnings.catch_warnings(action="ignore"):
        theirs.resize_token_embeddings(size, **options)
    assert returned is ours.get_input_embeddings()
    found, expected = ours.state_dict(), torch_state(theirs)
    rows = theirs.get_input_embeddings().weight.shape[0]
    assert vocabulary(ours.config) == vocabulary(theirs.config) == rows
    for name in expected.keys() & found.keys() - UNUSED:
        assert found[name].shape == expected[name].shape, name
        sized = [axis for axis, length in enumerate(found[name].shape) if length == rows]
        axis = sized[0] if sized else 0
        kept = np.arange(min(old, found[name].shape[axis]))
        np.testing.assert_array_equal(found[name].take(kept, axis), expected[name].take(kept, axis), err_msg=name)
        # the new rows of both are samples, whose deviation is some 3e-5 of that of the old ones
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", RESIZED)
def test_more_tokens_and_fewer_as_in_torch(name, tmp_path):
    ours, theirs = pair(name)
    old = vocabulary(ours.config)
    ties = ours.all_tied_weights_keys
    for size in (old + 4, old - 3):
        compared(ours, theirs, size, min(old, size))
        old = size
    assert ours.all_tied_weights_keys == ties
    ours.save_pretrained(tmp_path)
    if ours.config.pad_token_id is not None or not hasattr(theirs.config, "text_config"):
        again, info = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
        assert not info["mismatched_keys"]
        saved = torch_state(again)
        for key, value in ours.state_dict().items():
            if key in saved:
                np.testing.assert_array_equal(value, saved[key], err_msg=key)


@pytest.mark.parametrize("name", UNTIED)
@pytest.mark.parametrize("mean_resizing", [True, False])
def test_a_projection_of_its_own(name, mean_resizing):
    ours, theirs = pair(name, tie_word_embeddings=False)
    old = ours.config.vocab_size
    if mean_resizing:
        return compared(ours, theirs, old + 5, old)
    before = ours.state_dict()
    ours.resize_token_embeddings(old + 5, mean_resizing=False)
    fresh = type(ours)(ours.config)
    for key, value in ours.state_dict().items():
        if value.shape != before[key].shape:
            np.testing.assert_array_equal(value[:old], before[key])
            deviation = fresh.state_dict()[key].std()
            assert np.abs(value[old:]).max() <= 5 * deviation
            assert (value[old:] != 0).any() == (deviation > 0)
    assert ours(IDS).logits.shape[-1] == old + 5
    return None


@pytest.mark.parametrize("name", ["BertForMaskedLM", "LlamaForCausalLM", "BartForConditionalGeneration"])
def test_predictions_of_the_resized_model_are_those_of_torch(name, tmp_path):
    ours, theirs = pair(name)
    before = ours(IDS).logits
    ours.resize_token_embeddings(40)
    np.testing.assert_allclose(ours(IDS).logits[..., : before.shape[-1]], before, rtol=1e-5, atol=1e-6)
    new = np.array([[39, 38, 2, 3]])
    logits = ours(new).logits
    assert logits.shape == (1, 4, 40)
    ours.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = type(theirs).from_pretrained(tmp_path).eval()(torch.from_numpy(new)).logits
    assert_close(logits, expected, 1e-5)


def test_the_distribution_of_new_rows_is_that_of_torch():
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)) + 3).astype(np.float32)
    mean, factor = row_distribution(jnp.asarray(rows))
    tensor = torch.from_numpy(rows)
    centered = tensor - tensor.mean(0)
    theirs = torch.distributions.MultivariateNormal(tensor.mean(0), 1e-9 * (centered.T @ centered / len(rows)))
    np.testing.assert_allclose(mean, theirs.mean, rtol=1e-6)
    np.testing.assert_allclose(factor, theirs.scale_tril, rtol=1e-4, atol=1e-9)
    key = jax.random.key(7)
    found = sample_rows(key, jnp.asarray(rows), 4000)
    spread = np.cov((np.asarray(found, np.float64) - np.asarray(mean)).T)
    np.testing.assert_allclose(spread, theirs.covariance_matrix, rtol=0.2, atol=2e-9)


def test_rows_of_a_singular_covariance_are_the_mean():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(5, 8)), jnp.bfloat16)
    found = sample_rows(jax.random.key(0), rows, 2)
    np.testing.assert_allclose(found, np.tile(rows.astype(jnp.float32).mean(0), (2, 1)), rtol=1e-6)


@pytest.fixture
def llama() -> Any:
    case = BY_NAME["LlamaForCausalLM"]
    return LlamaForCausalLM({**case.values, "tie_word_embeddings": False, "num_hidden_layers": 1, "vocab_size": 50})


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [((None, 8), 56), ((50, 8), 56), ((56, 8), 56), ((57, 8), 64), ((61, None), 61), ((50, None), 50), ((1, 1), 1)],
)
def test_the_number_is_rounded_up(llama, arguments, rows):
    llama.resize_token_embeddings(*arguments)
    assert llama.get_input_embeddings().num_embeddings == llama.config.vocab_size == rows
    assert llama.get_output_embeddings().kernel.shape[-1] == rows


def test_without_a_number_nothing_changes(llama):
    table, before, version = llama.get_input_embeddings(), llama.params, llama.config.state_version
    assert llama.resize_token_embeddings() is table
    assert llama.resize_token_embeddings(None, None, False) is table
    assert all(jax.tree.leaves(jax.tree.map(lambda one, other: one is other, llama.params, before)))
    assert llama.config.state_version == version


def test_programs_are_renewed(llama):
    for new in (60, 45):
        llama(IDS)
        llama.resize_token_embeddings(new)
        assert llama(np.full((1, 2), new - 1)).logits.shape == (1, 2, new)
        with pytest.raises(FlaxModelsError, match=rf"{new}"):
            llama(np.full((1, 2), new))
    assert llama.generate(IDS, max_new_tokens=2).sequences.max() < 45


def test_what_is_not_there_yet_is_resized_too(llama):
    described = LlamaForCausalLM.abstract(llama.config)
    described.resize_token_embeddings(53)
    llama.config.vocab_size = 50  # the two have one configuration
    llama.resize_token_embeddings(53)
    assert described.params_shape_tree == llama.params_shape_tree


def test_dtype_and_seed(llama):
    llama.params = llama.to_bf16()
    twins = [type(llama)(llama.config.to_dict(), seed=seed) for seed in (0, 0, 1)]
    for model in (llama, *twins):
        model.params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params)
        model.resize_token_embeddings(53, mean_resizing=False)
    first, second, third = (model.get_input_embeddings().embedding[50:] for model in twins)
    assert first.dtype == jnp.bfloat16
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


def test_sharded_tables_keep_their_sharding(tmp_path, llama, caplog):
    mesh = Mesh(np.array(jax.devices()[:4]), ("tensor",))
    llama.save_pretrained(tmp_path)
    rules = [("embedding$", PartitionSpec("tensor")), ("lm_head/kernel$", PartitionSpec(None, "tensor"))]
    llama.resize_token_embeddings(52)
    llama.save_pretrained(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path, device_mesh=mesh, sharding_rules=rules)
    projection: Any = model.get_output_embeddings()
    table, head = model.get_input_embeddings().embedding, projection.kernel
    before = table[...].sharding, head[...].sharding
    model.resize_token_embeddings(54, pad_to_multiple_of=4)
    assert (table.shape, head.shape) == ((56, 36), (36, 56))
    assert (table[...].sharding, head[...].sharding) == before
    llama.resize_token_embeddings(56)
    np.testing.assert_allclose(model(IDS).logits, llama(IDS).logits, rtol=1e-4, atol=1e-5)
    with caplog.at_level(logging.WARNING, "flaxmodels"):
        model.resize_token_embeddings(57)
    assert table[...].sharding.is_fully_replicated
    assert re.match("model/embed_tokens/embedding: axes .* do not divide a dimension of 57", caplog.messages[0])


def test_the_vocabulary_of_a_model_in_a_model():
    case = BY_NAME["CLIPModel"]
    model = case.ours.abstract(dict(case.values))
    model.resize_token_embeddings(71)
    assert model.config.text_config.vocab_size == model.text_model.config.vocab_size == 71
    model.text_model.resize_token_embeddings(72)
    assert model.config.text_config.vocab_size == model.get_input_embeddings().num_embeddings == 72


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "BertForMaskedLM"])
def test_stacked_layers_are_no_obstacle(name):
    case = BY_NAME[name]
    models = [case.ours(dict(case.values), scan_layers=scan) for scan in (False, True)]
    for model in models:
        model.resize_token_embeddings(53)
    np.testing.assert_allclose(models[0](IDS).logits, models[1](IDS).logits, rtol=1e-5, atol=1e-6)


def test_a_padding_token_that_is_gone(caplog):
    model = BertForMaskedLM({**BY_NAME["BertForMaskedLM"].values, "pad_token_id": 29})
    model.resize_token_embeddings(30)
    assert model.config.pad_token_id == 29
    with caplog.at_level(logging.WARNING, "flaxmodels"):
        model.resize_token_embeddings(29)
    assert model.config.pad_token_id is None
    assert caplog.messages == ["pad_token_id=29 is not among the 29 tokens any more: it is None"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "new_num_tokens=0: expected a positive integer"),
        ((9.0,), "new_num_tokens=9.0: expected a positive integer"),
        ((9, True), "pad_to_multiple_of=True: expected a positive integer"),
        ((None, -8), "pad_to_multiple_of=-8: expected a positive integer"),
    ],
)
def test_numbers_that_are_none(llama, arguments, message):
    with pytest.raises(FlaxModelsError) as error:
        llama.resize_token_embeddings(*arguments)
    assert str(error.value) == message


def test_a_model_of_images_has_no_tokens():
    with pytest.raises(NotImplementedError) as error:
        ViTModel.abstract({}).resize_token_embeddings(9)
    assert str(error.value) == "ViTModel reads no tokens: its input embeddings are a PatchProjection"

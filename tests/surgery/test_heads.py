"""Pruned attention heads: what transformers 4.57 did (`fixtures/transformers4.py`), saved and reloaded."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.comparisons import assert_close, same_params
from models.torch_reference import tensors_in

import flaxmodels
from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.models.bert import BertLMHeadModel, BertModel
from flaxmodels.models.bloom import BloomModel
from flaxmodels.models.gpt2 import GPT2LMHeadModel
from flaxmodels.models.mpnet import MPNetModel

FOLDER = Path(__file__).parents[1] / "fixtures" / "transformers4"
PRUNED = {0: [0, 2], 1: [3]}
NAMES = ["BertForMaskedLM", "DistilBertForMaskedLM", "GPT2LMHeadModel", "ViTForImageClassification"]
TINY = {"vocab_size": 13, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 5}
IDS = np.array([[5, 7, 11, 2]])


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


def given(name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The inputs of a fixture, and what torch made of them."""
    arrays = {path.stem: np.load(path) for path in (FOLDER / name).glob("*.npy")}
    return arrays, arrays.pop("output")


def test_a_pruned_checkpoint_loads_and_is_saved_as_it_was(name, tmp_path):
    model = getattr(flaxmodels, name).from_pretrained(FOLDER / name)
    inputs, expected = given(name)
    assert_close(model(**inputs).logits, expected, 1e-5)
    assert model.config.pruned_heads == PRUNED
    model.save_pretrained(tmp_path)
    assert same_params(tensors_in(tmp_path), tensors_in(FOLDER / name))
    again = type(model).from_pretrained(tmp_path)
    assert same_params(again.params, model.params)
    assert again.config.pruned_heads == PRUNED


def test_pruning_gives_the_weights_of_the_pruned_torch_model(name):
    model = getattr(flaxmodels, name).from_pretrained(FOLDER / name / "full")
    inputs, expected = given(name)
    assert not np.allclose(model(**inputs).logits, expected)
    model.prune_heads({0: [0]})
    model.prune_heads({1: [3], 0: (2, 0)})
    assert model.config.pruned_heads == PRUNED
    assert_close(model(**inputs).logits, expected, 1e-5)
    theirs = tensors_in(FOLDER / name)
    assert same_params({name: tensor for name, tensor in model.state_dict().items() if name in theirs}, theirs)


@pytest.mark.parametrize("kind", [GPT2LMHeadModel, BertLMHeadModel])
def test_a_pruned_decoder_decodes_with_a_cache(kind):
    model = kind(TINY | {"is_decoder": True, "add_cross_attention": True, "max_position_embeddings": 9})
    encoder = {"encoder_hidden_states": np.ones((1, 3, 12), np.float32)}
    model.prune_heads({1: [0, 1, 2]})
    assert [cache.key.shape[-2:] for cache in jax.eval_shape(lambda: model.init_cache(1, 4))] == [(4, 3), (1, 3)]
    whole = model(IDS, **encoder)
    first = model(IDS[:, :3], **encoder, past_key_values=model.init_cache(1, 4))
    last = model(IDS[:, 3:], **encoder, past_key_values=first.past_key_values)
    np.testing.assert_allclose(last.logits[:, -1], whole.logits[:, -1], rtol=1e-5, atol=1e-6)


def test_a_description_is_pruned_and_a_new_model_begins_so():
    described = BertModel.abstract(TINY)
    described.prune_heads({0: [1]})
    model = BertModel(TINY | {"pruned_heads": {"0": [1]}})
    assert jax.tree.map(jnp.shape, model.params) == jax.tree.map(lambda leaf: leaf.shape, described.params_shape_tree)
    assert model.params["encoder"]["layer"]["0"]["attention"]["self"]["query"]["kernel"].shape == (12, 9)


def test_heads_that_there_are_not():
    model = BertModel.abstract(TINY)
    with pytest.raises(ConfigError) as error:
        model.prune_heads({0: [0, 1, 2, 3], 1: [4, 9], 7: [0]})
    assert str(error.value) == (
        "heads that cannot be pruned:\n"
        "  - layer 7: there are 2\n"
        "  - layer 0: all of its 4 heads, of which one must stay\n"
        "  - layer 1, heads 4, 9: there are 4"
    )
    assert not hasattr(model.config, "pruned_heads")


def test_models_that_cannot_be_pruned():
    for kind in (BloomModel, MPNetModel):
        with pytest.raises(NotImplementedError) as error:
            kind.abstract(TINY).prune_heads({0: [1]})
        assert str(error.value) == f"{kind.__name__}: its heads cannot be pruned, as those of BERT, GPT-2 and ViT can"
    with pytest.raises(ConfigError) as error:
        MPNetModel.abstract(TINY | {"pruned_heads": {0: [1]}})
    assert str(error.value) == "pruned_heads: heads of MPNetModel cannot be pruned"
    with pytest.raises(FlaxModelsError) as error:
        BertModel.abstract(TINY, scan_layers=True).prune_heads({0: [1]})
    assert str(error.value) == ("heads of stacked layers cannot be pruned: load the model with scan_layers=False")

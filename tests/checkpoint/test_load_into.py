"""Checkpoints into models that exist, trees of arrays, state dicts and renamed tensors."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from models.comparisons import same_params
from models.tiny_configs import FAMILIES

import flaxmodels
from flaxmodels.errors import CheckpointError, CheckpointMismatch, FlaxModelsError
from flaxmodels.models.bert import BertModel
from flaxmodels.models.llama import LlamaForCausalLM

CONFIG = FAMILIES["llama"].config


@pytest.fixture(scope="module")
def model():
    return LlamaForCausalLM(CONFIG, seed=1)


def test_load_sharded_checkpoint_fills_a_model(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="6KB")
    other = LlamaForCausalLM(CONFIG, seed=2)
    info = flaxmodels.load_sharded_checkpoint(other, tmp_path)
    assert (info.missing_keys, info.unexpected_keys) == ([], [])
    assert same_params(other.params, model.params)


def test_load_sharded_checkpoint_reads_other_formats_and_is_strict(model, tmp_path):
    model.save_pretrained(tmp_path, format="flax")
    other = LlamaForCausalLM({**CONFIG, "num_hidden_layers": CONFIG["num_hidden_layers"] + 1}, seed=2)
    with pytest.raises(CheckpointMismatch, match=r"^16 missing in flax_model.msgpack\n"):
        flaxmodels.load_sharded_checkpoint(other, tmp_path)
    info = flaxmodels.load_sharded_checkpoint(other, tmp_path, strict=False)
    assert len(info.missing_keys) == 16


@pytest.mark.parametrize("format", ["flax", "flax-safetensors"])
def test_shards_of_flax_are_one_tree(tmp_path, format):
    model = BertModel(FAMILIES["bert"].config, seed=1)
    model.save_pretrained(tmp_path, max_shard_size="6KB", format=format)
    shards = sorted(path for path in tmp_path.iterdir() if "-of-" in path.name)
    assert len(shards) > 1
    assert same_params(BertModel.load_flax_sharded_weights(shards), model.params)
    (index,) = tmp_path.glob("*.index.json")
    assert same_params(BertModel.load_flax_weights(index), model.params)
    with pytest.raises(CheckpointError, match=rf"^{shards[0].name} repeats arrays of other shards: "):
        BertModel.load_flax_sharded_weights([shards[0], shards[0]])


def test_torch_files_are_no_trees(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"^model.safetensors is in torch names and layout: load it with from_p"):
        LlamaForCausalLM.load_flax_weights(tmp_path / "model.safetensors")


def test_a_state_dict_takes_the_place_of_a_checkpoint(model):
    state = {name: torch.from_numpy(np.array(value)) for name, value in model.state_dict().items()}
    loaded = LlamaForCausalLM.from_pretrained(None, config=CONFIG, state_dict=state)
    next(iter(state.values())).zero_()
    assert same_params(loaded.params, model.params)
    with pytest.raises(FlaxModelsError, match=r"^from_pretrained\(None\) needs config= and state_dict=$"):
        LlamaForCausalLM.from_pretrained(None, config=CONFIG)


def test_key_mapping_renames_tensors(model):
    state = {name.replace("model.", "decoder.blocks."): value for name, value in model.state_dict().items()}
    options = {"config": CONFIG, "state_dict": state}
    loaded = LlamaForCausalLM.from_pretrained(None, key_mapping={r"^decoder\.blocks\.": "model."}, **options)
    jax.tree.map(np.testing.assert_array_equal, loaded.state_dict(), model.state_dict())
    with pytest.raises(CheckpointError, match=r"^key_mapping gives several tensors the same name: same$"):
        LlamaForCausalLM.from_pretrained(None, key_mapping={"^.*$": "same"}, **options)

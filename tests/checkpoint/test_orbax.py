"""Orbax: what we save Orbax restores, what Orbax saves we load, whole or in parts."""

from __future__ import annotations

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh
from models.comparisons import same_params
from models.tiny_configs import FAMILIES

from flaxmodels.errors import CheckpointError
from flaxmodels.files.orbax import OrbaxFolder
from flaxmodels.models.llama import LlamaForCausalLM

CONFIG = {**FAMILIES["llama"].config, "hidden_size": 32, "intermediate_size": 24, "vocab_size": 64}


@pytest.fixture(scope="module")
def model():
    return LlamaForCausalLM(CONFIG, seed=1)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbax")
    model.save_pretrained(folder, format="orbax")
    return folder


def test_orbax_restores_what_we_save(model, folder):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        restored = checkpointer.restore(
            folder / "flax_model.orbax",
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), model.params),
        )
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "flax_model.orbax"]
    assert same_params(restored, model.params)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_saved_model_loads_unrolled_and_scanned(model, folder, scan_layers):
    loaded = LlamaForCausalLM.from_pretrained(folder, scan_layers=scan_layers)
    jax.tree.map(np.testing.assert_array_equal, loaded.state_dict(), model.state_dict())


def test_a_scanned_model_saves_its_layers_apart(model, folder, tmp_path):
    LlamaForCausalLM.from_pretrained(folder, scan_layers=True).save_pretrained(tmp_path, format="orbax")
    assert same_params(LlamaForCausalLM.from_pretrained(tmp_path / "flax_model.orbax").params, model.params)


def test_a_sharded_model_saves_and_loads_sharded(model, folder, tmp_path):
    mesh = Mesh(np.array(jax.devices()), ("model",))
    sharded = LlamaForCausalLM.from_pretrained(folder, device_mesh=mesh)
    sharded.save_pretrained(tmp_path, format="orbax")
    loaded = LlamaForCausalLM.from_pretrained(tmp_path, device_mesh=mesh, sharding_rules="tp", param_dtype="bfloat16")
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(loaded.params))
    expected = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), model.params)
    assert same_params(loaded.params, expected)


@pytest.mark.parametrize("options", [{}, {"use_ocdbt": False}, {"use_zarr3": True}], ids=str)
def test_training_checkpoints_of_orbax_load(model, tmp_path, options):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
        checkpointer.save(tmp_path / "flax_model.orbax", {"params": model.params, "step": np.int32(3)})
    model.config.save_pretrained(tmp_path)
    assert same_params(LlamaForCausalLM.from_pretrained(tmp_path / "flax_model.orbax").params, model.params)


def test_a_part_is_read_alone(model, folder):
    source = OrbaxFolder(folder / "flax_model.orbax")
    part = source.read("model/embed_tokens/embedding", (slice(3, 5), slice(0, 32)))
    np.testing.assert_array_equal(part, model.params["model"]["embed_tokens"]["embedding"][3:5])


def test_another_format_takes_its_place(model, folder, tmp_path):
    for format in ("orbax", "torch", "orbax", "flax-safetensors", "orbax"):
        model.save_pretrained(tmp_path, format=format)
        assert same_params(LlamaForCausalLM.from_pretrained(tmp_path).params, model.params)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "flax_model.orbax"]


def test_damage_is_named(model, tmp_path):
    model.save_pretrained(tmp_path, format="orbax")
    metadata = tmp_path / "flax_model.orbax" / "_METADATA"
    whole = metadata.read_text()
    metadata.write_text('{"tree_metadata": {"x": 3}}')
    with pytest.raises(CheckpointError, match=r"^_METADATA: tree_metadata does not describe a tree of arrays\. "):
        LlamaForCausalLM.from_pretrained(tmp_path)
    metadata.write_text(whole.replace("norm", "gone"))
    with pytest.raises(CheckpointError, match=r"^flax_model.orbax: model\..*gone.*: .* Download or copy it again.$"):
        LlamaForCausalLM.from_pretrained(tmp_path)

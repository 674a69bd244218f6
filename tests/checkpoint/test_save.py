"""Saving: what is written, what goes, what stays, and what a crash leaves."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from flax.core import freeze
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from models.comparisons import same_params
from models.tiny_configs import FAMILIES

from flaxmodels.errors import CheckpointError, FlaxModelsError
from flaxmodels.files import safetensors as safetensors_module
from flaxmodels.models.llama import LlamaModel

CONFIG = {**FAMILIES["llama"].config, "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 24}
FOREIGN = {"README.md": "mine", "tokenizer.json": "{}", "model.onnx": "x", "optimizer.bin": "x", "sub/model.bin": "x"}


@pytest.fixture(scope="module")
def model() -> LlamaModel:
    return LlamaModel(CONFIG)


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def weights_in(folder: Path) -> set[str]:
    return {name for name in files_in(folder) if name.endswith((".safetensors", ".msgpack", ".bin", ".index.json"))}


# ---- what is written


def test_a_folder_has_weights_and_configuration(model, tmp_path):
    model.save_pretrained(tmp_path / "new" / "folder")
    assert files_in(tmp_path / "new" / "folder") == {"config.json", "model.safetensors"}
    config = json.loads((tmp_path / "new" / "folder" / "config.json").read_text())
    assert (config["architectures"], config["torch_dtype"]) == (["LlamaModel"], "float32")
    with safetensors.safe_open(tmp_path / "new" / "folder" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_shards_are_at_most_as_large_as_asked(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="6KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert weights_in(tmp_path) == {"model.safetensors.index.json", *shards}
    assert len(shards) > 2
    assert index["metadata"]["total_size"] == model.get_memory_footprint()
    for shard in shards:
        tensors = safetensors.torch.load_file(tmp_path / shard)
        assert set(tensors) == {name for name, file in index["weight_map"].items() if file == shard}
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 6000 or len(tensors) == 1


def test_half_precision_stays_half_precision(model, tmp_path):
    model.save_pretrained(tmp_path, params=model.to_bf16())
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    loaded = LlamaModel.from_pretrained(tmp_path, torch_dtype="auto")
    assert (loaded.policy.dtype, loaded.policy.param_dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert same_params(loaded.params, model.to_bf16())


@pytest.mark.parametrize("safe", [True, False])
def test_parameters_that_are_spread_over_devices(model, tmp_path, safe):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))

    def spread(leaf):
        axes = [name if size % mesh.shape[name] == 0 else None for name, size in zip("xy", leaf.shape, strict=False)]
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*axes)))

    params = jax.tree.map(spread, model.params)
    assert len(params["layers"]["0"]["mlp"]["up_proj"]["kernel"].addressable_shards[0].data) == 8
    model.save_pretrained(tmp_path, params=params, safe_serialization=safe, max_shard_size=6000)
    assert same_params(LlamaModel.from_pretrained(tmp_path).params, model.params)


def test_only_the_main_process_writes(model, tmp_path):
    model.save_pretrained(tmp_path / "x", is_main_process=False)
    assert not (tmp_path / "x").exists()


def test_params_and_sizes_that_cannot_be_saved(model, tmp_path):
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    wrong = model.params | {"norm": {"scale": jnp.ones(3)}}
    with pytest.raises(FlaxModelsError) as error:
        model.save_pretrained(tmp_path, params=wrong)
    assert str(error.value) == ("the parameters do not fit the model:\n  ! norm/scale: given (3,), model (32,)")
    with pytest.raises(FlaxModelsError) as error:
        model.save_pretrained(tmp_path, max_shard_size="5 apples")
    assert str(error.value) == (
        "'5 apples' is not a size in bytes. Use a number, '200MB', '5GB' or '1GiB', for example."
    )
    assert (files_in(tmp_path), (tmp_path / "model.safetensors").read_bytes()) == (
        {"config.json", "model.safetensors"},
        before,
    )


def test_the_second_argument_is_the_parameters_or_the_main_process(model, tmp_path):
    ones = jax.tree.map(jnp.ones_like, model.params)
    for number, given in enumerate([ones, freeze(ones), MappingProxyType(ones)]):
        model.save_pretrained(tmp_path / str(number), given)
        assert same_params(LlamaModel.from_pretrained(tmp_path / str(number)).params, ones)
    model.save_pretrained(tmp_path / "true", True)
    model.save_pretrained(tmp_path / "none", None)
    model.save_pretrained(tmp_path / "false", False)
    model.save_pretrained(tmp_path / "keyword", is_main_process=False, params=ones)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "2", "true", "none"}
    for name in ("true", "none"):
        assert same_params(LlamaModel.from_pretrained(tmp_path / name).params, model.params)


@pytest.mark.parametrize(
    ("second", "keywords", "message"),
    [
        (
            "5GB",
            {},
            "save_pretrained() takes params (a mapping) or is_main_process (a bool) as its second argument, got str: "
            "pass the others by keyword",
        ),
        (
            1,
            {},
            "save_pretrained() takes params (a mapping) or is_main_process (a bool) as its second argument, got int: "
            "pass the others by keyword",
        ),
        ({}, {"params": {}}, "save_pretrained() got params twice: as its second argument and by keyword"),
        (
            True,
            {"is_main_process": True},
            "save_pretrained() got is_main_process twice: as its second argument and by keyword",
        ),
    ],
)
def test_second_arguments_that_are_neither(model, tmp_path, second, keywords, message):
    with pytest.raises(TypeError) as error:
        model.save_pretrained(tmp_path / "x", second, **keywords)
    assert str(error.value) == message
    assert not (tmp_path / "x").exists()


def test_everything_further_is_by_keyword(model, tmp_path):
    with pytest.raises(TypeError, match=r"takes from 2 to 3 positional arguments but 4 were given"):
        model.save_pretrained(tmp_path / "x", True, model.params)


def test_variants_live_side_by_side(model, tmp_path):
    other = jax.tree.map(jnp.zeros_like, model.params)
    model.save_pretrained(tmp_path, max_shard_size=6000)
    plain = weights_in(tmp_path)
    for size in (6000, "5GB"):
        model.save_pretrained(tmp_path, params=other, variant="v2", max_shard_size=size)
        assert same_params(LlamaModel.from_pretrained(tmp_path, variant="v2").params, other)
        assert same_params(LlamaModel.from_pretrained(tmp_path).params, model.params)
    assert weights_in(tmp_path) == plain | {"model.v2.safetensors"}


def test_a_model_can_be_saved_where_it_was_loaded_from(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = LlamaModel.from_pretrained(tmp_path)
    loaded.save_pretrained(tmp_path, params=jax.tree.map(lambda x: x + 1, loaded.params))
    assert same_params(loaded.params, model.params)
    again = LlamaModel.from_pretrained(tmp_path)
    assert same_params(again.params, jax.tree.map(lambda x: x + 1, model.params))


# ---- crashes


@pytest.mark.parametrize("where", ["tensor", "sync"])
def test_a_full_disk_leaves_the_checkpoint_before(model, tmp_path, monkeypatch, where):
    model.save_pretrained(tmp_path, max_shard_size=6000)
    before = files_in(tmp_path)
    calls = []

    def full(*args):
        calls.append(args)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(*{"tensor": (safetensors_module, "write_array", full), "sync": (os, "fsync", full)}[where])
        with pytest.raises(CheckpointError) as error:
            model.save_pretrained(tmp_path, params=jax.tree.map(jnp.zeros_like, model.params), max_shard_size=9000)
    assert str(error.value) == (
        f"could not save into {tmp_path}: no space left on the device. What was there before is unchanged; "
        "free space or make the folder writable, and save again."
    )
    assert files_in(tmp_path) == before
    assert same_params(LlamaModel.from_pretrained(tmp_path).params, model.params)

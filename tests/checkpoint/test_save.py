"""Saving: what is written, what goes, what stays, and what a crash leaves."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from checkpoint.crashing_saver import WAYS
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


# ---- what goes and what stays


@pytest.mark.parametrize("second", [{}, {"max_shard_size": 9000}, {"safe_serialization": False}])
@pytest.mark.parametrize("first", [{"max_shard_size": 6000}, {"safe_serialization": False, "max_shard_size": 6000}])
def test_weights_of_an_earlier_save_go_and_foreign_files_stay(model, tmp_path, first, second):
    for name, text in FOREIGN.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "pytorch_model.bin").write_text("stale")
    model.save_pretrained(tmp_path, **first)
    model.save_pretrained(tmp_path, **second)
    model.save_pretrained(tmp_path / "clean", **second)
    assert files_in(tmp_path) - {f"clean/{name}" for name in files_in(tmp_path / "clean")} == {
        *FOREIGN,
        *files_in(tmp_path / "clean"),
    }
    assert {name: (tmp_path / name).read_text() for name in FOREIGN} == FOREIGN
    assert same_params(LlamaModel.from_pretrained(tmp_path).params, model.params)


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


@pytest.fixture(scope="module")
def killed_saver():
    """A function that saves in another process, which is killed at an access to the file system, or survives."""
    script = Path(__file__).with_name("crashing_saver.py")
    # A JAX backend has threads, and a fork of a process with threads may hang.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "none"}
    command = [sys.executable, "-W", "ignore", str(script), json.dumps(CONFIG | {"rms_norm_eps": 0.5})]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:

        def survives(folder: Path, way: str, moment: int | float) -> bool:
            process.stdin.write(json.dumps([str(folder), way, moment]) + "\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
            assert status in (0, signal.SIGKILL), f"the process that saves ended with status {status}"
            return status == 0

        yield survives
        process.stdin.close()


def version_in(folder: Path) -> int:
    """1 or 2: what all the parameters are, and what the configuration says."""
    loaded = LlamaModel.from_pretrained(folder)
    values = {float(value) for leaf in jax.tree.leaves(loaded.params) for value in np.unique(leaf)}
    assert values in ({1.0}, {2.0})
    assert (loaded.config.rms_norm_eps == 0.5) == (values == {2.0})
    return int(values.pop())


@pytest.mark.parametrize(
    ("first", "second"), [("torch", "flax"), ("flax", "one file"), ("one file", "torch"), ("torch", "convert")]
)
def test_a_kill_at_any_moment_leaves_one_version_or_the_other(model, tmp_path, killed_saver, first, second):
    ones = jax.tree.map(jnp.ones_like, model.params)
    model.save_pretrained(tmp_path / "first", params=ones, **WAYS[first])
    (tmp_path / "first" / "README.md").write_text("mine")
    versions, survived, access = [], False, 0
    while not survived:
        access += 1
        folder = shutil.copytree(tmp_path / "first", tmp_path / str(access))
        survived = killed_saver(folder, second, access)
        versions.append(version_in(folder))
        model.save_pretrained(folder, params=ones, **WAYS[first])
        assert files_in(folder) == files_in(tmp_path / "first")
    assert versions == sorted(versions)
    assert versions.count(1) > 10
    assert versions.count(2) > 3


@pytest.mark.parametrize("second", ["flax", "convert"])
def test_a_hundred_kills_at_random_moments(model, tmp_path, killed_saver, second):
    ones = jax.tree.map(jnp.ones_like, model.params)
    begin = time.perf_counter()
    assert killed_saver(tmp_path, second, 10**9)
    moments = np.random.default_rng(0).uniform(0, 2 * (time.perf_counter() - begin), 100)
    model.save_pretrained(tmp_path, params=ones, **WAYS["torch"])
    versions = []
    for moment in moments:
        killed_saver(tmp_path, second, float(moment))
        versions.append(version_in(tmp_path))
        if versions[-1] == 2:
            model.save_pretrained(tmp_path, params=ones, **WAYS["torch"])
    assert set(versions) == {1, 2}
    model.save_pretrained(tmp_path, params=ones, **WAYS["torch"])
    assert not [name for name in files_in(tmp_path) if name.startswith(".") or "flax" in name]

"""Saves into one folder at the same time, by threads and by processes, and readers meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from checkpoint.test_save import CONFIG

from flaxmodels.files.location import resolve
from flaxmodels.files.weights import find_weights
from flaxmodels.models.llama import LlamaModel

SAVER = """if True:
    import json, sys
    from checkpoint.crashing_saver import save
    from flaxmodels.models.llama import LlamaModel
    config, folder, way, value, count = sys.argv[1:]
    model = LlamaModel.abstract(json.loads(config))
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(int(count)):
        save(folder, way, model, float(value))
"""


def values_in(folder: Path) -> set[float]:
    source = find_weights(resolve(folder)).source
    return {float(value) for name in source.headers for value in np.unique(source.read(name))}


def saver(folder: Path, way: str, value: int, count: int) -> subprocess.Popen:
    """A process that saves a model of one value again and again when it is told to begin."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "none"}
    command = [sys.executable, "-W", "ignore", "-c", SAVER, json.dumps(CONFIG), folder, way, str(value), str(count)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("way", "count"),
    [
        ("torch", 10),
        pytest.param("torch", 120, marks=pytest.mark.exhaustive),
        pytest.param("one file", 120, marks=pytest.mark.exhaustive),
    ],
)
def test_two_processes_save_into_one_folder_while_it_is_read(tmp_path, way, count):
    model = LlamaModel(CONFIG)
    model.save_pretrained(tmp_path, params=jax.tree.map(np.zeros_like, model.params), max_shard_size=12000)
    with saver(tmp_path, way, 1, count) as first, saver(tmp_path, way, 2, count) as second:
        for process in (first, second):
            assert process.stdout is not None
            process.stdout.readline()
        for process in (first, second):
            assert process.stdin is not None
            process.stdin.write("begin\n")
            process.stdin.flush()
        seen = []
        while any(process.poll() is None for process in (first, second)):
            seen.append(values_in(tmp_path))
    assert (first.returncode, second.returncode) == (0, 0)
    assert all(values in ({0.0}, {1.0}, {2.0}) for values in seen)
    assert values_in(tmp_path) in ({1.0}, {2.0})
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("separate", [True, False])
def test_two_threads_save(tmp_path, separate):
    model = LlamaModel(CONFIG)
    folders = [tmp_path / "1", tmp_path / "2"] if separate else [tmp_path / "1"] * 2

    def save(number: int) -> None:
        params = jax.tree.map(lambda leaf: np.full(leaf.shape, number, leaf.dtype), model.params)
        for size in (12000, "5GB"):
            model.save_pretrained(folders[number - 1], params=params, max_shard_size=size)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(save, (1, 2)))
    assert [values_in(folder) for folder in folders] in ([{1.0}, {2.0}], [{1.0}] * 2, [{2.0}] * 2)
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}

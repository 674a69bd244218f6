"""Saves that are killed: readers find one version or the other before anything is repaired, and change nothing."""

from __future__ import annotations

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
from checkpoint.crashing_saver import WAYS
from checkpoint.test_save import CONFIG
from files.folders import snapshot

from flaxmodels.files.commit import replace_text
from flaxmodels.files.location import resolve
from flaxmodels.files.weights import find_weights
from flaxmodels.models.llama import LlamaModel


@pytest.fixture(scope="module")
def model() -> LlamaModel:
    return LlamaModel(CONFIG)


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
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def survives(folder: Path, way: str, moment: int | float) -> bool:
            stdin.write(json.dumps([str(folder), way, moment]) + "\n")
            stdin.flush()
            status = int(stdout.readline())
            assert status in (0, signal.SIGKILL), f"the process that saves ended with status {status}"
            return status == 0

        yield survives
        stdin.close()


def version_in(folder: Path) -> int:
    """1 or 2: what all the parameters are, and what the configuration says. Looking for it changes nothing."""
    before = snapshot(folder)
    location = resolve(folder)
    source = find_weights(location).source
    values = {float(value) for name in source.headers for value in np.unique(source.read(name))}
    assert values in ({1.0}, {2.0})
    assert (location.config()["rms_norm_eps"] == 0.5) == (values == {2.0})
    assert snapshot(folder) == before
    return int(values.pop())


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


FEW = [("flax", "one file"), ("torch", "convert")]
MANY = [("torch", "flax"), ("one file", "torch"), ("torch", "flax-safetensors"), ("flax", "orbax"), ("orbax", "torch")]


@pytest.mark.parametrize(
    ("first", "second"), FEW + [pytest.param(*pair, marks=pytest.mark.exhaustive) for pair in MANY]
)
def test_a_kill_at_any_access_leaves_one_version_or_the_other(model, tmp_path, killed_saver, first, second):
    ones = jax.tree.map(jnp.ones_like, model.params)
    model.save_pretrained(tmp_path / "first", params=ones, **WAYS[first])
    (tmp_path / "first" / "README.md").write_text("mine")
    versions, names, access, folder = [], {1: names_in(tmp_path / "first")}, 0, tmp_path
    while 2 not in names:
        access += 1
        folder = shutil.copytree(tmp_path / "first", tmp_path / str(access))
        survived = killed_saver(folder, second, access)
        versions.append(version_in(folder))
        if survived:
            names[2] = names_in(folder)
        replace_text(folder, "README.md", "newer")  # the next save
        assert version_in(folder) == versions[-1]
    for number, version in enumerate(versions, 1):
        assert names_in(tmp_path / str(number)) == names[version]
    if second != "orbax":  # whose threads reach the file system in another order each time
        assert versions == sorted(versions)
    assert versions.count(1) > 10
    assert versions.count(2) > 3
    loaded = LlamaModel.from_pretrained(folder)
    assert {float(value) for leaf in jax.tree.leaves(loaded.params) for value in np.unique(leaf)} == {2.0}


@pytest.mark.parametrize("count", [5, pytest.param(100, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("second", WAYS)
def test_kills_at_random_moments(model, tmp_path, killed_saver, second, count):
    ones = jax.tree.map(jnp.ones_like, model.params)
    first = "torch" if second != "torch" else "flax"
    begin = time.perf_counter()
    assert killed_saver(tmp_path, second, 10**9)
    moments = np.random.default_rng(0).uniform(0, 2 * (time.perf_counter() - begin), count)
    model.save_pretrained(tmp_path, params=ones, **WAYS[first])
    clean, versions = names_in(tmp_path), []
    for moment in moments:
        killed_saver(tmp_path, second, float(moment))
        versions.append(version_in(tmp_path))
        if versions[-1] == 2:
            model.save_pretrained(tmp_path, params=ones, **WAYS[first])
            assert names_in(tmp_path) == clean
    model.save_pretrained(tmp_path, params=ones, **WAYS[first])
    assert names_in(tmp_path) == clean
    assert count < 100 or set(versions) == {1, 2}

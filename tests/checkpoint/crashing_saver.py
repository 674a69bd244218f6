"""A server that saves over checkpoints and is killed in the middle. See `test_kills.py`.

Each line of its input is a folder, a way to save and a moment. A child process saves there. If the moment is an
integer n, it kills itself with SIGKILL just before its n-th access to the file system; if it is a float, it is killed
after so many seconds. The answer is the child's exit status, 0 if it survived.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint  # noqa: F401  here, so that each child need not
from tqdm import tqdm

from flaxmodels.checkpoint.convert import convert
from flaxmodels.checkpoint.mapping import torch_headers
from flaxmodels.checkpoint.params import ParamsSource
from flaxmodels.files.weights import Weights
from flaxmodels.models.llama import LlamaModel

ACCESSES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.scandir", "os.listdir", "shutil.rmtree"}
WAYS = {
    "torch": {"max_shard_size": 12000},
    "flax": {"safe_serialization": False, "max_shard_size": 12000},
    "one file": {},
    "flax-safetensors": {"format": "flax-safetensors", "max_shard_size": 12000},
    "orbax": {"format": "orbax"},
    "convert": None,
}


def save(folder: str, way: str, model: LlamaModel, value: float = 2) -> None:
    """A checkpoint in which all parameters are that value."""
    values = jax.tree.map(lambda leaf: np.full(leaf.shape, value, leaf.dtype), model.params_shape_tree)
    if WAYS[way] is not None:
        model.save_pretrained(folder, params=values, **WAYS[way])
        return
    state = {name: np.full(header.shape, value, header.dtype) for name, header in torch_headers(model).items()}
    weights = Weights(Path("model.safetensors"), ParamsSource(state), "torch")
    config = model.config.to_json_string(architectures=["LlamaModel"])
    convert(model, weights, Path(folder), to="flax", config=config, max_shard_size=12000)


def kill_at(access: int) -> None:
    count = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in ACCESSES:
            count += 1
            if count == access:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def outcome(child: int, moment: int | float) -> int:
    """The exit status of a child, which is killed if it lives longer than a float `moment`."""
    deadline = time.monotonic() + moment if isinstance(moment, float) else float("inf")
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def serve(config: dict) -> None:
    # The lock of progress bars is shared by forked processes: a child killed with it would stop all that follow.
    tqdm.set_lock(threading.RLock())
    tqdm.monitor_interval = 0
    model = LlamaModel.abstract(config)
    for way in WAYS.keys() - {"orbax"}:
        with tempfile.TemporaryDirectory() as folder:
            save(folder, way, model)
    for line in sys.stdin:
        folder, way, moment = json.loads(line)
        if child := os.fork():
            print(outcome(child, moment), flush=True)
            continue
        if way == "orbax":  # Orbax asks a backend who it is, and no process with a backend can be forked
            jax.config.update("jax_platforms", "cpu")
            jax.devices()
        if isinstance(moment, int):
            kill_at(moment)
        save(folder, way, model)
        os._exit(0)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))

"""One of two processes that hold a model together: loads its half, counts the bytes, and saves with the other.

Arguments: its number, the port of the first, the checkpoint, the folder for what is saved, and "save" or "fail": in
the latter case each save fails in one of the processes, the last because it is killed. Prints what it counted, or what
each failed save raised, as lines of JSON. See `test_hosts.py`.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"

import jax

number, port, source, target, task = int(sys.argv[1]), *sys.argv[2:]
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=number)

import numpy as np  # noqa: E402
import orbax.checkpoint  # noqa: E402
from counting import counting, held  # noqa: E402
from files.folders import snapshot  # noqa: E402
from jax.sharding import Mesh  # noqa: E402

from flaxmodels.files import arrays, msgpack, safetensors, weights  # noqa: E402
from flaxmodels.models.llama import LlamaForCausalLM  # noqa: E402

mesh = Mesh(np.array(jax.devices()).reshape(2, 4).T, ("data", "model"))  # "model" spans the processes


def loaded(rules: str = "tp") -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(source, device_mesh=mesh, sharding_rules=rules)


def save_each_format() -> Iterator[dict]:
    counters: list = []
    weights.open_weights = counting(counters)
    figures = {}
    for rules in ("tp", "fsdp"):
        model = loaded(rules)
        figures[rules] = (counters.pop().bytes, held(model.params))
    for format in ("torch", "flax", "orbax"):
        model.save_pretrained(f"{target}/{format}", format=format, max_shard_size="20KB")
    yield figures


def after(calls: int, act) -> None:
    """Let the writers of tensors, and that of trees, act instead of writing the tensor after so many calls."""
    written = []

    def write_array(*args):
        written.append(args)
        if len(written) > calls:
            act()
        arrays.write_array(*args)

    safetensors.write_array = msgpack.write_array = write_array
    orbax.checkpoint.PyTreeCheckpointHandler.save = lambda *args, **kwargs: act()


def failing(error: BaseException):
    def act():
        raise error

    return lambda: after(3, act)


def full() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))


WAYS = {
    "full disk": failing(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    "large file": full,  # which Orbax meets in earnest
    "error": failing(RuntimeError("the writer broke")),
    "kill": lambda: after(3, lambda: os.kill(os.getpid(), signal.SIGKILL)),
}
CASES = [
    (way, format, victim)
    for way in ("full disk", "large file", "error")
    for format in ("torch", "flax", "orbax")
    for victim in (0, 1)
]
SAVE_TREE = orbax.checkpoint.PyTreeCheckpointHandler.save


def mend() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    safetensors.write_array = msgpack.write_array = arrays.write_array
    orbax.checkpoint.PyTreeCheckpointHandler.save = SAVE_TREE


def fail_each_way() -> Iterator[dict]:
    """What each failed save raised, after how many seconds, and whether the folder was as before.

    The main process removes the staging folder when all have been told, so it alone looks at the folder.
    """
    model = loaded()
    folder = Path(target) / "failed"
    model.save_pretrained(folder, max_shard_size="20KB")
    before = snapshot(folder)
    params = jax.tree.map(lambda leaf: leaf + 1, model.params)
    for way, format, victim in [*CASES, ("kill", "torch", 1)]:
        if number == victim:
            WAYS[way]()
        begin, raised = time.perf_counter(), None
        try:
            model.save_pretrained(folder, params=params, format=format, max_shard_size="20KB")
        except Exception as error:
            raised = error
        seconds = time.perf_counter() - begin
        mend()
        yield {
            "case": (way, format, victim),
            "raised": (type(raised).__name__, str(raised)),
            "seconds": seconds,
            "unchanged": number != 0 or {**snapshot(folder), ".": None} == {**before, ".": None},
        }


if task == "fail":  # at the exit of Python, JAX would wait for the process that is no more
    atexit.register(os._exit, 0)
for result in {"save": save_each_format, "fail": fail_each_way}[task]():
    print(json.dumps(result), flush=True)

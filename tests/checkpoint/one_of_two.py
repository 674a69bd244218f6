"""One of two processes that hold a model together: loads its half, counts the bytes, and saves with the other.

Arguments: its number, the port of the first, the checkpoint, the folder for what is saved. See `test_hosts.py`.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"

import jax

number, port, source, target = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=number)

import numpy as np  # noqa: E402
from counting import counting, held  # noqa: E402
from jax.sharding import Mesh  # noqa: E402

from flaxmodels.files import resolve  # noqa: E402
from flaxmodels.models.llama import LlamaForCausalLM  # noqa: E402

counters: list = []
resolve.Location.weights = counting(counters)
mesh = Mesh(np.array(jax.devices()).reshape(2, 4).T, ("data", "model"))  # "model" spans the processes
figures = {}
for rules in ("tp", "fsdp"):
    model = LlamaForCausalLM.from_pretrained(source, device_mesh=mesh, sharding_rules=rules)
    figures[rules] = (counters.pop().bytes, held(model.params))
for format in ("torch", "flax", "orbax"):
    model.save_pretrained(f"{target}/{format}", format=format, max_shard_size="20KB")
print(json.dumps(figures))

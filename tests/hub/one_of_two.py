"""One of two processes that hold a model together and push it. Arguments: its number, the port of the first, the
checkpoint. Prints what `push_to_hub` gives as JSON. See `test_push.py`."""

from __future__ import annotations

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"

import jax

number, port, source = int(sys.argv[1]), *sys.argv[2:]
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=number)

import numpy as np  # noqa: E402
from jax.sharding import Mesh  # noqa: E402

from flaxmodels import LlamaForCausalLM  # noqa: E402

mesh = Mesh(np.array(jax.devices()).reshape(2, 4).T, ("data", "model"))  # "model" spans the processes
model = LlamaForCausalLM.from_pretrained(source, device_mesh=mesh, sharding_rules="tp")
print(json.dumps(model.push_to_hub("org/name", max_shard_size=18_000)))

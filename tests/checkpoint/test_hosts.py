"""Two processes under `jax.distributed`: each reads what its devices hold, and they save one checkpoint together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from models.comparisons import same_params

from flaxmodels import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The original model, what each process counted, and the folder in which they saved."""
    folder = tmp_path_factory.mktemp("hosts")
    model = LlamaForCausalLM(CONFIG, seed=1)
    model.save_pretrained(folder / "source")
    script, port = Path(__file__).with_name("one_of_two.py"), free_port()
    arguments = [port, folder / "source", folder / "saved"]
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(number), *map(str, arguments)],
            env=os.environ | {"PYTHONWARNINGS": "ignore", "PYTHONPATH": str(script.parent.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors[-3000:] for _, errors in outputs)
    return model, [json.loads(output.splitlines()[-1]) for output, _ in outputs], folder / "saved"


@pytest.mark.parametrize("rules", ["tp", "fsdp"])
def test_each_process_reads_what_its_devices_hold(results, rules):
    model, figures, _ = results
    size = model.get_memory_footprint()
    for found in figures:
        read, held = found[rules]
        assert read == held
        assert read < 0.75 * size


@pytest.mark.parametrize("format", ["torch", "flax", "orbax"])
def test_what_they_save_together_is_the_model(results, format):
    model, _, saved = results
    assert same_params(LlamaForCausalLM.from_pretrained(saved / format).params, model.params)
    shards = [path.name for path in (saved / format).iterdir() if "-of-" in path.name]
    assert len(shards) > 1 or format == "orbax"
    assert not [path.name for path in (saved / format).iterdir() if path.name.startswith(".")]

"""Two processes under `jax.distributed`: each reads what its devices hold, and they save one checkpoint together."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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


def run(task: str, source: Path, target: Path) -> list[subprocess.CompletedProcess]:
    """Let two processes do the task together."""
    script, port = Path(__file__).with_name("one_of_two.py"), free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(number), str(port), str(source), str(target), task],
            env=os.environ | {"PYTHONWARNINGS": "ignore", "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    with ThreadPoolExecutor(2) as pool:  # neither may wait until the other's output is read
        outputs = list(pool.map(lambda process: process.communicate(timeout=240), processes))
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The original model, and the folder in which it is."""
    folder = tmp_path_factory.mktemp("source")
    model = LlamaForCausalLM(CONFIG, seed=1)
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def results(model, tmp_path_factory):
    """The original model, what each process counted, and the folder in which they saved."""
    folder = tmp_path_factory.mktemp("saved")
    done = run("save", model[1], folder)
    assert [process.returncode for process in done] == [0, 0], "\n".join(process.stderr[-3000:] for process in done)
    return model[0], [json.loads(process.stdout.splitlines()[-1]) for process in done], folder


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


@pytest.fixture(scope="module")
def failures(model, tmp_path_factory):
    """The folder, and what each process says of each save that failed in one of them; the last kills the second."""
    folder = tmp_path_factory.mktemp("failed")
    done = run("fail", model[1], folder)
    assert [process.returncode for process in done] == [0, -signal.SIGKILL], done[0].stderr[-3000:]
    said = [[json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")] for process in done]
    return folder / "failed", [{tuple(result["case"]): result for result in results} for results in said]


REASONS = {
    "full disk": "no space left on the device",
    "large file": "File too large",
    "error": "RuntimeError: the writer broke",
}
UNCHANGED = "What was there before is unchanged"


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("format", ["torch", "flax", "orbax"])
@pytest.mark.parametrize("way", REASONS)
def test_a_save_that_fails_in_one_process_fails_in_both(failures, way, format, victim):
    folder, results = failures
    reason = REASONS[way]
    if way == "error" and format == "orbax":
        reason = f"Orbax failed to save ({reason})"
    remedy = "" if way == "error" else "; free space or make the folder writable, and save again"
    for found in (said[way, format, victim] for said in results):
        message = f"could not save into {folder}: process {victim}: {reason}. {UNCHANGED}{remedy}."
        assert found["raised"] == ["CheckpointError", message]
        assert found["seconds"] < 10
        assert found["unchanged"]


def test_a_save_fails_when_the_other_process_is_killed(failures):
    folder, (first, _) = failures
    found = first["kill", "torch", 1]
    kind, message = found["raised"]
    begin = re.escape(f"could not save into {folder}: another process has ended or cannot be reached (")
    end = re.escape("). Start all processes again. The folder holds what was there before, or all of the new files.")
    assert kind == "CheckpointError"
    assert re.fullmatch(f"{begin}.*{end}", message)
    assert found["seconds"] < 10
    assert found["unchanged"]

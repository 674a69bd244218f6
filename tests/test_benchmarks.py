"""The benchmarks run, and print their table. What they measure is no matter of tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize(
    ("script", "row"),
    [
        ("load.py", "| SmolLM2-135M, float32 as float32 |"),
        ("decode.py", "| tiny  |     2 | float32 |"),
        ("compile.py", "| train step, scanned"),
    ],
)
def test_quick_run_prints_a_table(script, row):
    results = BENCHMARKS / "results"
    before = {path: path.read_bytes() for path in results.glob("*")}
    command = [sys.executable, str(BENCHMARKS / script), "--quick", "--markdown"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert [line for line in finished.stdout.splitlines() if line.startswith(row)], finished.stdout
    assert {path: path.read_bytes() for path in results.glob("*")} == before

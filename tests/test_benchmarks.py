"""The benchmarks run, and print their table. What they measure is no matter of tests."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def common(monkeypatch):
    """The module that they share; what they change in the environment is taken back."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = dict(os.environ)
    import common

    yield common
    os.environ.clear()
    os.environ.update(before)


class Here:
    """A worker that is this process, where all that takes long to import is imported already."""

    def __init__(self, env: dict[str, str] | None = None):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, function, *args):
        return function(*args)


@pytest.mark.parametrize(
    ("script", "row"),
    [
        ("load.py", "| SmolLM2-135M, float32 as float32 |"),
        ("decode.py", "| tiny  |     2 | float32 |"),
        ("compile.py", "| train step, scanned"),
    ],
)
def test_quick_run_prints_a_table(script, row, common, monkeypatch, capsys):
    before = {path: path.read_bytes() for path in common.RESULTS.glob("*")}
    monkeypatch.setattr(common, "Worker", Here)
    monkeypatch.setattr(sys, "argv", [script, "--quick", "--markdown"])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    text = capsys.readouterr().out
    assert not done.value.code
    assert [line for line in text.splitlines() if line.startswith(row)], text
    assert {path: path.read_bytes() for path in common.RESULTS.glob("*")} == before


def test_a_worker_is_another_process_with_its_own_environment(common):
    with common.Worker({"OF_THE_WORKER": "1"}) as worker:
        assert worker.call(os.getenv, "OF_THE_WORKER") == "1"
        assert worker.call(os.getpid) != os.getpid()
    assert "OF_THE_WORKER" not in os.environ

"""What the benchmarks share: fresh processes that take turns, memory, medians, tables and result files."""

from __future__ import annotations

import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
PAGE = 4096
"""Bytes."""

LLAMA: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
"""The shape of SmolLM2-135M."""
TINY = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
"""What makes it small."""


class Worker:
    """A fresh interpreter that runs functions one at a time, under environment variables of its own."""

    def __init__(self, env: Mapping[str, str] | None = None):
        self._env = dict(env or {})
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """The result of a top-level function; the first call starts the interpreter."""
        before = dict(os.environ)
        os.environ.update(self._env)
        try:
            return self._pool.submit(function, *args).result()
        finally:
            os.environ.clear()
            os.environ.update(before)


def alternate(sides: Mapping[str, Callable[[], dict]], runs: int) -> dict[str, list[dict]]:
    """What each side returns in each of `runs` rounds, in every one of which all sides take their turn."""
    found: dict[str, list[dict]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, run in sides.items():
            found[name].append(run())
    return found


def median(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    """The median of one figure over the runs."""
    return statistics.median(run[key] for run in runs)


def median_ratio(runs: Sequence[Mapping[str, Any]], peers: Sequence[Mapping[str, Any]], key: str) -> float:
    """The median over the rounds of a figure divided by the peer's in the same round."""
    return statistics.median(run[key] / peer[key] for run, peer in zip(runs, peers, strict=True))


def best_peer(found: Mapping[str, list[dict]], prefix: str, key: str) -> str:
    """The side with the least median of `key` among those whose name begins with `prefix`."""
    return min(
        (name for name in found if name.startswith(prefix)),
        key=lambda name: median(found[name], key),
    )


def anonymous_memory() -> int:
    """Bytes of this process that are in memory and not pages of a file (Linux)."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


@contextmanager
def measured(warm: int = 0, interval: float = 0.005) -> Iterator[dict[str, float]]:
    """Fills a dict with seconds, and with bytes of anonymous memory gained at most and in the end.

    Before the clock starts, `warm` bytes are written and given back: on a virtual machine, memory that has lain idle
    is first fetched from the host, which may take twenty times as long as using it.
    """
    np.ones(warm, np.uint8)
    start = anonymous_memory()
    peaks, done = [start], threading.Event()

    def watch() -> None:
        while not done.wait(interval):
            peaks.append(anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    found: dict[str, float] = {}
    begin = time.perf_counter()
    try:
        yield found
    finally:
        found["seconds"] = time.perf_counter() - begin
        done.set()
        watcher.join()
        end = anonymous_memory()
        found |= {"gained": end - start, "peak": max(*peaks, end) - start}


def touch(array: np.ndarray) -> int:
    """Read one byte of every page of a contiguous array; returns the size of the array in bytes."""
    data = array.reshape(-1).view(np.uint8)
    data[::PAGE].sum()
    return data.size


def pin(cores: int | None) -> list[int]:
    """Keep this process and those it starts on the first `cores` of the cores it may use; all of them by default."""
    chosen = sorted(os.sched_getaffinity(0))[:cores]
    os.sched_setaffinity(0, chosen)
    return chosen


def machine(cores: Sequence[int]) -> dict[str, str]:
    """What the figures depend on."""
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        model = next(
            (line.split(":")[1].strip() for line in info if line.startswith("model name")),
            "unknown CPU",
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": f"{model}, {len(cores)} cores used, {memory / 2**30:.0f} GiB",
        "python": platform.python_version(),
        **{name: _version(name) for name in ("jax", "flax", "torch", "transformers")},
        "load average": f"{os.getloadavg()[0]:.1f}",
        "date": time.strftime("%Y-%m-%d"),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def report(
    name: str,
    machine: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    markdown: bool,
) -> None:
    """Print the rows as a table, in markdown if asked, with the machine below it; `name` is its title."""
    table = Table(title=None if markdown else name, box=box.MARKDOWN if markdown else box.ROUNDED)
    for number, column in enumerate(rows[0]):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    console = Console(width=1000 if markdown else 200)
    console.print(table)
    console.print(
        ", ".join(f"{key} {value}" for key, value in machine.items()),
        highlight=False,
        markup=False,
    )


def save(name: str, machine: Mapping[str, str], rows: Any, runs: Any) -> None:
    """Write the figures of every run to `results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine, "table": rows, "runs": runs}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

"""Greedy decoding: tokens a second of flaxmodels beside transformers on torch."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import (
    LLAMA,
    TINY,
    Worker,
    alternate,
    best_peer,
    machine,
    median,
    median_ratio,
    pin,
    report,
    save,
)

PROMPT_LENGTH = 16
NEW_TOKENS = 64
THREADS = (1, 2)


class Device(StrEnum):
    """Where flaxmodels runs. There is no peer on a GPU."""

    cpu = "cpu"
    gpu = "gpu"


@dataclass(frozen=True)
class Case:
    """What is decoded: `batch` prompts, with the weights of a folder, stored and computed in `dtype`."""

    folder: Path
    dtype: str
    batch: int

    @property
    def prompts(self) -> np.ndarray:
        """Token ids `[batch, PROMPT_LENGTH]`."""
        return np.random.default_rng(0).integers(3, 90, (self.batch, PROMPT_LENGTH))


Generate = Callable[[], np.ndarray]
"""Decodes the prompts of a case; returns prompts and answers, `[batch, PROMPT_LENGTH + NEW_TOKENS]`."""


def make(folder: Path, config: dict[str, Any]) -> None:
    """Save random weights."""
    from flaxmodels import LlamaForCausalLM

    LlamaForCausalLM({**config, "bos_token_id": None, "eos_token_id": None}).save_pretrained(folder)


@cache
def ours(case: Case) -> Generate:
    """The model and its compiled loop, which the first call compiles."""
    from flaxmodels import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(case.folder, torch_dtype=case.dtype)
    settings = {
        "attention_mask": np.ones_like(case.prompts),
        "max_new_tokens": NEW_TOKENS,
        "do_sample": False,
    }
    return lambda: np.asarray(model.generate(case.prompts, **settings).sequences)


@cache
def theirs(case: Case) -> Generate:
    """The same with transformers."""
    import torch
    import transformers

    model: Any = transformers.LlamaForCausalLM.from_pretrained(case.folder, dtype=getattr(torch, case.dtype))
    prompts = torch.from_numpy(case.prompts)
    settings = {
        "attention_mask": torch.ones_like(prompts),
        "max_new_tokens": NEW_TOKENS,
        "do_sample": False,
    }
    return lambda: model.generate(prompts, **settings, pad_token_id=0).numpy()


def timed(build: Callable[[Case], Generate], case: Case) -> dict[str, Any]:
    """One call of `generate`; the model is loaded beforehand, and kept for the next time."""
    generate = build(case)
    begin = time.perf_counter()
    sequences = generate()
    seconds = time.perf_counter() - begin
    assert sequences.shape == (case.batch, PROMPT_LENGTH + NEW_TOKENS), "decoding ended early"
    return {"seconds": seconds, "tokens": sequences[:, PROMPT_LENGTH:].tolist()}


def compare(
    folder: Path,
    batch: int,
    dtypes: list[str],
    threads: tuple[int, ...],
    device: Device,
    runs: int,
):
    """For every side its first call, and then one call in each round. Each side lives in a process of its own."""
    with ExitStack() as stack:

        def side(build: Callable[[Case], Generate], dtype: str, **env: str) -> Callable[[], dict]:
            worker = stack.enter_context(Worker(env))
            return partial(worker.call, timed, build, Case(folder, dtype, batch))

        platform = {"JAX_PLATFORMS": "cpu"} if device is Device.cpu else {}
        sides = {f"flaxmodels {dtype}": side(ours, dtype, **platform) for dtype in dtypes}
        for dtype in dtypes if device is Device.cpu else ():
            for count in threads:
                sides[f"torch {dtype}, {count} threads"] = side(theirs, dtype, OMP_NUM_THREADS=str(count))
        return alternate(sides, 1), alternate(sides, runs)


def row(batch: int, dtype: str, first: dict[str, list[dict]], found: dict[str, list[dict]]) -> dict[str, Any]:
    """One line of the table."""
    name = f"flaxmodels {dtype}"
    runs, base = found[name], found["flaxmodels float32"]
    count = batch * NEW_TOKENS
    line = {
        "batch": batch,
        "dtype": dtype,
        "flaxmodels tokens/s": count / median(runs, "seconds"),
        "/ its float32": 1 / median_ratio(runs, base, "seconds"),
        "first call, s": median(first[name], "seconds"),
    }
    if not any(side.startswith("torch") for side in found):
        return line
    best = best_peer(found, f"torch {dtype}", "seconds")
    same = np.equal(runs[0]["tokens"], found[best][0]["tokens"]).mean()
    return line | {
        "torch tokens/s": count / median(found[best], "seconds"),
        "of": best.split(", ")[1],
        "faster by": 1 / median_ratio(runs, found[best], "seconds"),
        "same tokens": f"{same:.0%}",
    }


def main(
    runs: Annotated[int, typer.Option(help="Rounds, in each of which every side decodes once.")] = 7,
    device: Annotated[Device, typer.Option(help="Where flaxmodels runs; torch runs on the CPU only.")] = Device.cpu,
    batch: Annotated[list[int], typer.Option(help="Prompts at once; may be given several times.")] = [1, 8],  # noqa: B006
    cores: Annotated[int | None, typer.Option(help="Cores to use; all by default.")] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A tiny model and one round, to see that it runs."),
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in markdown.")] = False,
) -> None:
    """Compare greedy decoding with SmolLM2-135M's shape, and write benchmarks/results/decode-DEVICE.json."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    described = machine(pin(cores))
    runs, threads, batches, dtypes, config = (
        (1, THREADS[:1], [2], ["float32"], LLAMA | TINY)
        if quick
        else (runs, THREADS, batch, ["float32", "bfloat16"], LLAMA)
    )
    results, rows = {}, []
    with tempfile.TemporaryDirectory() as temporary:
        with Worker({"JAX_PLATFORMS": "cpu"}) as worker:
            worker.call(make, Path(temporary), config)
        for size in batches:
            first, found = compare(Path(temporary), size, dtypes, threads, device, runs)
            rows += [row(size, dtype, first, found) for dtype in dtypes]
            results[f"batch {size}"] = {
                side: {"first call": median(first[side], "seconds"), "seconds": [run["seconds"] for run in found[side]]}
                for side in found
            }
    report("Greedy decoding", described, rows, markdown)
    if not quick:
        save(f"decode-{device}", described, rows, results)


if __name__ == "__main__":
    typer.run(main)

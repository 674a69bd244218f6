"""Converting a large checkpoint: to Flax and back, beside `cp` of the same bytes, and the memory it takes."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import LLAMA, TINY, Worker, machine, median, pin, report, save

SHAPE: dict[str, Any] = LLAMA | {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}
"""A Llama of 2.1 billion parameters."""


def make(folder: Path, config: dict[str, Any], shard: str) -> dict[str, float]:
    """Write random bfloat16 weights of that shape, one tensor at a time; bytes in all and of the largest tensor."""
    import ml_dtypes

    from flaxmodels import LlamaForCausalLM
    from flaxmodels.checkpoint.mapping import torch_headers
    from flaxmodels.checkpoint.save import save_checkpoint
    from flaxmodels.files.formats import WRITTEN
    from interop.source import Header

    model = LlamaForCausalLM.abstract(config)
    rng = np.random.default_rng(0)
    dtype = np.dtype(ml_dtypes.bfloat16)

    class Random:
        headers = {name: Header(header.shape, dtype) for name, header in torch_headers(model).items()}

        def read(self, name, index=None):
            # Any bits but those of infinite and NaN values, which a comparison of values would not tell apart.
            bits = rng.integers(0, 0x7F00, self.headers[name].shape, np.uint16)
            return bits.view(dtype)

    text = model.config.to_json_string(architectures=["LlamaForCausalLM"], torch_dtype="bfloat16")
    save_checkpoint(folder, Random(), {"config.json": text}, WRITTEN["torch"], shard)
    sizes = [header.nbytes for header in Random.headers.values()]
    return {"bytes": sum(sizes), "largest": max(sizes)}


def peak(work: Callable[[], Any]) -> dict[str, float]:
    """Seconds, and the most resident memory, mapped pages of files included, beyond what there was before."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    start = resident()
    most, done = [start], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            most.append(resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    try:
        work()
    finally:
        seconds = time.perf_counter() - begin
        done.set()
        watcher.join()
    return {"seconds": seconds, "peak": max(most) - start}


def convert(source: Path, target: Path, to: str, shard: str) -> dict[str, float]:
    """What `flaxmodels convert` does."""
    from flaxmodels import LlamaForCausalLM  # noqa: F401  imports are not counted
    from flaxmodels.cli.convert import run
    from flaxmodels.files.location import resolve

    return peak(lambda: run(resolve(source), target, to, max_shard_size=shard))


def verify(first: Path, second: Path) -> dict[str, float]:
    """What `flaxmodels verify` does; whether all is the same bit for bit."""
    from flaxmodels import LlamaForCausalLM  # noqa: F401  imports are not counted
    from flaxmodels.checkpoint.verify import compare
    from flaxmodels.cli.models import described
    from flaxmodels.files.location import resolve
    from flaxmodels.files.weights import find_weights

    found = {}
    location, other = resolve(first), resolve(second)

    def work() -> None:
        weights = find_weights(location)
        found["same"] = compare(described(location, weights), weights, find_weights(other)).same

    return peak(work) | found


def load_torch(folder: Path) -> dict[str, float]:
    """What transformers takes to load the same files."""
    import torch
    import transformers

    return peak(lambda: transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16))


def copy(source: Path, target: Path) -> dict[str, float]:
    """`cp`, written to the disk as a save is."""
    begin = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    for path in target.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return {"seconds": time.perf_counter() - begin}


def main(
    runs: Annotated[int, typer.Option(help="Rounds, in each of which every side runs once.")] = 3,
    folder: Annotated[Path | None, typer.Option(help="Where there is room for four copies.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny model and one round, to see that it runs.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in markdown.")] = False,
) -> None:
    """Convert a checkpoint of 4 GB there and back, and write benchmarks/results/convert.json."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "JAX_PLATFORMS": "cpu",
    }
    described = machine(pin(None))
    runs, shape, shard = (1, LLAMA | TINY, "100KB") if quick else (runs, SHAPE, "800MB")
    found: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        torch, flax, back, copied = (Path(temporary) / name for name in ("torch", "flax", "back", "copied"))

        def fresh(name: str, function: Callable[..., dict], *args: Any) -> dict:
            with Worker() as worker:
                found.setdefault(name, []).append(worker.call(function, *args))
            return found[name][-1]

        made = fresh("made", make, torch, shape, shard)
        for _ in range(runs):
            for path in (flax, back, copied):
                shutil.rmtree(path, ignore_errors=True)
            fresh("cp", copy, torch, copied)
            shutil.rmtree(copied)
            fresh("torch to flax", convert, torch, flax, "flax", shard)
            fresh("flax to torch", convert, flax, back, "torch", shard)
        assert fresh("verify torch, flax", verify, torch, flax)["same"]
        assert fresh("verify torch, torch again", verify, torch, back)["same"]
        if not quick:
            fresh("transformers loads it", load_torch, torch)
    bound = 2 * made["largest"] + 256e6
    rows = [
        {
            "step": name,
            "GB/s": made["bytes"] / median(steps, "seconds") / 1e9,
            "of cp": median(found["cp"], "seconds") / median(steps, "seconds"),
            "peak memory, MB": f"{max(step['peak'] for step in steps) / 1e6:.0f}" if "peak" in steps[0] else "",
            "allowed, MB": f"{bound / 1e6:.0f}" if "to" in name or "verify" in name else "",
        }
        for name, steps in found.items()
        if name != "made"
    ]
    report(f"Converting {made['bytes'] / 1e9:.1f} GB of bfloat16", described, rows, markdown)
    if not quick:
        save("convert", described, rows, found)


if __name__ == "__main__":
    typer.run(main)

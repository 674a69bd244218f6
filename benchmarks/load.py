"""Loading a checkpoint: flaxmodels beside transformers on torch, and beside a plain copy of the same bytes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
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
    measured,
    median,
    median_ratio,
    pin,
    report,
    save,
    touch,
)

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "SmolLM2-135M": ("LlamaForCausalLM", LLAMA),
    "BERT-base": ("BertModel", {}),
}
CASTS = (("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32"))
THREADS = (1, 2)
DEVICES = "--xla_force_host_platform_device_count=8"


@dataclass(frozen=True)
class Case:
    """A checkpoint on disk and the dtype in which its parameters are wanted."""

    shape: str
    folder: Path
    stored: str
    wanted: str

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.shape}, {self.stored} as {self.wanted}"

    @property
    def file(self) -> Path:
        """The weights."""
        return self.folder / "model.safetensors"

    @property
    def warm(self) -> int:
        """Bytes of memory to make ready: more than any side takes."""
        return 4 * self.file.stat().st_size


def make(shape: str, dtype: str, folder: Path, tiny: bool) -> None:
    """Save random weights of a shape, in the files that transformers writes."""
    import torch
    import transformers

    torch.manual_seed(0)
    class_name, config = SHAPES[shape]
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**config | (TINY if tiny else {}))).to(getattr(torch, dtype))
    model.save_pretrained(folder)


def load_ours(case: Case) -> dict[str, float]:
    """Load with flaxmodels, sharded over the devices if there are several, and touch every page of every parameter."""
    import jax
    from jax.sharding import Mesh

    import flaxmodels

    model_class = getattr(flaxmodels, SHAPES[case.shape][0])
    devices = np.array(jax.devices())
    jax.block_until_ready(jax.device_put(np.zeros(1)))
    with measured(case.warm) as found:
        mesh = Mesh(devices, ("model",)) if devices.size > 1 else None
        model = model_class.from_pretrained(case.folder, param_dtype=case.wanted, device_mesh=mesh)
        leaves = jax.tree.leaves(model.params)
        parts = [part.data for leaf in leaves for part in leaf.addressable_shards if part.replica_id == 0]
        size = sum(touch(np.asarray(part)) for part in parts)
    return found | {"bytes": size}


def load_torch(case: Case) -> dict[str, float]:
    """The same with transformers."""
    import torch
    import transformers

    model_class = getattr(transformers, SHAPES[case.shape][0])
    with measured(case.warm) as found:
        model = model_class.from_pretrained(case.folder, dtype=getattr(torch, case.wanted))
        size = sum(touch(leaf.detach().view(torch.uint8).numpy()) for leaf in model.parameters())
    return found | {"bytes": size}


def copy_bytes(case: Case) -> dict[str, float]:
    """Copy the bytes of the file, mapped, to fresh memory of the size of the parameters, in one thread."""
    source = np.memmap(case.file, np.uint8, "r")
    with measured(case.warm) as found:
        if case.wanted == case.stored:
            copied = np.array(source)
        else:
            copied = source[: source.size // 2 * 2].view(np.uint16).astype(np.uint32)
    return found | {"bytes": copied.nbytes}


def fresh(function, case: Case, **env: str) -> dict[str, float]:
    """The result of a function in a process of its own."""
    with Worker(env) as worker:
        return worker.call(function, case)


def compare(case: Case, runs: int, threads: Sequence[int]) -> dict[str, list[dict]]:
    """Every side in every round, each in a fresh process; torch with each number of threads."""
    sides = {
        "flaxmodels": partial(fresh, load_ours, case, JAX_PLATFORMS="cpu"),
        "sharded": partial(fresh, load_ours, case, JAX_PLATFORMS="cpu", XLA_FLAGS=DEVICES),
    }
    sides |= {
        f"torch, {count} threads": partial(fresh, load_torch, case, OMP_NUM_THREADS=str(count)) for count in threads
    }
    sides["copy"] = partial(fresh, copy_bytes, case)
    return alternate(sides, runs)


def row(case: Case, found: dict[str, list[dict]]) -> dict[str, Any]:
    """One line of the table."""
    ours, peer = found["flaxmodels"], found[best_peer(found, "torch", "seconds")]
    return {
        "checkpoint": case.name,
        "MB": round(ours[0]["bytes"] / 1e6),
        "flaxmodels s": median(ours, "seconds"),
        "torch s": median(peer, "seconds"),
        "ratio": median_ratio(ours, peer, "seconds"),
        "on 8 devices s": median(found["sharded"], "seconds"),
        "plain copy s": median(found["copy"], "seconds"),
        "memory / parameters": median(ours, "peak") / ours[0]["bytes"],
        "torch memory / parameters": median(peer, "peak") / peer[0]["bytes"],
    }


def main(
    runs: Annotated[int, typer.Option(help="Rounds, in each of which every side loads once.")] = 7,
    cores: Annotated[int | None, typer.Option(help="Cores to use; all by default.")] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A tiny model and one round, to see that it runs."),
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in markdown.")] = False,
) -> None:
    """Compare the loading of checkpoints, and write benchmarks/results/load.json."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    described = machine(pin(cores))
    shapes, casts, threads = list(SHAPES), CASTS, THREADS
    if quick:
        runs, shapes, casts, threads = 1, shapes[:1], casts[:1], threads[:1]
    found, rows = {}, []
    with tempfile.TemporaryDirectory() as temporary:
        for shape in shapes:
            for stored in dict.fromkeys(stored for stored, _ in casts):
                folder = Path(temporary) / shape / stored
                with Worker() as worker:
                    worker.call(make, shape, stored, folder, quick)
            for stored, wanted in casts:
                case = Case(shape, Path(temporary) / shape / stored, stored, wanted)
                found[case.name] = compare(case, runs, threads)
                rows.append(row(case, found[case.name]))
    report("Loading", described, rows, markdown)
    if not quick:
        save("load", described, rows, found)


if __name__ == "__main__":
    typer.run(main)

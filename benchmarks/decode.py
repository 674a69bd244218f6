"""Greedy decoding: tokens a second of flaxmodels beside transformers on torch, and beside what memory allows."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache, partial
from itertools import product
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
NEW_TOKENS = 128
THREADS = (1, 2)
SHAPES: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": LLAMA,
    "Llama-3.2-1B": LLAMA
    | {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "Llama-3.1-8B": LLAMA
    | {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
    "tiny": LLAMA | TINY,
}


class Device(StrEnum):
    """Where flaxmodels runs. There is no peer on a GPU."""

    cpu = "cpu"
    gpu = "gpu"


@dataclass(frozen=True)
class Case:
    """What is decoded: `batch` prompts, by a model of random weights, stored and computed in `dtype`."""

    shape: str
    dtype: str
    batch: int
    compiled: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the model, which never ends a completion."""
        return SHAPES[self.shape] | {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}

    @property
    def prompts(self) -> np.ndarray:
        """Token ids `[batch, PROMPT_LENGTH]`."""
        return np.random.default_rng(0).integers(3, 90, (self.batch, PROMPT_LENGTH))


Generate = Callable[[int], Any]
"""Continues the prompts of a case by a number of tokens."""


@cache
def ours(case: Case) -> Generate:
    """The model, whose program the first call compiles."""
    import jax

    from flaxmodels import LlamaForCausalLM

    model = LlamaForCausalLM(case.config, dtype=case.dtype, param_dtype=case.dtype)
    mask = np.ones_like(case.prompts)

    def generate(count: int) -> Any:
        if count == 1:  # as a user sees it: the program is that of long completions
            return next(model.stream(case.prompts, attention_mask=mask, max_new_tokens=NEW_TOKENS))
        return jax.block_until_ready(model.generate(case.prompts, attention_mask=mask, max_new_tokens=count).sequences)

    return generate


@cache
def theirs(case: Case) -> Generate:
    """The same with transformers."""
    import torch
    import transformers

    torch.manual_seed(0)
    model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**case.config))
    model = model.to(getattr(torch, case.dtype)).eval()
    prompts = torch.from_numpy(case.prompts)
    settings: dict[str, Any] = {"attention_mask": torch.ones_like(prompts), "do_sample": False, "pad_token_id": 0}
    if case.compiled:
        model.forward = torch.compile(model.forward)
        settings["cache_implementation"] = "static"
    return lambda count: model.generate(prompts, **settings, max_new_tokens=count)


def timed(build: Callable[[Case], Generate], case: Case, count: int) -> dict[str, Any]:
    """Seconds of one call; the model is made beforehand, and kept for the next time."""
    generate = build(case)
    begin = time.perf_counter()
    generate(count)
    return {"seconds": time.perf_counter() - begin}


def weights(case: Case) -> int:
    """Bytes of the parameters that each token reads; of an embedding that is not tied, a row."""
    from flaxmodels import LlamaForCausalLM

    model = LlamaForCausalLM.abstract(case.config, param_dtype=case.dtype)
    read = model.num_parameters(exclude_embeddings=not case.config["tie_word_embeddings"])
    return read * np.dtype(model.policy.param_dtype).itemsize


def bandwidth(device: Device) -> float:
    """Bytes a second that a copy reads and writes, in two threads or on the GPU."""
    if device is Device.gpu:
        import jax
        import jax.numpy as jnp

        source = jnp.ones(2**30, jnp.float32)
        copy = jax.jit(lambda array: array * 2)
        work, size = lambda: jax.block_until_ready(copy(source)), 2 * source.nbytes
    else:
        parts = [(np.ones(2**26, np.float32), np.empty(2**26, np.float32)) for _ in range(2)]
        pool = ThreadPoolExecutor(2)
        work = lambda: list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), parts))  # noqa: E731
        size = 2 * sum(source.nbytes for source, _ in parts)
    seconds = []
    for _ in range(7):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return size / sorted(seconds[1:])[len(seconds) // 2 - 1]


def compare(case: Case, threads: tuple[int, ...], device: Device, runs: int, compiled: bool, folder: Path):
    """For every side its first call, time to the first token, and then one call in each round.

    Each side lives in a process of its own. Our first call is made twice: with an empty compilation cache, and in
    another process with the cache that the first one left.
    """
    platform = {"JAX_PLATFORMS": "cpu"} if device is Device.cpu else {}
    env = platform | {
        "JAX_COMPILATION_CACHE_DIR": str(folder / f"{case.shape}-{case.dtype}-{case.batch}"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with Worker(env) as worker:
        cold = worker.call(timed, ours, case, NEW_TOKENS)["seconds"]
    with ExitStack() as stack:

        def side(build: Callable[[Case], Generate], case: Case, **env: str) -> Callable[..., dict]:
            worker = stack.enter_context(Worker(env))
            return lambda count: worker.call(timed, build, case, count)

        sides = {"flaxmodels": side(ours, case, **env)}
        for count in threads if device is Device.cpu else ():
            sides[f"eager torch, {count} threads"] = side(theirs, case, OMP_NUM_THREADS=str(count))
        if compiled and device is Device.cpu:
            sides["compiled torch"] = side(theirs, replace(case, compiled=True), OMP_NUM_THREADS=str(max(threads)))
        first = {name: call(NEW_TOKENS)["seconds"] for name, call in sides.items()}
        for call in sides.values():
            call(1)
        sooner = alternate({name: partial(call, 1) for name, call in sides.items()}, runs)
        return (
            first | {"cold": cold},
            sooner,
            alternate({n: partial(call, NEW_TOKENS) for n, call in sides.items()}, runs),
        )


def row(case: Case, first: dict[str, float], sooner: dict, found: dict, limit: float) -> dict[str, Any]:
    """One line of the table."""
    count = case.batch * NEW_TOKENS
    seconds = median(found["flaxmodels"], "seconds")
    line = {
        "shape": case.shape,
        "batch": case.batch,
        "dtype": case.dtype,
        "tokens/s": count / seconds,
        "of bandwidth": weights(case) * NEW_TOKENS / seconds / limit,
        "first token, ms": 1e3 * median(sooner["flaxmodels"], "seconds"),
        "compile, s": first["cold"] - seconds,
        "with cache, s": first["flaxmodels"] - seconds,
    }
    for kind in ("eager", "compiled"):
        if any(name.startswith(kind) for name in found):
            best = best_peer(found, kind, "seconds")
            line |= {
                f"{kind} torch tokens/s": count / median(found[best], "seconds"),
                f"{kind} first token, ms": 1e3 * median(sooner[best], "seconds"),
                f"faster than {kind} by": 1 / median_ratio(found["flaxmodels"], found[best], "seconds"),
            }
    return line


def main(
    runs: Annotated[int, typer.Option(help="Rounds, in each of which every side decodes once.")] = 5,
    device: Annotated[Device, typer.Option(help="Where flaxmodels runs; torch runs on the CPU only.")] = Device.cpu,
    shape: Annotated[list[str] | None, typer.Option(help="Of the model; may be given several times.")] = None,
    batch: Annotated[list[int], typer.Option(help="Prompts at once; may be given several times.")] = [1, 8],  # noqa: B006
    dtype: Annotated[list[str] | None, typer.Option(help="Both halves and float32 on a CPU by default.")] = None,
    compiled: Annotated[bool, typer.Option("--compiled", help="torch.compile as well; takes minutes.")] = False,
    cores: Annotated[int | None, typer.Option(help="Cores to use; all by default.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny model and one round, to see that it runs.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in markdown.")] = False,
) -> None:
    """Compare greedy decoding, and write benchmarks/results/decode-DEVICE.json.

    On a CPU the shape is that of SmolLM2-135M; on a GPU, where the limit is the bandwidth of its memory, those of
    Llama 3.2 1B and Llama 3.1 8B in bfloat16.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    described = machine(pin(cores))
    on_gpu = device is Device.gpu
    shapes = shape or (["Llama-3.2-1B", "Llama-3.1-8B"] if on_gpu else ["SmolLM2-135M"])
    dtypes, threads = dtype or (["bfloat16"] if on_gpu else ["float32", "bfloat16"]), THREADS
    if quick:
        runs, shapes, batch, dtypes, threads = 1, ["tiny"], [2], ["float32"], THREADS[:1]
    with Worker({} if on_gpu else {"JAX_PLATFORMS": "cpu"}) as worker:
        limit = worker.call(bandwidth, device)
        described |= worker.call(device_name)
    results, rows = {"bandwidth, GB/s": limit / 1e9}, []
    with tempfile.TemporaryDirectory() as temporary:
        for case in [Case(*each) for each in product(shapes, dtypes, batch)]:
            first, sooner, found = compare(case, threads, device, runs, compiled, Path(temporary))
            rows.append(row(case, first, sooner, found, limit))
            results[f"{case.shape}, {case.dtype}, batch {case.batch}"] = {
                "first call": first,
                "first token": {name: [run["seconds"] for run in each] for name, each in sooner.items()},
                "all": {name: [run["seconds"] for run in each] for name, each in found.items()},
            }
    title = f"Greedy decoding of {NEW_TOKENS} tokens; copies move {limit / 1e9:.1f} GB/s"
    report(title, described, rows, markdown)
    if not quick:
        save(f"decode-{device}", described, rows, results)


def device_name() -> dict[str, str]:
    """What JAX runs on."""
    import jax

    return {"device": jax.devices()[0].device_kind}


if __name__ == "__main__":
    typer.run(main)

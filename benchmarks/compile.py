"""How long XLA compiles: forward pass and train step, with layers unrolled and scanned, by their number."""

from __future__ import annotations

import os
import time
from itertools import product
from typing import Annotated, Any

import typer
from common import LLAMA, TINY, Worker, machine, median, pin, report, save

LAYERS = (4, 16, 32)
SHAPE = (2, 64)
"""Rows and tokens of a batch."""


def measure(config: dict[str, Any], scan: bool, step: str) -> dict[str, float]:
    """Seconds to trace and lower, and to compile, from the description of a model alone."""
    import jax
    import jax.numpy as jnp
    import optax

    from flaxmodels import LlamaForCausalLM

    model = LlamaForCausalLM.abstract(config, scan_layers=scan)
    ids = jax.ShapeDtypeStruct(SHAPE, jnp.int32)
    params = model.params_shape_tree

    def forward(params: Any, ids: Any) -> Any:
        return model(ids, params=params).logits

    optimizer = optax.adamw(1e-4)

    def train(params: Any, state: Any, ids: Any) -> Any:
        def loss(params: Any) -> Any:
            logits = forward(params, ids)[:, :-1]
            return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    begin = time.perf_counter()
    if step == "forward":
        lowered = jax.jit(forward).lower(params, ids)
    else:
        lowered = jax.jit(train).lower(params, jax.eval_shape(optimizer.init, params), ids)
    middle = time.perf_counter()
    lowered.compile()
    return {"lower": middle - begin, "compile": time.perf_counter() - middle}


def main(
    runs: Annotated[int, typer.Option(help="Rounds, each in fresh processes.")] = 3,
    cores: Annotated[int | None, typer.Option(help="Cores to use; all by default.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small models and one round, to see that it runs.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in markdown.")] = False,
) -> None:
    """Compile models of SmolLM2-135M's width, and write benchmarks/results/compile.json."""
    os.environ |= {"JAX_PLATFORMS": "cpu"}
    described = machine(pin(cores))
    layers, runs = ((1, 2), 1) if quick else (LAYERS, runs)
    base = LLAMA | (TINY if quick else {})
    found: dict[str, list[dict[str, float]]] = {}
    for _, step, scan, count in product(range(runs), ("forward", "train step"), (False, True), layers):
        with Worker() as worker:
            name = f"{step}, {'scanned' if scan else 'unrolled'}, {count} layers"
            taken = worker.call(measure, base | {"num_hidden_layers": count}, scan, step)
            found.setdefault(name, []).append(taken | {"both": sum(taken.values())})
    rows = []
    for step, kind in product(("forward", "train step"), ("unrolled", "scanned")):
        seconds = [median(found[f"{step}, {kind}, {count} layers"], "both") for count in layers]
        columns = {f"{count} layers, s": value for count, value in zip(layers, seconds, strict=True)}
        rows.append({"": f"{step}, {kind}", **columns, "last / first": seconds[-1] / seconds[0]})
    report("Lowering and compiling", described, rows, markdown)
    if not quick:
        save("compile", described, rows, found)


if __name__ == "__main__":
    typer.run(main)

"""`flaxmodels verify`: whether two checkpoints hold the same weights, and models of them give the same outputs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from flaxmodels.cli.models import described
from flaxmodels.cli.options import ModelArgument
from flaxmodels.cli.terminal import cell, console, say
from flaxmodels.errors import FlaxModelsError
from interop import torch_bridge

INPUT_SHAPE = (2, 16)
"""Rows and tokens of the random input."""


def verify(
    first: ModelArgument,
    second: ModelArgument,
    architecture: Annotated[str | None, typer.Option(help="Model class, if config.json names none.")] = None,
    outputs: Annotated[
        bool, typer.Option("--outputs", help="Also run both: FIRST by transformers on torch, SECOND by flaxmodels.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="With --outputs: a PNG of the relative error of each layer.")
    ] = None,
    every: Annotated[bool, typer.Option("--every", help="List the parameters that agree, too.")] = False,
) -> None:
    """Compare the weights of two checkpoints, in any formats: bit for bit, or by error. Exit status 1 if they differ.

    Example: `flaxmodels verify ./bert-base-uncased ./bert-flax`
    """
    from flaxmodels.files.location import resolve
    from flaxmodels.files.weights import find_weights

    if plot is not None:
        _check_plot(plot, outputs)
    location, both = resolve(first), [find_weights(resolve(path)) for path in (first, second)]
    model = described(location, both[0], architecture)
    same = compare_weights(model, *both, every=every)
    if outputs:
        show_outputs(compare_outputs(type(model), first, second), plot)
    if not same:
        raise typer.Exit(1)


def _check_plot(plot: Path, outputs: bool) -> None:
    """Refuse a plot that could not be made after the work.

    Raises:
        FlaxModelsError: naming the remedy.
    """
    if not outputs:
        raise FlaxModelsError("--plot shows the errors of --outputs: pass both")
    if find_spec("matplotlib") is None:
        raise FlaxModelsError('--plot needs matplotlib. Run: pip install "flaxmodels-jax[plot]"')
    if not plot.parent.is_dir():
        raise FlaxModelsError(f"--plot: there is no folder {plot.parent}. Make it, or name another.")


def compare_weights(model: Any, first: Any, second: Any, *, every: bool = False) -> bool:
    """Compare two checkpoints and print what differs; whether nothing does."""
    from flaxmodels.checkpoint.verify import compare

    report = compare(model, first, second)
    show(report, every)
    return report.same


def show(report: Any, every: bool = False) -> None:
    """Print what differs, and a line that sums it up."""
    from rich.table import Table
    from rich.text import Text

    rows = [comparison for comparison in report.compared if every or not comparison.same]
    if rows:
        table = Table("parameter", "dtypes", "same", "relative error")
        for row in rows:
            table.add_row(
                cell(row.name),
                " / ".join(dict.fromkeys(map(str, row.dtypes))),
                "yes" if row.same else Text("no", "bold red"),
                f"{row.error:.2e}",
            )
        console().print(table)
    for name in report.unmatched:
        say(("only in one, or of another shape:", "bold red"), f" {name}")
    same = sum(comparison.same for comparison in report.compared)
    cast = sum(comparison.same and len(set(comparison.dtypes)) > 1 for comparison in report.compared)
    note = f", {cast} of them after a cast" if cast else ""
    say(f"{same} of {len(report.compared) + len(report.unmatched)} parameters are the same bit for bit{note}")


def compare_outputs(model_class: Any, first: str, second: str) -> dict[str, float]:
    """The relative error of every hidden state and output of two models in float32, on the same random tokens.

    The first is run by transformers on torch, the second by flaxmodels.

    Raises:
        FlaxModelsError: the models take no tokens.
    """
    import jax

    from flaxmodels.checkpoint.verify import relative_error

    if model_class.main_input_name != "input_ids":
        name, taken = model_class.__name__, model_class.main_input_name
        raise FlaxModelsError(f"--outputs runs both models on tokens, but {name} takes {taken}")
    flax_model = model_class.from_pretrained(second)
    tokens = np.random.default_rng(0).integers(0, flax_model.config.vocab_size, INPUT_SHAPE)
    with jax.default_matmul_precision("highest"):
        ours = flax_model(tokens, output_hidden_states=True)
    module = torch_bridge.pretrained(model_class.__name__, first)
    theirs = torch_bridge.run(module, input_ids=tokens, output_hidden_states=True)
    errors = {}
    for name, value in ours.items():
        if name == "hidden_states":
            for number, pair in enumerate(zip(theirs[name], value, strict=True)):
                errors[f"hidden state {number}"] = relative_error(*map(np.asarray, pair))
        elif hasattr(value, "shape") and name in theirs:
            errors[name] = relative_error(np.asarray(theirs[name]), np.asarray(value))
    return errors


def show_outputs(errors: dict[str, float], plot: Path | None) -> None:
    """Print the errors as a table, and plot them if a file is named."""
    from rich.table import Table

    table = Table("output", "relative error")
    for name, error in errors.items():
        table.add_row(cell(name), f"{error:.2e}")
    console().print(table)
    if plot is not None:
        plot_errors(errors, plot)
        say(f"plotted in {plot}")


def plot_errors(errors: dict[str, float], path: Path) -> None:
    """A PNG of the relative errors, one bar each, on a logarithmic scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6, 0.4 * len(errors)), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.bar(list(errors), [max(error, 1e-9) for error in errors.values()])
    axes.set(yscale="log", ylabel="relative error", title="Outputs in float32, torch and Flax")
    axes.tick_params(axis="x", labelrotation=90)
    figure.savefig(path, format="png", dpi=150)

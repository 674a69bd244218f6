"""`flaxmodels inspect`: what is in a checkpoint, and what would become of it, from headers alone."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flaxmodels.cli.models import described
from flaxmodels.cli.options import ModelArgument
from flaxmodels.cli.terminal import cell, console, human_bytes, say


def inspect(
    model: ModelArgument,
    architecture: Annotated[str | None, typer.Option(help="Class to map to, if config.json names none.")] = None,
    variant: Annotated[str | None, typer.Option(help="Read model.VARIANT.safetensors and the like.")] = None,
) -> None:
    """Show the tensors of a checkpoint and the Flax parameters they map to. Reads headers only.

    Example: `flaxmodels inspect ./bert-base-uncased`
    """
    from flaxmodels.files.location import resolve
    from flaxmodels.files.weights import find_weights

    location = resolve(model)
    weights = find_weights(location, variant=variant)
    show_plan(described(location, weights, architecture), weights)


def show_plan(model: Any, weights: Any) -> None:
    """Print what becomes of the tensors of a checkpoint in a model, and what does not fit."""
    from flaxmodels.checkpoint.load import plan_loading

    plan = plan_loading(model, weights)
    headers = weights.source.headers
    console().print(_table(weights.path.name, plan, headers))
    total = sum(header.nbytes for header in headers.values())
    say(
        f"{type(model).__name__}, {model.num_parameters():,} parameters; "
        f"{len(headers)} tensors, {human_bytes(total)}, {weights.layout} layout"
    )
    for what, names in (("missing", plan.missing), ("not used", plan.unexpected)):
        if names:
            say((f"{len(names)} {what}:", "bold yellow"), f" {', '.join(names)}")
    for wrong in plan.mismatched:
        say((wrong.name, "bold red"), f": checkpoint {wrong.found}, model {wrong.expected}")


def _table(title: str, plan: Any, headers: Any) -> Any:
    from rich.table import Table

    table = Table("tensor", "shape", "dtype", "size", "ops", "parameter", title=cell(title), title_justify="left")
    for rule in plan.rules:
        ops = ", ".join(type(op).__name__ for op in rule.ops) or "-"
        for name in rule.sources:
            header = headers[name]
            size = human_bytes(header.nbytes)
            targets = ", ".join(map(cell, rule.targets))
            table.add_row(cell(name), str(header.shape), header.dtype.name, size, ops, targets)
    return table

"""`flaxmodels inspect`: what is in a checkpoint, and what would become of it, from headers alone."""

from __future__ import annotations

from typing import Annotated

import typer

from flaxmodels.cli.common import ModelArgument


def inspect(
    model: ModelArgument,
    architecture: Annotated[str | None, typer.Option(help="Class to map to, if config.json names none.")] = None,
    variant: Annotated[str | None, typer.Option(help="Look at model.VARIANT.safetensors and the like.")] = None,
) -> None:
    """Show the tensors of a checkpoint and the Flax parameters they map to. Reads headers only.

    Example: `flaxmodels inspect ./bert-base-uncased`
    """
    from rich.console import Console

    from flaxmodels.checkpoint.load import plan_loading
    from flaxmodels.checkpoint.resolve import resolve
    from flaxmodels.cli.common import described, human_bytes

    location = resolve(model)
    weights = location.weights(variant=variant)
    described_model = described(location, architecture)
    plan = plan_loading(described_model, weights)
    headers = weights.source.headers
    console = Console()
    console.print(_table(weights.path.name, plan, headers, described_model))
    total = sum(header.nbytes for header in headers.values())
    console.print(
        f"{type(described_model).__name__}, {described_model.num_parameters():,} parameters; "
        f"{len(headers)} tensors, {human_bytes(total)}, {weights.layout} layout"
    )
    for what, names in (("missing", plan.missing), ("not used", plan.unexpected)):
        if names:
            console.print(f"[bold yellow]{len(names)} {what}:[/] {', '.join(names)}")
    for wrong in plan.mismatched:
        console.print(f"[bold red]{wrong.name}[/]: checkpoint {wrong.found}, model {wrong.expected}")


def _table(title: str, plan, headers, model):
    from rich.table import Table

    from flaxmodels.cli.common import human_bytes

    shapes = model._shapes()
    table = Table("tensor", "shape", "dtype", "size", "ops", "parameter", "shape", title=title, title_justify="left")
    for rule in plan.rules:
        for source in rule.sources:
            header = headers[source]
            ops = ", ".join(type(op).__name__ for op in rule.ops) or "-"
            target = rule.targets[0]
            table.add_row(
                source,
                str(header.shape),
                header.dtype.name,
                human_bytes(header.nbytes),
                ops,
                target,
                str(shapes[target].shape),
            )
    return table

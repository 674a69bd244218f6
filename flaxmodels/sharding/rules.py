"""From rules and a mesh to one `NamedSharding` a parameter."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxmodels.errors import ConfigError
from flaxmodels.nn.leaves import Leaf, split_shared
from flaxmodels.nn.partition import COLUMN, EXPERT

logger = logging.getLogger("flaxmodels")

Rules = Sequence[tuple[str, PartitionSpec]]
"""Regular expressions, searched in a parameter's "/"-joined path, with the spec of one layer; the first counts."""


def shardings(model: Any, mesh: Mesh, rules: Rules | str) -> dict[str, NamedSharding]:
    """The sharding of every parameter of `model`, by path.

    Args:
        model: its description; parameters are not needed.
        mesh: the devices.
        rules: a table; or "tp", the model's own plan for tensor parallelism over the mesh's last axis; or "fsdp",
            every parameter sharded over all axes along its largest dimension that they divide.

    Parameters that no rule names are on every device. A dimension that its axes do not divide is not sharded, which
    is logged.

    Raises:
        ConfigError: rules of an unknown name.
    """
    if isinstance(rules, str) and rules not in ("tp", "fsdp"):
        raise ConfigError(f"sharding_rules={rules!r} is not known: expected 'tp', 'fsdp' or a table of rules")
    if rules == "tp":
        rules = tensor_parallel(model.tp_plan, mesh.axis_names[-1])
    found = {}
    for leaf in split_shared(model)[0]:
        shape = leaf.variable.get_raw_value().shape
        spec = _fully_sharded(shape, mesh, leaf) if isinstance(rules, str) else _matching(leaf, rules)
        found[leaf.name] = NamedSharding(mesh, divisible(leaf.name, shape, spec, mesh))
    return found


def tensor_parallel(plan: Mapping[str, str], axis: str) -> list[tuple[str, PartitionSpec]]:
    """The rules of a plan: regular expressions for modules, with `COLUMN`, `ROW` or `EXPERT`.

    Embeddings `[vocab, hidden]` are sharded by rows of the table where the plan says `ROW`.
    """
    rules = []
    for pattern, kind in plan.items():
        if kind == COLUMN:
            rules += [(f"{pattern}/kernel$", PartitionSpec(None, axis)), (f"{pattern}/bias$", PartitionSpec(axis))]
        elif kind == EXPERT:
            rules.append((f"{pattern}/[^/]+$", PartitionSpec(axis)))
        else:
            rules.append((f"{pattern}/(kernel|embedding)$", PartitionSpec(axis, None)))
    return rules


def _matching(leaf: Leaf, rules: Rules) -> PartitionSpec:
    spec = next((spec for pattern, spec in rules if re.search(pattern, leaf.name)), PartitionSpec())
    return PartitionSpec(None, *spec) if leaf.layers else spec


def _fully_sharded(shape: tuple[int, ...], mesh: Mesh, leaf: Leaf) -> PartitionSpec:
    first = 1 if leaf.layers else 0
    dimensions = sorted(range(first, len(shape)), key=lambda dimension: -shape[dimension])
    chosen = next((d for d in dimensions if shape[d] % mesh.size == 0), None)
    return PartitionSpec() if chosen is None else PartitionSpec(*[None] * chosen, mesh.axis_names)


def divisible(name: str, shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> PartitionSpec:
    """The spec without those axes that do not divide their dimension of a parameter, each of which is logged."""
    kept = []
    for size, axes in zip(shape, spec, strict=False):
        names = axes if isinstance(axes, tuple) else (axes,) if axes else ()
        divides = size % prod(mesh.shape[axis] for axis in names) == 0
        if not divides:
            logger.warning("%s: axes %s do not divide a dimension of %d, which stays whole", name, names, size)
        kept.append(axes if divides else None)
    return PartitionSpec(*kept)

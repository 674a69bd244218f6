"""Submodules whose names are data: paths as checkpoints have them, joined by "."."""

from __future__ import annotations

from typing import Any

from flaxmodels.nn.module import Module
from flaxmodels.policy import Policy


def place(owner: Module, path: str, module: Any) -> None:
    """Set the attribute `path` of `owner` to a module or a parameter, with plain modules on the way to it."""
    *owners, name = path.split(".")
    for step in owners:
        if not isinstance(vars(owner).get(step), Module):
            setattr(owner, step, Module())
        owner = getattr(owner, step)
    setattr(owner, name, module)


def set_base(model: Any, config: Any, policy: Policy, **options: Any) -> Any:
    """Give `model` the base model of its architecture, under the name that it has in checkpoints, and return it."""
    base = model.base_class.as_submodule(config, policy, **options)
    setattr(model, model.base_model_prefix, base)
    return base

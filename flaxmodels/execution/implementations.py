"""How a model is computed, changed after it was made: its policy, in all of its parts or in some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from flax import nnx

from flaxmodels.capability import Capability
from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.nn.module import Module
from flaxmodels.nn.stack import Stack
from flaxmodels.policy import Policy


def modules(module: Module) -> Iterator[Module]:
    """`module` and all that are in it."""
    return (each for _, each in nnx.iter_modules(module) if isinstance(each, Module))


def change_policy(model: Module, old: Policy, new: Policy) -> None:
    """Let `model` and all modules in it compute by what `new` says otherwise than `old`.

    Raises:
        FlaxModelsError: parameters would have to be stored otherwise, or there are no blocks to rematerialise.
    """
    values = {field.name: (getattr(old, field.name), getattr(new, field.name)) for field in fields(Policy)}
    changes = {name: after for name, (before, after) in values.items() if before != after}
    _check(model, changes)
    for module in modules(model):
        module.adopt(changes)


def _check(model: Module, changes: Mapping[str, Any]) -> None:
    if "param_dtype" in changes:
        raise FlaxModelsError(
            f"param_dtype={changes['param_dtype'].name!r} cannot be chosen after parameters are stored: cast them, as "
            "in model.params = model.to_bf16(), or load the model anew"
        )
    if "scan_layers" in changes:
        raise FlaxModelsError(
            f"scan_layers={changes['scan_layers']} cannot be chosen after parameters are stored: load the model anew"
        )
    check_remat(model, changes.get("remat"))


def check_remat(model: Module, remat: str | None) -> None:
    """Refuse to rematerialise what is not there.

    Raises:
        FlaxModelsError: `remat` is asked for, and there is no stack of blocks.
    """
    if remat is not None and not has_stack(model):
        raise FlaxModelsError(
            f"{type(model).__name__} does not support gradient checkpointing: it has no stack of equal blocks whose "
            "activations could be computed again"
        )


def has_stack(model: Module) -> bool:
    """Whether there is a stack of blocks, whose activations can be computed again."""
    return any(isinstance(module, Stack) for module in modules(model))


def set_implementation(model: Any, name: str, chosen: Any) -> None:
    """Set one choice of the policy for a model and its parts.

    Args:
        model: whose policy is changed.
        name: of the choice.
        chosen: for all parts; or a dict by the names of sub-configurations, "" for the rest, in which what it does not
            name keeps its own.

    Raises:
        ConfigError: a choice or a sub-configuration that is not known.
    """
    parts = _parts(model)
    if not isinstance(chosen, Mapping):
        chosen = dict.fromkeys(("", *parts), chosen)
    if unknown := [part for part in chosen if part not in ("", *parts)]:
        known = ", ".join(map(repr, ("", *parts)))
        raise ConfigError(f"{name}: {type(model).__name__} has no part {unknown[0]!r}: expected {known}")
    policies = {part: each.policy for part, each in parts.items()}
    policies = {
        part: replace(policy, **{name: chosen[part]}) if part in chosen else policy for part, policy in policies.items()
    }
    if "" in chosen:
        model.policy = replace(model.policy, **{name: chosen[""]})
    for part, policy in policies.items():
        parts[part].policy = policy


def set_parts(model: Any, choices: Mapping[str, Any]) -> None:
    """What arguments of a constructor say by sub-configuration, which the policy of the whole leaves out."""
    for name in ("attn_implementation", "experts_implementation"):
        if isinstance(choices.get(name), Mapping):
            set_implementation(model, name, choices[name])


def _parts(model: Any) -> dict[str, Any]:
    """The models in a model, by the name of the sub-configuration that each has."""
    by_config = {id(each.config): each for each in modules(model) if isinstance(each, Capability) and each is not model}
    configs = {name: getattr(model.config, name, None) for name in model.config.sub_configs}
    return {name: by_config[id(config)] for name, config in configs.items() if id(config) in by_config}

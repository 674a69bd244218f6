"""The mapping of a model, derived from its modules: what it needs of a checkpoint, and what it gives back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from flaxmodels.nn.leaves import Leaf, split_shared
from interop.ops import invert
from interop.plan import CheckpointSpec, HeadersOnly
from interop.rules import Mapped, Rule, check_bijection
from interop.source import Header, Source


def checkpoint_spec(model) -> CheckpointSpec:
    """What `model` (its parameters may be abstract) needs of a checkpoint in torch layout."""
    leaves, aliases = split_shared(model)
    alternatives: dict[str, tuple[str, ...]] = {}
    for leaf in leaves:
        older = [leaf.names_in_torch(name) for name in leaf.torch.legacy_names]
        for name, *others in zip(leaf.torch_names, *older, strict=True):
            tied = tuple(alias for alias, first in aliases.items() if first == name)
            known = (name, *others, *tied)
            every = (each for one in known for each in (one, _replaced(one, model.key_aliases)))
            alternatives[name] = tuple(dict.fromkeys(each for each in every if each != name))
    rules = tuple(
        Rule(leaf.torch_names, (leaf.name,), leaf.assembly(leaf.torch.ops, len(leaf.torch.names))) for leaf in leaves
    )
    return _spec(model, leaves, rules, alternatives, ".")


def flax_checkpoint_spec(model, separator: str = "/") -> CheckpointSpec:
    """What `model` needs of a checkpoint in the names, joined by `separator`, and the layout of Flax.

    Layers are not stacked, and names are those of the retired classes of transformers; ours are found too.
    """
    leaves, _ = split_shared(model)
    alternatives: dict[str, tuple[str, ...]] = {}
    rules = []
    prefix = model.flax_prefix and model.flax_prefix + separator
    for leaf in leaves:
        names = leaf.full_names(leaf.torch.flax_name or leaf.path[-1], separator)
        theirs = tuple(prefix + name for name in names)
        alternatives |= {
            name: (own,) for name, own in zip(theirs, leaf.own_names(separator), strict=True) if name != own
        }
        rules.append(Rule(theirs, (leaf.name,), leaf.torch.flax_ops + leaf.stacking))
    found = _spec(model, leaves, tuple(rules), alternatives, separator)
    return replace(found, base_prefix="") if prefix else found


def torch_view(model, leaves: Source) -> Mapped:
    """The parameters of `model`, given by "/"-joined path, under torch names and in torch layout."""
    return _present(leaves, (rule.inverse for rule in checkpoint_spec(model).rules))


def torch_file_view(model, leaves: Source) -> Mapped:
    """`torch_view` without what files of the torch class do not have."""
    rules = (rule.inverse for rule in checkpoint_spec(model).rules)
    ignored = re.compile("|".join(model.keys_to_ignore_on_save) or "$.")
    return _present(leaves, (rule for rule in rules if not ignored.search(rule.targets[0])))


def flax_view(model, leaves: Source) -> Mapped:
    """The parameters of `model`, given by "/"-joined path, as the retired Flax classes of transformers have them."""
    absent = {leaf.name for leaf in split_shared(model)[0] if leaf.torch.flax_name == ""}
    rules = (rule.inverse for rule in flax_checkpoint_spec(model).rules)
    return _present(leaves, (rule for rule in rules if rule.sources[0] not in absent))


def unrolled_view(model, leaves: Source) -> Mapped:
    """The parameters of `model`, given by "/"-joined path, under our own names, with layers not stacked."""
    rules = (Rule((leaf.name,), leaf.own_names("/"), invert(leaf.stacking)) for leaf in split_shared(model)[0])
    return _present(leaves, rules)


def check_mapping(model) -> None:
    """Raise `ValueError` if the tables of `model` are not bijections, or do not fit the shapes of its parameters."""
    for found in (checkpoint_spec(model), flax_checkpoint_spec(model)):
        torch = Mapped(HeadersOnly(found.leaves), [rule.inverse for rule in found.rules])
        Mapped(torch, found.rules)


def torch_headers(model) -> Mapping[str, Header]:
    """Names, shapes and dtypes of the parameters of `model` in torch layout, from its description alone."""
    found = checkpoint_spec(model)
    return Mapped(HeadersOnly(found.leaves), [rule.inverse for rule in found.rules]).headers


def _replaced(name: str, table: Mapping[str, str]) -> str:
    """The name after all replacements, one after another."""
    for pattern, replacement in table.items():
        name = re.sub(pattern, replacement, name)
    return name


def optional(model) -> set[str]:
    """The paths of the parameters that a checkpoint may lack."""
    return {leaf.name for leaf in split_shared(model)[0] if leaf.torch.optional}


def _present(leaves: Source, rules: Iterable[Rule]) -> Mapped:
    """The leaves seen through the rules, of which some lack: a checkpoint that is converted may not have all."""
    return Mapped(leaves, [rule for rule in rules if leaves.headers.keys() >= set(rule.sources)])


def _spec(model, leaves: Sequence[Leaf], rules: tuple[Rule, ...], alternatives, separator: str) -> CheckpointSpec:
    check_bijection(rules)
    headers = {leaf.name: _header(leaf) for leaf in leaves}
    is_base = model.base_model is model
    fresh = frozenset(leaf.name for leaf in leaves if leaf.fresh or _is_in_head(model, leaf))
    prefix, ignored, may_lack = model.base_model_prefix, model.keys_to_ignore_on_load, frozenset(optional(model))
    return CheckpointSpec(rules, headers, alternatives, prefix, is_base, ignored, separator, may_lack, fresh)


def _is_in_head(model, leaf: Leaf) -> bool:
    """Whether the parameter is in what a model has beside its base model."""
    return model.base_model is not model and leaf.path[0] != model.base_model_prefix


def _header(leaf: Leaf) -> Header:
    value = leaf.variable.get_raw_value()
    return Header(tuple(value.shape), np.dtype(value.dtype))

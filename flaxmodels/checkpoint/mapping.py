"""The mapping of a model, derived from its modules: what it wants from a torch checkpoint, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flaxmodels.nn.module import Leaf, split_shared
from interop.plan import Wanted
from interop.rules import Mapped, Rule, check_bijection
from interop.source import Header, Index, Source


class ParamsSource:
    """A `Source` over the parameters of a model, by "/"-joined path."""

    def __init__(self, values: Mapping[str, np.ndarray]):
        self.values = values
        self.headers = {name: Header(tuple(value.shape), np.dtype(value.dtype)) for name, value in values.items()}

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        array = np.asarray(self.values[name])
        return array if index is None else array[(*index, ...)]


def wanted(model) -> Wanted:
    """What `model` (its parameters may be abstract) wants from a checkpoint in torch layout."""
    leaves, aliases = split_shared(model)
    rules = tuple(Rule((leaf.torch_name,), (leaf.name,), leaf.torch.ops) for leaf in leaves)
    check_bijection(rules)
    return Wanted(
        rules,
        {leaf.name: _header(leaf) for leaf in leaves},
        {
            leaf.torch_name: (
                *_legacy_names(leaf),
                *(alias for alias, first in aliases.items() if first is leaf),
            )
            for leaf in leaves
        },
        model.base_model_prefix,
        model.base_model is model,
        model.ignored_names,
    )


def torch_view(model, leaves: Source) -> Mapped:
    """The parameters of `model`, given by "/"-joined path, under torch names and in torch layout."""
    return Mapped(leaves, [rule.inverse for rule in wanted(model).rules])


def wanted_in_flax_layout(model, separator: str) -> Wanted:
    """What `model` wants from a checkpoint in Flax names, joined by `separator`, and layout."""
    of_torch = wanted(model)
    return Wanted(
        tuple(Rule((name.replace("/", separator),), (name,)) for name in of_torch.leaves),
        of_torch.leaves,
        {},
        of_torch.base_prefix,
        of_torch.is_base,
        separator=separator,
    )


def _legacy_names(leaf: Leaf) -> Sequence[str]:
    return [".".join((*leaf.path[:-1], name)) for name in leaf.torch.legacy_names]


def _header(leaf: Leaf) -> Header:
    value = leaf.variable.get_raw_value()
    return Header(tuple(value.shape), np.dtype(value.dtype))

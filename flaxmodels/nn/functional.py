"""A module as a pure function of its parameters, so that compiled code takes flat lists of arrays."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx, traverse_util

from flaxmodels.changes import changes
from flaxmodels.errors import FlaxModelsError
from flaxmodels.nn.module import Module, is_abstract, split_shared

Params = dict[str, Any]
"""Nested dict with string keys and arrays as leaves."""


class Functional:
    """The structure of a module without its parameters, as it was at one moment.

    `paths` are the "/"-joined paths of the distinct parameters; lists of values are in their order everywhere.
    `compiled` has the programs that were compiled for it, `derived` what else was found out about the module as it is.
    """

    def __init__(self, module: Module):
        leaves, _ = split_shared(module)
        self.version = changes()
        self.paths = [leaf.name for leaf in leaves]
        self.variables = [leaf.variable for leaf in leaves]
        self.compiled: dict[Any, Any] = {}
        self.derived: dict[Any, Any] = {}
        self._orders: dict[Any, list[int | None]] = {}
        self._graph, state = nnx.split(_in_eval_mode(module))
        self._config = config.to_dict() if (config := getattr(module, "config", None)) else None
        position = {id(variable): number for number, variable in enumerate(self.variables)}
        self._flat = [(path, position[id(_descend(module, path))]) for path, _ in nnx.to_flat_state(state)]

    def bind(self, values: Sequence[Any]) -> Any:
        """A copy of the module that holds `values` as its parameters."""
        state = nnx.from_flat_state([(path, values[number]) for path, number in self._flat])
        return nnx.merge(self._graph, state)

    def read(self, module: Any) -> list[Any]:
        """The values that a copy made by `bind` holds."""
        found: dict[int, Any] = {}
        for path, number in self._flat:
            found.setdefault(number, _descend(module, path).get_value())
        return [found[number] for number in range(len(self.paths))]

    def values(self, params: Any = None, batch_stats: Any = None) -> list[Any]:
        """The values of `params` and `batch_stats` (nested dicts), or those that the module holds, as a flat list."""
        leaves, tree = jax.tree.flatten((params, batch_stats))
        if tree not in self._orders:
            self._orders[tree] = self._order(params, batch_stats)
        places = zip(self.variables, self._orders[tree], strict=True)
        return [_held(variable) if place is None else leaves[place] for variable, place in places]

    def batch_stats(self, module: Any) -> Params:
        """The statistics, by now, of a copy made by `bind`."""
        values = zip(self.paths, self.variables, self.read(module), strict=True)
        return nest({path: value for path, variable, value in values if isinstance(variable, nnx.BatchStat)})

    def describes_same(self, other: Functional) -> bool:
        """Whether what was compiled for one serves the other."""
        mine, theirs = ((one.paths, one._config, one._graph) for one in (self, other))
        return mine == theirs

    def _order(self, params: Any, batch_stats: Any) -> list[int | None]:
        """For each value its place among those that are given, or `None`."""
        places: dict[str, int] = {}
        for given, kind in ((params, nnx.Param), (batch_stats, nnx.BatchStat)):
            if given is not None:
                paths = (path for path, _ in jax.tree_util.tree_flatten_with_path(given)[0])
                names = ["/".join(str(getattr(key, "key", key)) for key in path) for path in paths]
                own = zip(self.paths, self.variables, strict=True)
                check_keys(names, [path for path, variable in own if isinstance(variable, kind)])
                places |= {name: number for number, name in enumerate(names, len(places))}
        return [places.get(path) for path in self.paths]


def _held(variable: nnx.Variable) -> Any:
    if is_abstract(variable):
        raise FlaxModelsError("the model holds no parameters: pass params=, or call init_weights()")
    return variable.get_value()


def nest(values: Mapping[str, Any]) -> Params:
    """A nested dict of values by "/"-joined path."""
    return traverse_util.unflatten_dict(dict(values), sep="/")


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a nested dict by "/"-joined path."""
    return traverse_util.flatten_dict(params, sep="/")


def check_keys(given, expected) -> None:
    """Raise `FlaxModelsError` listing the parameters that are missing and those that the model does not have."""
    missing, extra = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing or extra:
        lines = [f"  - missing {name}" for name in missing] + [f"  - unexpected {name}" for name in extra]
        raise FlaxModelsError("the parameters do not fit the model:\n" + "\n".join(lines))


_FUNCTIONALS: weakref.WeakKeyDictionary[Module, Functional] = weakref.WeakKeyDictionary()


def functional(module: Module) -> Functional:
    """The pure function of `module`; the same object until it, its configuration or a part of it changes."""
    found = _FUNCTIONALS.get(module)
    if found is None or found.version != changes():
        fresh = Functional(module)
        if found is not None and found.describes_same(fresh):
            found.version, found.variables, found.derived = fresh.version, fresh.variables, {}
            return found
        _FUNCTIONALS[module] = found = fresh
    return found


def _in_eval_mode(module: Module) -> Module:
    """The module, or a view of one in train mode: programs do not depend on the mode, and serve both."""
    if getattr(module, "deterministic", True):
        return module
    return nnx.view(module, only=Module, deterministic=True)


def _descend(module: Any, path: Sequence[Any]) -> Any:
    for name in path:
        module = getattr(module, str(name))
    return module

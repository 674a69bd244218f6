"""A module as a pure function of its parameters, so that compiled code takes flat lists of arrays."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from flaxmodels.config import PreTrainedConfig
from flaxmodels.nn.module import ChangeFlag, Module, stops_gradient
from flaxmodels.parameters import Params, check_keys, check_present, leaves, nest


class Structure:
    """A module without its parameters, as it was at one moment.

    Attributes:
        paths: "/"-joined paths of the distinct parameters; lists of values are in their order everywhere.
        variables: the parameters themselves.
        compiled: programs that were compiled for it.
        derived: what else was found out about the module as it is.
        has_statistics: whether some of them are running statistics.
    """

    def __init__(self, module: Module):
        survey = _Survey(module)
        self._changed, self._description = survey.changed, survey.description
        self._configs, self._versions = survey.configs, survey.versions
        found = leaves(module)
        self.paths, self.variables = [leaf.name for leaf in found], [leaf.variable for leaf in found]
        self._read = [_reader(variable) for variable in self.variables]
        self.has_statistics = any(issubclass(type(variable), nnx.BatchStat) for variable in self.variables)
        self.compiled: dict[Any, Callable[..., Any]] = {}
        self.derived: dict[Any, Any] = {}
        self._orders: dict[Any, list[int | None]] = {}
        self._graph, state = nnx.split(_in_eval_mode(module))
        position = {id(variable): number for number, variable in enumerate(self.variables)}
        self._flat = [(path, position[id(_descend(module, path))]) for path, _ in nnx.to_flat_state(state)]

    def is_current(self) -> bool:
        """Whether neither the module, nor a part of it, nor a configuration of theirs has changed since."""
        return not self._changed.raised and [config.state_version for config in self._configs] == self._versions

    def renewed(self, module: Module) -> Structure:
        """The structure of `module` now: with the programs of this one if they do not depend on what has changed."""
        fresh = Structure(module)
        if fresh._description != self._description:
            return fresh
        kept = {"compiled": self.compiled, "_orders": self._orders}
        vars(self).update({**vars(fresh), **kept})  # programs that are traced again later bind this object
        return self

    def bind(self, values: Sequence[Any]) -> Any:
        """A copy of the module that holds `values` as its parameters; no gradient reaches those that are frozen."""
        pairs = zip(self.variables, values, strict=True)
        given = [jax.lax.stop_gradient(value) if stops_gradient(variable) else value for variable, value in pairs]
        state = nnx.from_flat_state([(path, given[number]) for path, number in self._flat])
        return nnx.merge(self._graph, state)

    def read(self, module: Any) -> list[Any]:
        """The values that a copy made by `bind` holds."""
        found: dict[int, Any] = {}
        for path, number in self._flat:
            found.setdefault(number, _descend(module, path).get_value())
        return [found[number] for number in range(len(self.paths))]

    def values(self, params: Any = None, batch_stats: Any = None) -> list[Any]:
        """The values of `params` and `batch_stats` (nested dicts), or those that the module holds, as a flat list.

        Raises:
            FlaxModelsError: names that are not those of the module, or values that are not there.
        """
        if params is None and batch_stats is None:
            own = found = [read() for read in self._read]
        else:
            given, tree = jax.tree.flatten((params, batch_stats))
            if tree not in self._orders:
                self._orders[tree] = self._order(params, batch_stats)
            order = self._orders[tree]
            found = [read() if index is None else given[index] for read, index in zip(self._read, order, strict=True)]
            own = [value for value, index in zip(found, order, strict=True) if index is None]
        check_present(own)
        return found

    def batch_stats(self, module: Any) -> Params:
        """The statistics, by now, of a copy made by `bind`."""
        found = zip(self.paths, self.variables, self.read(module), strict=True)
        return nest({path: value for path, variable, value in found if isinstance(variable, nnx.BatchStat)})

    def _order(self, params: Any, batch_stats: Any) -> list[int | None]:
        """For each value its index among those that are given, or `None`."""
        indices: dict[str, int] = {}
        for given, kind in ((params, nnx.Param), (batch_stats, nnx.BatchStat)):
            if given is not None:
                paths = (path for path, _ in jax.tree_util.tree_flatten_with_path(given)[0])
                names = ["/".join(str(getattr(key, "key", key)) for key in path) for path in paths]
                own = zip(self.paths, self.variables, strict=True)
                check_keys(names, [path for path, variable in own if isinstance(variable, kind)])
                indices |= {name: number for number, name in enumerate(names, len(indices))}
        return [indices.get(path) for path in self.paths]


_STRUCTURES: weakref.WeakKeyDictionary[Module, Structure] = weakref.WeakKeyDictionary()


def structure_of(module: Module) -> Structure:
    """The structure of `module`, with its compiled programs; the same object until what they depend on changes."""
    found = _STRUCTURES.get(module)
    if found is None or not found.is_current():
        found = _STRUCTURES[module] = Structure(module) if found is None else found.renewed(module)
    return found


class _Survey:
    """What the programs of a module depend on: its classes, attributes and configurations, and what is shared in it.

    Attributes:
        changed: raised by every change of a module in it.
        configs, versions: its configurations, and the version of each.
        description: compared to find out whether something else would be computed.
    """

    def __init__(self, module: Module):
        self.changed = ChangeFlag()
        self.configs: list[PreTrainedConfig] = []
        self.versions: list[Any] = []
        self._values: dict[int, tuple[type, dict[str, Any]]] = {}
        self._numbers: dict[int, int] = {}
        self.description = self._describe(module)

    def _describe(self, value: Any) -> Any:
        kind = type(value)
        if issubclass(kind, PreTrainedConfig):
            return self._describe_config(value)
        if not issubclass(kind, nnx.Module | nnx.Variable):
            return value
        if (known := self._numbers.get(id(value))) is not None:
            return kind, known
        self._numbers[id(value)] = len(self._numbers)
        if issubclass(kind, nnx.Module):
            return kind, self._attributes(value)
        return kind, stops_gradient(value)

    def _describe_config(self, config: PreTrainedConfig) -> tuple[type, dict[str, Any]]:
        if id(config) not in self._values:
            self.configs.append(config)
            self.versions.append(config.state_version)
            self._values[id(config)] = type(config), config.to_dict()
        return self._values[id(config)]

    def _attributes(self, module: nnx.Module) -> Mapping[str, Any]:
        self.changed.watch(module)  # first, so that no change is missed that another thread makes meanwhile
        ignored = getattr(module, "not_compiled", ())
        return {
            name: self._describe(value)
            for name, value in list(vars(module).items())
            if name not in ignored and not name.startswith("_pytree__")
        }


def _reader(variable: nnx.Variable) -> Callable[[], Any]:
    """What gives the value of a parameter; `get_value` takes long, and does more for special ones only."""
    is_array = isinstance(variable.get_raw_value(), jax.Array | jax.ShapeDtypeStruct)
    is_plain = is_array and type(variable).get_value is nnx.Variable.get_value
    has_hooks = "on_get_value" in variable.get_metadata()
    return variable.get_raw_value if is_plain and not has_hooks else variable.get_value


def _in_eval_mode(module: Module) -> Module:
    """The module, or a view of one in train mode: programs do not depend on the mode, and serve both."""
    if getattr(module, "deterministic", True):
        return module
    return nnx.view(module, only=Module, deterministic=True)


def _descend(module: Any, path: Sequence[Any]) -> Any:
    for name in path:
        module = getattr(module, str(name))
    return module

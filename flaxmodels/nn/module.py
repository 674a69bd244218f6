"""Modules whose parameters are described first and filled later.

Building a module allocates nothing: each parameter is an `nnx.Param` that holds a `jax.ShapeDtypeStruct` and the
initialiser that would fill it. Loading, planning and sharding work on that description.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax
import numpy as np
from flax import nnx

from flaxmodels.nn.initializers import Initializer
from interop.ops import Op

_STATIC = (bool, int, float, str, type(None), np.dtype)
_CONTAINERS = (list, tuple, dict)


@dataclass(frozen=True)
class TorchLeaf:
    """How others store a parameter, as a part of the module that owns it.

    Attributes:
        name: what torch calls it; or the names of several tensors that make it together, in the order of `ops`.
        ops: from torch's layout to ours.
        legacy_names: what older torch checkpoints call it.
        optional: whether a checkpoint may lack it, as its initial value is the right one.
        flax_name: what the retired Flax classes of transformers call it, where that is not our name; "" if their files
            do not have it.
        flax_ops: from their layout to ours, where that is not the same.
    """

    name: str | tuple[str, ...]
    ops: tuple[Op, ...] = ()
    legacy_names: tuple[str, ...] = ()
    optional: bool = False
    flax_name: str | None = None
    flax_ops: tuple[Op, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """`name`, or all of them."""
        return (self.name,) if isinstance(self.name, str) else self.name


class Module(nnx.Module):
    """Base of every module of the library.

    `torch_leaves` says how torch stores the parameters that the class itself owns; a parameter that it does not
    list has the same name and layout there. `torch_path` says where others have a module of the class in the module
    that holds it, joined by ".", if not under the name of its attribute; `torch_names` what torch's files, but not live
    torch modules, call the modules that it holds: "" if the files have what these hold in their place.
    """

    torch_leaves: ClassVar[dict[str, TorchLeaf]] = {}
    torch_path: ClassVar[str] = ""
    torch_names: ClassVar[dict[str, str]] = {}
    not_compiled: ClassVar[frozenset[str]] = frozenset({"mem_rss_diff"})
    """Names of attributes that no compiled program depends on."""
    policy_attributes: ClassVar[Mapping[str, str]] = {
        "dtype": "dtype",
        "implementation": "attn_implementation",
        "remat": "remat",
    }
    """The names of attributes that come from a `flaxmodels.policy.Policy`, and what they are called there."""

    mem_rss_diff: int
    """Bytes that calls took, since `add_memory_hooks` was called of the model."""

    def adopt(self, choices: Mapping[str, Any]) -> None:
        """Compute by these values of a policy, by name, from now on; modules in this one are not told."""
        for name, choice in self.policy_attributes.items():
            if name in vars(self) and choice in choices:
                setattr(self, name, choices[choice])

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, _STATIC) or isinstance(getattr(type(self), name, None), property):
            # NNX searches every value for arrays, which takes longer than all else here, and refuses properties.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)
        if name not in self.not_compiled:
            raise_flags(self)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        raise_flags(self)

    def __copy__(self) -> Self:
        """A module with modules and parameters of its own, which share arrays and all else with this one's."""
        return _copied(self, {}, lambda value, memo: value)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        # That of NNX loses the order of attributes, by which a parameter that is shared has its name.
        return _copied(self, {} if memo is None else memo, copy.deepcopy)

    def _check_value(self, key: str, value: Any, new_status: Any) -> None:
        """Of NNX, which searches every attribute for arrays, twice: only containers can hide any."""
        if isinstance(value, _CONTAINERS):
            super()._check_value(key, value, new_status)


def _copied(value: Any, memo: dict[int, Any], copy_rest: Callable[[Any, dict[int, Any]], Any]) -> Any:
    """A copy of a module or a parameter, in which `copy_rest` makes all else of what there was."""
    kind = type(value)
    if not issubclass(kind, nnx.Module | nnx.Variable):
        return copy_rest(value, memo)
    if id(value) not in memo:
        if issubclass(kind, nnx.Variable):
            memo[id(value)] = value.copy(copy_rest(value.get_raw_value(), memo))
        else:
            memo[id(value)] = twin = object.__new__(kind)
            vars(twin).update({name: _copied(each, memo, copy_rest) for name, each in vars(value).items()})
    return memo[id(value)]


class ChangeFlag:
    """Raised when an attribute of a module that it watches is set or deleted."""

    __slots__ = ("__weakref__", "raised")

    def __init__(self) -> None:
        self.raised = False

    def watch(self, module: nnx.Module) -> None:
        """Be raised by the changes of `module` from now on."""
        with _LOCK:
            _FLAGS.setdefault(module, weakref.WeakSet()).add(self)


_FLAGS: weakref.WeakKeyDictionary[nnx.Module, weakref.WeakSet[ChangeFlag]] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def raise_flags(module: nnx.Module) -> None:
    """Let all know that watch `module` that it has changed; setting an attribute of it does."""
    if module in _FLAGS:
        with _LOCK:
            for flag in _FLAGS[module]:
                flag.raised = True


class ModuleList(Module):
    """Modules in order, under the names "0", "1", ... that torch gives them."""

    def __init__(self, modules):
        for number, module in enumerate(modules):
            setattr(self, str(number), module)

    def __len__(self) -> int:
        return sum(name.isdigit() for name in vars(self))

    def __getitem__(self, number: int):
        return getattr(self, str(range(len(self))[number]))

    def __iter__(self):
        return (self[number] for number in range(len(self)))


def param(shape: tuple[int, ...], dtype, init: Initializer) -> nnx.Param:
    """A parameter that is described but not allocated; `init(key, shape, dtype)` would fill it."""
    return nnx.Param(jax.ShapeDtypeStruct(shape, dtype), init=init)


def statistic(shape: tuple[int, ...], init: Initializer, dtype: Any = np.float32) -> nnx.BatchStat:
    """A running statistic: saved as parameters are, but not trained, and never in half precision."""
    return nnx.BatchStat(jax.ShapeDtypeStruct(shape, dtype), init=init)


def is_abstract(variable: nnx.Variable) -> bool:
    """Whether the parameter is described but not filled."""
    return isinstance(variable.get_raw_value(), jax.ShapeDtypeStruct)


def is_frozen(variable: nnx.Variable) -> bool:
    """Whether training leaves the parameter as it is."""
    return variable.get_metadata("frozen", False)


def stops_gradient(variable: nnx.Variable) -> bool:
    """Whether the parameter has no gradient: it is frozen, and no gradient of it was asked for all the same."""
    return is_frozen(variable) and not variable.get_metadata("requires_gradient", False)


def fresh(part: Any) -> Any:
    """`part`, a module or a parameter, declared as one that a pretrained checkpoint may lack: a head, a pooler.

    Loading initialises it and says so; of all else that is missing it makes an error. What a model has beside its base
    model is a head, and need not be declared.
    """
    if isinstance(part, nnx.Variable):
        part.set_metadata(fresh=True)
    else:
        part.fresh = True
    return part

"""Modules whose parameters are described first and filled later.

Building a module allocates nothing: each parameter is an `nnx.Param` that holds a `jax.ShapeDtypeStruct` and the
initialiser that would fill it. Loading, planning and sharding work on that description; `initialise` draws values
for just the parameters that no checkpoint provides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxmodels.changes import count_change
from interop.ops import Grouped, Op, Stack

Initializer = Callable[..., jax.Array]
_STATIC = (bool, int, float, str, type(None), np.dtype)


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

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "deterministic":  # the mode of a model, which compiled calls do not depend on
            count_change()
        if isinstance(value, _STATIC) or isinstance(getattr(type(self), name, None), property):
            # NNX searches every value for arrays, which takes longer than all else here, and refuses properties.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        count_change()
        super().__delattr__(name)


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


@dataclass(frozen=True)
class Layers:
    """That a parameter holds `count` layers along its leading axis, the first of them number `start`.

    `position` in its path stands for the number.
    """

    position: int
    count: int
    start: int = 0


@dataclass(frozen=True)
class Leaf:
    """A parameter in its place: `path` names the module attributes from the root, the last one its own.

    `torch_owner` is the path of the owning module in torch's files. `fresh` says whether the parameter or a module that
    it is in was declared so.
    """

    path: tuple[str, ...]
    variable: nnx.Variable
    owner: nnx.Module
    layers: Layers | None
    torch_owner: tuple[str, ...]
    fresh: bool = False

    @property
    def name(self) -> str:
        """The path joined by "/"."""
        return "/".join(self.path)

    @property
    def torch(self) -> TorchLeaf:
        """How others store it in the owning module."""
        return getattr(self.owner, "torch_leaves", {}).get(self.path[-1], TorchLeaf(self.path[-1]))

    @property
    def torch_names(self) -> tuple[str, ...]:
        """Its full name in torch's files, or all its names; one after another for each layer if it holds several."""
        return self.names_in_torch(*self.torch.names)

    def names_in_torch(self, *names: str) -> tuple[str, ...]:
        """The path of the owning module in torch's files in every layer, with each of `names` behind it."""
        return tuple(".".join((*path, name)) for path in self._in_layers(self.torch_owner) for name in names)

    def full_names(self, name: str, separator: str) -> tuple[str, ...]:
        """The path that others give the owning module in every layer, with `name` behind it."""
        if elsewhere := getattr(self.owner, "torch_path", ""):
            return tuple(separator.join((*path[:-2], *elsewhere.split("."), name)) for path in self.paths)
        return tuple(separator.join((*path[:-1], name)) for path in self.paths)

    def own_names(self, separator: str) -> tuple[str, ...]:
        """The path joined by `separator`, once for each layer that the parameter holds."""
        return tuple(map(separator.join, self.paths))

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """The path, once for each layer that the parameter holds."""
        return self._in_layers(self.path)

    def _in_layers(self, path: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        if self.layers is None:
            return (path,)
        before, behind = path[: self.layers.position], path[self.layers.position + 1 :]
        numbers = range(self.layers.start, self.layers.start + self.layers.count)
        return tuple((*before, str(number), *behind) for number in numbers)

    @property
    def stacking(self) -> tuple[Op, ...]:
        """The ops from one array a layer to the parameter."""
        return () if self.layers is None else (Stack(self.layers.count),)

    def assembly(self, ops: tuple[Op, ...], tensors: int) -> tuple[Op, ...]:
        """The ops from that many tensors a layer to the parameter, given those from one layer's to its part."""
        if self.layers is None or tensors == 1:
            return ops + self.stacking
        return (Grouped(self.layers.count, ops), *self.stacking)


def iter_leaves(
    module: nnx.Module,
    path: tuple[str, ...] = (),
    layers: Layers | None = None,
    torch_path: tuple[str, ...] = (),
    is_fresh: bool = False,
) -> Iterator[Leaf]:
    """Every parameter below `module` in order of definition; a shared one comes once for each place it is in."""
    count, start = getattr(module, "stacked", 0), getattr(module, "apart", 0)
    is_fresh = is_fresh or getattr(module, "fresh", False)
    torch_names = getattr(module, "torch_names", {})
    for name, value in vars(module).items():
        kind = type(value)  # isinstance(value, nnx.Variable) takes longer than all else here
        if issubclass(kind, nnx.Variable):
            leaf_is_fresh = is_fresh or value.get_metadata().get("fresh", False)
            yield Leaf((*path, name), value, module, layers, torch_path, leaf_is_fresh)
        elif issubclass(kind, nnx.Module):
            own = Layers(len(path), count, start) if count and not name.isdigit() else layers
            elsewhere = getattr(value, "torch_path", "") or torch_names.get(name, name)
            there = (*torch_path, *filter(None, elsewhere.split(".")))
            yield from iter_leaves(value, (*path, name), own, there, is_fresh)


def split_shared(module: nnx.Module) -> tuple[list[Leaf], dict[str, Leaf]]:
    """The distinct parameters of `module`, and the further torch names of those that are in several places."""
    owned: dict[int, Leaf] = {}
    aliases: dict[str, Leaf] = {}
    for leaf in iter_leaves(module):
        if first := owned.get(id(leaf.variable)):
            aliases |= dict.fromkeys(leaf.torch_names, first)
        else:
            owned[id(leaf.variable)] = leaf
    return list(owned.values()), aliases


def statistic(shape: tuple[int, ...], init: Initializer, dtype: Any = np.float32) -> nnx.BatchStat:
    """A running statistic: saved as parameters are, but not trained, and never in half precision."""
    return nnx.BatchStat(jax.ShapeDtypeStruct(shape, dtype), init=init)


def is_abstract(variable: nnx.Variable) -> bool:
    """Whether the parameter is described but not filled."""
    return isinstance(variable.get_raw_value(), jax.ShapeDtypeStruct)


def initial_value(leaf: Leaf, key: jax.Array, paths: Sequence[Sequence[str]]) -> jax.Array:
    """The initial value of a parameter: a function of the key and of `paths`, one for each layer that it holds."""
    described = leaf.variable.get_raw_value()
    init = leaf.variable.get_metadata().get("init", jnp.zeros)
    shape = described.shape[1:] if leaf.layers else described.shape
    layers = [init(_fold(key, path), shape, described.dtype) for path in paths]
    return jnp.stack(layers) if leaf.layers else layers[0]


def _fold(key: jax.Array, path: Sequence[str]) -> jax.Array:
    for part in path:
        key = jax.random.fold_in(key, _stable_hash(part))
    return key


def _stable_hash(text: str) -> int:
    """A 32-bit hash that is the same in every process (FNV-1a)."""
    value = 2166136261
    for byte in text.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return value

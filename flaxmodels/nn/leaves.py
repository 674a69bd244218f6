"""The parameters of a module: their paths, the modules that own them, and what others call them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flax import nnx

from flaxmodels.nn.module import TorchLeaf
from interop.ops import Grouped, Op, Stack


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
    """A parameter and its owner: `path` names the module attributes from the root, the last one its own.

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
        """The path of the owning module in torch's files in every layer, followed by each of `names`."""
        return tuple(".".join((*path, name)) for path in self._in_layers(self.torch_owner) for name in names)

    def full_names(self, name: str, separator: str) -> tuple[str, ...]:
        """The path that others give the owning module in every layer, followed by `name`."""
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
        before, after = path[: self.layers.position], path[self.layers.position + 1 :]
        numbers = range(self.layers.start, self.layers.start + self.layers.count)
        return tuple((*before, str(number), *after) for number in numbers)

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
    """Every parameter below `module` in order of definition; a shared one comes once for each module it is in."""
    count, start = getattr(module, "num_stacked", 0), getattr(module, "num_unstacked", 0)
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
            own_path = (*torch_path, *filter(None, elsewhere.split(".")))
            yield from iter_leaves(value, (*path, name), own, own_path, is_fresh)


def split_shared(module: nnx.Module) -> tuple[list[Leaf], dict[str, str]]:
    """The distinct parameters of `module`, and for those that several modules share their further names in torch, each
    with the first one.
    """
    owned: dict[int, Leaf] = {}
    aliases: dict[str, str] = {}
    for leaf in iter_leaves(module):
        if first := owned.get(id(leaf.variable)):
            aliases |= zip(leaf.torch_names, first.torch_names, strict=True)
        else:
            owned[id(leaf.variable)] = leaf
    return list(owned.values()), aliases

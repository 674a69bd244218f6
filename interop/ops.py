"""Reversible operations on lists of arrays: the vocabulary in which every weight mapping is written.

An op turns a list of input arrays into a list of output arrays by moving elements, never by changing them.
Each op knows the shapes and the dtype that come out, its `inverse` (again an op), and `read`, which computes any
box of any output from boxes of the inputs. Reading a whole tensor, reading one device's shard of it, and planning
which bytes of a file are needed are therefore the same code.

`read` calls `fetch(number, index)` for the boxes of inputs that it needs, each element at most once. It works on
whatever array type `fetch` returns, so the same chain runs on numpy views of a file and on device arrays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from interop.errors import InteropError
from interop.source import Index

Shape = tuple[int, ...]
Fetch = Callable[[int, Index], Any]


def full_index(shape: Shape) -> Index:
    """The box that covers all of `shape`."""
    return tuple(slice(0, size) for size in shape)


def join(parts: Sequence[Any], axis: int) -> Any:
    """Concatenate along `axis`, on the host or on the device; a single part is returned as it is."""
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts, axis)
    return parts[0].__array_namespace__().concatenate(list(parts), axis)


class Op(ABC):
    """One reversible step from a list of arrays to a list of arrays."""

    @abstractmethod
    def shapes(self, inputs: Sequence[Shape]) -> list[Shape]:
        """Shapes of the outputs, in order; `ValueError` if `inputs` do not fit."""

    def dtype(self, dtype: np.dtype) -> np.dtype:
        """The dtype of the outputs, from that of the inputs."""
        return dtype

    @property
    @abstractmethod
    def inverse(self) -> Op:
        """The op that undoes this one."""

    @abstractmethod
    def read(self, number: int, index: Index, inputs: Sequence[Shape], fetch: Fetch) -> Any:
        """The box `index`, which is not empty, of output `number`."""


def _expect(condition: bool, op: Op, inputs: Sequence[Shape]) -> None:
    if not condition:
        raise ValueError(f"{op} does not fit tensors of shape {', '.join(map(str, inputs)) or 'none'}")


@dataclass(frozen=True)
class Transpose(Op):
    """Reorder the axes of every array, as `numpy.transpose` does."""

    axes: tuple[int, ...]

    def shapes(self, inputs):
        _expect(all(len(shape) == len(self.axes) for shape in inputs), self, inputs)
        return [tuple(shape[axis] for axis in self.axes) for shape in inputs]

    @property
    def inverse(self):
        return Transpose(tuple(int(axis) for axis in np.argsort(self.axes)))

    def read(self, number, index, inputs, fetch):
        source = tuple(index[self.axes.index(axis)] for axis in range(len(self.axes)))
        return fetch(number, source).transpose(self.axes)


@dataclass(frozen=True)
class Concat(Op):
    """Several arrays become one, laid end to end along `axis`; `sizes` are their extents there."""

    axis: int
    sizes: tuple[int, ...]

    def shapes(self, inputs):
        _expect(tuple(shape[self.axis] for shape in inputs) == self.sizes, self, inputs)
        first = inputs[0]
        _expect(len({_without(shape, self.axis) for shape in inputs}) == 1, self, inputs)
        return [(*first[: self.axis], sum(self.sizes), *first[self.axis + 1 :])]

    @property
    def inverse(self):
        return Split(self.axis, self.sizes)

    def read(self, number, index, inputs, fetch):
        wanted, start, parts = index[self.axis], 0, []
        for source, size in enumerate(self.sizes):
            low, high = max(wanted.start, start), min(wanted.stop, start + size)
            if low < high:
                parts.append(fetch(source, _replace(index, self.axis, slice(low - start, high - start))))
            start += size
        return join(parts, self.axis)


@dataclass(frozen=True)
class Split(Op):
    """One array becomes several along `axis`: the inverse of `Concat`."""

    axis: int
    sizes: tuple[int, ...]

    def shapes(self, inputs):
        _expect(len(inputs) == 1 and inputs[0][self.axis] == sum(self.sizes), self, inputs)
        (shape,) = inputs
        return [(*shape[: self.axis], size, *shape[self.axis + 1 :]) for size in self.sizes]

    @property
    def inverse(self):
        return Concat(self.axis, self.sizes)

    def read(self, number, index, inputs, fetch):
        start, wanted = sum(self.sizes[:number]), index[self.axis]
        return fetch(0, _replace(index, self.axis, slice(start + wanted.start, start + wanted.stop)))


@dataclass(frozen=True)
class Unflatten(Op):
    """Axis `axis` of every array becomes several axes of extents `sizes`, row-major."""

    axis: int
    sizes: tuple[int, ...]

    def shapes(self, inputs):
        _expect(all(shape[self.axis] == prod(self.sizes) for shape in inputs), self, inputs)
        return [(*shape[: self.axis], *self.sizes, *shape[self.axis + 1 :]) for shape in inputs]

    @property
    def inverse(self):
        return Flatten(self.axis, self.sizes)

    def read(self, number, index, inputs, fetch):
        after = self.axis + len(self.sizes)
        box, leading, trailing = index[self.axis : after], index[: self.axis], index[after:]
        parts = [fetch(number, (*leading, run, *trailing)) for run in _runs(box, self.sizes)]
        extents = tuple(part.stop - part.start for part in box)
        whole = join(parts, self.axis)
        return whole.reshape(*whole.shape[: self.axis], *extents, *whole.shape[self.axis + 1 :])


@dataclass(frozen=True)
class Flatten(Op):
    """The axes of extents `sizes` that begin at `axis` become one, row-major: the inverse of `Unflatten`."""

    axis: int
    sizes: tuple[int, ...]

    def shapes(self, inputs):
        after = self.axis + len(self.sizes)
        _expect(all(shape[self.axis : after] == self.sizes for shape in inputs), self, inputs)
        return [(*shape[: self.axis], prod(self.sizes), *shape[after:]) for shape in inputs]

    @property
    def inverse(self):
        return Unflatten(self.axis, self.sizes)

    def read(self, number, index, inputs, fetch):
        leading, trailing = index[: self.axis], index[self.axis + 1 :]
        parts = []
        for box in _boxes(index[self.axis], self.sizes):
            part = fetch(number, (*leading, *box, *trailing))
            extent = prod(piece.stop - piece.start for piece in box)
            parts.append(part.reshape(*part.shape[: self.axis], extent, *part.shape[self.axis + len(box) :]))
        return join(parts, self.axis)


@dataclass(frozen=True)
class Stack(Op):
    """`count` arrays of one shape become one with a new leading axis."""

    count: int

    def shapes(self, inputs):
        _expect(len(inputs) == self.count and len(set(inputs)) == 1, self, inputs)
        return [(self.count, *inputs[0])]

    @property
    def inverse(self):
        return Unstack(self.count)

    def read(self, number, index, inputs, fetch):
        chosen = range(index[0].start, index[0].stop)
        return join([fetch(source, index[1:])[None] for source in chosen], 0)


@dataclass(frozen=True)
class Unstack(Op):
    """One array becomes `count` arrays, one for each row of its leading axis: the inverse of `Stack`."""

    count: int

    def shapes(self, inputs):
        _expect(len(inputs) == 1 and inputs[0][:1] == (self.count,), self, inputs)
        return [inputs[0][1:]] * self.count

    @property
    def inverse(self):
        return Stack(self.count)

    def read(self, number, index, inputs, fetch):
        return fetch(0, (slice(number, number + 1), *index))[0]


@dataclass(frozen=True)
class Grouped(Op):
    """The arrays in `count` groups of as many, in order; each group passes through `ops` on its own."""

    count: int
    ops: tuple[Op, ...]

    def shapes(self, inputs):
        _expect(bool(inputs) and len(inputs) % self.count == 0, self, inputs)
        return [shape for group in range(self.count) for shape in chain_shapes(self.ops, self._group(group, inputs))]

    @property
    def inverse(self):
        return Grouped(self.count, invert(self.ops))

    def read(self, number, index, inputs, fetch):
        group, own = divmod(number, len(chain_shapes(self.ops, self._group(0, inputs))))
        first = group * (len(inputs) // self.count)
        shapes = self._group(group, inputs)
        return read_chain(self.ops, own, index, shapes, lambda source, box: fetch(first + source, box))

    def _group(self, number: int, inputs: Sequence[Shape]) -> Sequence[Shape]:
        size = len(inputs) // self.count
        return inputs[number * size : (number + 1) * size]


@dataclass(frozen=True)
class Pad(Op):
    """Axis `axis`, of extent `size`, gets `padding` zeros at its end: a vocabulary rounded up, for instance."""

    axis: int
    size: int
    padding: int

    def shapes(self, inputs):
        _expect(all(shape[self.axis] == self.size for shape in inputs), self, inputs)
        return [_resized(shape, self.axis, self.size + self.padding) for shape in inputs]

    @property
    def inverse(self):
        return Crop(self.axis, self.size, self.padding)

    def read(self, number, index, inputs, fetch):
        wanted = index[self.axis]
        there = slice(min(wanted.start, self.size), min(wanted.stop, self.size))
        part = fetch(number, _replace(index, self.axis, there))
        zeros = wanted.stop - wanted.start - (there.stop - there.start)
        if not zeros:
            return part
        library = np if isinstance(part, np.ndarray) else part.__array_namespace__()
        return join([part, library.zeros(_resized(part.shape, self.axis, zeros), part.dtype)], self.axis)


@dataclass(frozen=True)
class Crop(Op):
    """The inverse of `Pad`. What it drops must be zeros."""

    axis: int
    size: int
    padding: int

    def shapes(self, inputs):
        _expect(all(shape[self.axis] == self.size + self.padding for shape in inputs), self, inputs)
        return [_resized(shape, self.axis, self.size) for shape in inputs]

    @property
    def inverse(self):
        return Pad(self.axis, self.size, self.padding)

    def read(self, number, index, inputs, fetch):
        return fetch(number, index)


@dataclass(frozen=True)
class Retype(Op):
    """Integers of dtype `before` as `after`, which must hold them: counters, for which JAX has no 64 bits.

    Raises:
        InteropError: by `read`, for a number that `after` does not hold.
    """

    before: str
    after: str

    def shapes(self, inputs):
        return list(inputs)

    def dtype(self, dtype):
        return np.dtype(self.after)

    @property
    def inverse(self):
        return Retype(self.after, self.before)

    def read(self, number, index, inputs, fetch):
        part = np.asarray(fetch(number, index))
        retyped = part.astype(self.after)
        if (retyped != part).any():
            wrong = part.flat[(retyped != part).argmax()]
            raise InteropError(f"{part.dtype} {wrong} does not fit into {self.after}")
        return retyped


def read_chain(ops: Sequence[Op], number: int, index: Index, inputs: Sequence[Shape], fetch: Fetch) -> Any:
    """The box `index` of output `number` of the ops applied one after another."""
    if any(part.start == part.stop for part in index):
        nothing = fetch(0, (slice(0, 0),) * len(inputs[0])).reshape(-1)[:0]
        return nothing.reshape([part.stop - part.start for part in index])
    if not ops:
        return fetch(number, index)
    before = chain_shapes(ops[:-1], inputs)
    return ops[-1].read(number, index, before, lambda source, box: read_chain(ops[:-1], source, box, inputs, fetch))


def chain_shapes(ops: Sequence[Op], inputs: Sequence[Shape]) -> list[Shape]:
    """Shapes that come out of the ops applied one after another."""
    shapes = list(inputs)
    for op in ops:
        shapes = op.shapes(shapes)
    return shapes


def chain_dtype(ops: Sequence[Op], dtype: np.dtype) -> np.dtype:
    """The dtype that comes out of the ops applied one after another."""
    for op in ops:
        dtype = op.dtype(dtype)
    return dtype


def invert(ops: Sequence[Op]) -> tuple[Op, ...]:
    """The chain that undoes `ops`."""
    return tuple(op.inverse for op in reversed(ops))


def _replace(index: Index, axis: int, part: slice) -> Index:
    return (*index[:axis], part, *index[axis + 1 :])


def _resized(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _without(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], *shape[axis + 1 :])


def _runs(box: Index, sizes: Shape) -> list[slice]:
    """The fewest ranges of the flattened axis that make up `box`, in row-major order."""
    (first, *rest), inner = box, prod(sizes[1:])
    if all(part == slice(0, size) for part, size in zip(rest, sizes[1:], strict=True)):
        return [slice(first.start * inner, first.stop * inner)]
    below = _runs(tuple(rest), sizes[1:])
    return [
        slice(row * inner + run.start, row * inner + run.stop)
        for row in range(first.start, first.stop)
        for run in below
    ]


def _boxes(run: slice, sizes: Shape) -> list[Index]:
    """The boxes of the unflattened axes that make up `run` of the flattened one, in row-major order."""
    if len(sizes) == 1:
        return [(run,)]
    inner, rest = prod(sizes[1:]), full_index(sizes[1:])
    low, high = -(-run.start // inner), run.stop // inner
    if low >= high and run.start // inner == (run.stop - 1) // inner:
        row = run.start // inner
        return _row(row, slice(run.start - row * inner, run.stop - row * inner), sizes)
    head = _row(low - 1, slice(run.start - (low - 1) * inner, inner), sizes) if run.start < low * inner else []
    body = [(slice(low, high), *rest)] if low < high else []
    tail = _row(high, slice(0, run.stop - high * inner), sizes) if high * inner < run.stop else []
    return head + body + tail


def _row(row: int, run: slice, sizes: Shape) -> list[Index]:
    return [(slice(row, row + 1), *box) for box in _boxes(run, sizes[1:])]

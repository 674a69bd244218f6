"""Reversible ops beside numpy: random chains of them, their inverses, and any box of what they make."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop.ops import (
    Concat,
    Flatten,
    Grouped,
    Op,
    Pad,
    Retype,
    Split,
    Stack,
    Transpose,
    Unflatten,
    Unstack,
    chain_shapes,
    full_index,
    invert,
    read_chain,
)

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.int8]


def apply(op: Op, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What an op means, in numpy's own words."""
    match op:
        case Transpose(axes):
            return [np.transpose(array, axes) for array in arrays]
        case Concat(axis):
            return [np.concatenate(arrays, axis)]
        case Split(axis, sizes):
            return np.split(arrays[0], list(itertools.accumulate(sizes))[:-1], axis)
        case Unflatten(axis, sizes):
            return [array.reshape(*array.shape[:axis], *sizes, *array.shape[axis + 1 :]) for array in arrays]
        case Flatten(axis, sizes):
            behind = axis + len(sizes)
            flat = math.prod(sizes)
            return [array.reshape(*array.shape[:axis], flat, *array.shape[behind:]) for array in arrays]
        case Stack():
            return [np.stack(arrays)]
        case Pad(axis, _, padding):
            widths = [(0, padding if dimension == axis else 0) for dimension in range(arrays[0].ndim)]
            return [np.pad(array, widths) for array in arrays]
        case Unstack():
            return list(arrays[0])
        case Grouped(count, ops):
            size = len(arrays) // count
            groups = [arrays[start : start + size] for start in range(0, len(arrays), size)]
            for inner in ops:
                groups = [apply(inner, group) for group in groups]
            return [array for group in groups for array in group]
    raise NotImplementedError(op)


@dataclass(frozen=True)
class Chain:
    """Ops and the shapes of the arrays that go into them."""

    shapes: tuple[tuple[int, ...], ...]
    ops: tuple[Op, ...]


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    shape = tuple(draw(st.lists(st.integers(0, 6), min_size=1, max_size=3)))
    shapes = [shape] * draw(st.integers(1, 3))
    if draw(st.booleans()):
        axis = draw(st.integers(0, len(shape) - 1))
        shapes = [(*shape[:axis], draw(st.integers(0, 4)), *shape[axis + 1 :]) for _ in shapes]
    ops: list[Op] = []
    inputs = tuple(shapes)
    for _ in range(draw(st.integers(1, 6))):
        ops.append(draw(st.sampled_from(fitting(draw, shapes))))
        shapes = ops[-1].shapes(shapes)
    return Chain(inputs, tuple(ops))


def fitting(draw: st.DrawFn, shapes: Sequence[tuple[int, ...]]) -> list[Op]:
    """One op of each kind that fits arrays of these shapes."""
    first = shapes[0]
    axes = range(len(first))
    axis = draw(st.sampled_from(axes)) if first else 0
    ops: list[Op] = []
    if len({len(shape) for shape in shapes}) == 1:
        ops.append(Transpose(tuple(draw(st.permutations(axes)))))
    if first and len({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}) == 1:
        ops.append(Concat(axis, tuple(shape[axis] for shape in shapes)))
    if len(shapes) == 1 and first:
        cuts = sorted(draw(st.lists(st.integers(0, first[axis]), max_size=3)))
        ops.append(Split(axis, tuple(stop - start for start, stop in itertools.pairwise([0, *cuts, first[axis]]))))
        if 0 < first[0] < 5:
            ops.append(Unstack(first[0]))
    if first and len(set(shapes)) == 1:
        ops.append(Unflatten(axis, draw(st.sampled_from(factors(first[axis])))))
        stop = draw(st.integers(axis + 1, len(first)))
        ops.append(Flatten(axis, first[axis:stop]))
        ops.append(Pad(axis, first[axis], draw(st.integers(0, 3))))
    if len(set(shapes)) == 1:
        ops.append(Stack(len(shapes)))
        if len(shapes) > 1:
            count = draw(st.sampled_from([number for number in range(2, len(shapes) + 1) if len(shapes) % number == 0]))
            ops.append(Grouped(count, (draw(st.sampled_from(fitting(draw, shapes[: len(shapes) // count]))),)))
    return ops or [Transpose(tuple(axes))]


def factors(size: int) -> list[tuple[int, ...]]:
    """Some ways to write a size as a product."""
    pairs = [(left, size // left) for left in range(1, size + 1) if size % left == 0] or [(0, 3), (2, 0)]
    return [(size,), *pairs, *((left, 1, right) for left, right in pairs)]


def numbered(shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Arrays in which every element is another number."""
    counter = itertools.count(1)
    return [np.array([next(counter) for _ in range(math.prod(shape))], np.int32).reshape(shape) for shape in shapes]


def random_bits(shapes: Sequence[tuple[int, ...]], dtype) -> list[np.ndarray]:
    rng, size = np.random.default_rng(0), np.dtype(dtype).itemsize
    return [rng.integers(0, 256, (math.prod(shape) * size,), np.uint8).view(dtype).reshape(shape) for shape in shapes]


def run(ops: Sequence[Op], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """All outputs, each read whole."""
    shapes = [array.shape for array in arrays]
    return [
        read_chain(ops, number, full_index(shape), shapes, lambda source, box: arrays[source][(*box, ...)])
        for number, shape in enumerate(chain_shapes(ops, shapes))
    ]


def assert_same(left: np.ndarray, right: np.ndarray) -> None:
    assert (left.shape, left.dtype, left.tobytes()) == (right.shape, right.dtype, right.tobytes())


@settings(max_examples=300, deadline=None, derandomize=True)
@given(chains(), st.sampled_from(DTYPES))
def test_a_chain_does_what_numpy_does_and_its_inverse_undoes_it(chain, dtype):
    arrays = random_bits(chain.shapes, dtype)
    expected = arrays
    for op in chain.ops:
        expected = apply(op, expected)
    outputs = run(chain.ops, arrays)
    assert chain_shapes(chain.ops, chain.shapes) == [array.shape for array in expected]
    for left, right in zip(outputs, expected, strict=True):
        assert_same(left, right)
    for left, right in zip(run(invert(chain.ops), outputs), arrays, strict=True):
        assert_same(left, right)
    assert invert(invert(chain.ops)) == chain.ops


@settings(max_examples=300, deadline=None, derandomize=True)
@given(chains(), st.data())
def test_any_box_is_read_from_just_the_elements_that_are_in_it(chain, data):
    arrays = numbered(chain.shapes)
    outputs = run(chain.ops, arrays)
    number = data.draw(st.integers(0, len(outputs) - 1))
    ends = [sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in outputs[number].shape]
    box = tuple(slice(*pair) for pair in ends)
    fetched = []

    def fetch(source, index):
        assert len(index) == arrays[source].ndim
        assert all(part.step is None and 0 <= part.start <= part.stop for part in index)
        found = arrays[source][(*index, ...)]
        assert found.shape == tuple(part.stop - part.start for part in index)
        fetched.extend(found.ravel().tolist())
        return found

    found = read_chain(chain.ops, number, box, chain.shapes, fetch)
    assert_same(found, outputs[number][(*box, ...)])
    assert sorted(fetched) == sorted(value for value in found.ravel().tolist() if value)  # 0 is padding


def test_chains_run_on_arrays_of_the_device():
    ops = (Concat(0, (2, 4)), Transpose((1, 0)), Unflatten(1, (2, 3)), Split(1, (1, 1)))
    arrays = [jnp.arange(8.0).reshape(2, 4), jnp.arange(16.0).reshape(4, 4)]
    host = run(ops, [np.asarray(array) for array in arrays])
    for left, right in zip(run(ops, arrays), host, strict=True):
        assert isinstance(left, type(arrays[0]))
        assert_same(np.asarray(left), right)


@pytest.mark.parametrize("op", [Transpose((1, 0)), Split(0, (1, 1)), Unflatten(0, (2, 1)), Flatten(0, (2, 3))])
def test_one_input_is_read_as_a_view(op):
    array = np.arange(6).reshape(2, 3)
    assert all(np.shares_memory(output, array) for output in run([op], [array]))


@pytest.mark.parametrize(
    ("op", "shapes", "listed"),
    [
        (Transpose((1, 0)), [(2, 3, 4)], "(2, 3, 4)"),
        (Concat(0, (2, 3)), [(2, 3), (2, 3)], "(2, 3), (2, 3)"),
        (Concat(0, (2, 2)), [(2, 3), (2, 4)], "(2, 3), (2, 4)"),
        (Split(1, (2, 2)), [(2, 3)], "(2, 3)"),
        (Split(0, (1,)), [], "none"),
        (Unflatten(0, (2, 2)), [(4,), (5,)], "(4,), (5,)"),
        (Flatten(0, (2, 3)), [(2, 4)], "(2, 4)"),
        (Stack(2), [(2,)], "(2,)"),
        (Stack(2), [(2,), (3,)], "(2,), (3,)"),
        (Unstack(2), [(3, 2)], "(3, 2)"),
        (Grouped(2, (Stack(1),)), [(2,), (2,), (2,)], "(2,), (2,), (2,)"),
    ],
)
def test_shapes_that_do_not_fit(op, shapes, listed):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        op.shapes(shapes)
    assert str(error.value) == f"{op} does not fit tensors of shape {listed}"


def test_counters_of_other_widths():
    op = Retype("int64", "int32")
    assert (op.inverse, op.dtype(np.dtype("int64"))) == (Retype("int32", "int64"), np.dtype("int32"))
    count = np.array([3, 2**31 - 1])
    narrow = op.read(0, full_index((2,)), [(2,)], lambda number, index: count[index])
    assert narrow.dtype == np.int32
    wide = op.inverse.read(0, full_index((2,)), [(2,)], lambda number, index: narrow[index])
    assert wide.tobytes() == count.tobytes()
    with pytest.raises(ValueError, match=r"^int64 2147483648 does not fit into int32$"):
        op.read(0, full_index((1,)), [(1,)], lambda number, index: np.array([2**31]))

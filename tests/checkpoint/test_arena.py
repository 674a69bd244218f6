"""The arrays that parameters are read into."""

import ml_dtypes
import numpy as np
import pytest

from flaxmodels.checkpoint.arena import Arena

DTYPES = ["float32", "float16", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]


@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("shape", [(), (7,), (1, 5), (5, 1), (1030, 259), (2, 3, 5), (0, 4)])
def test_hold_casts_and_transposes(shape, source, target):
    values = np.random.default_rng(0).standard_normal(shape).astype(source)
    held = Arena().hold(values.T, np.dtype(target))
    expected = values.T.astype(target)
    assert held.dtype == expected.dtype
    assert held.flags.c_contiguous
    assert held.tobytes() == expected.tobytes()


def test_large_matrices_of_one_dtype_are_transposed_bit_by_bit():
    values = np.random.default_rng(0).integers(0, 2**32, (1100, 1300), np.uint32).view(np.float32)
    held = Arena().hold(values.T, np.dtype(np.float32))
    assert held.tobytes() == np.ascontiguousarray(values.T.view(np.uint32)).tobytes()


def test_an_array_that_is_ready_is_not_copied_unless_asked():
    arena = Arena()
    values = arena.hold(np.arange(6.0, dtype=np.float32)[::2], np.dtype(np.float32))
    assert arena.hold(values, values.dtype) is values
    assert not np.shares_memory(arena.hold(values, values.dtype, copy=True), values)


def test_arrays_are_aligned_and_apart():
    arena = Arena()
    sizes = (1, 63, 65, 70 << 20)
    held = [
        arena.hold(np.full(size, number, np.int8), np.dtype(np.int8), copy=True) for number, size in enumerate(sizes)
    ]
    assert all(array.ctypes.data % 64 == 0 for array in held)
    assert [np.unique(array).tolist() for array in held] == [[0], [1], [2], [3]]

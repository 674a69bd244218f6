"""Arrays between files and devices, without a second copy."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import BinaryIO

import numpy as np

from flaxmodels.errors import CheckpointError
from flaxmodels.files.reading import FileBytes, drop_pages
from interop.errors import listed, shown
from interop.source import Header, Index

MAX_NDIM = 32
"""As many as HDF5 and numpy 1 allow; checkpoints need five."""
_TILE = (1024, 256)
_CACHED = 4 << 20
"""Bytes: numpy transposes smaller matrices as fast without tiles."""
_PART = 8 << 20
"""Bytes of a copy."""
_WRITTEN = 1 << 20
"""Bytes: Linux takes 8 MB at once at a fifth of the speed at which it takes them one by one."""
_WORKERS = 2


def addressable(shape: Sequence[int], dtype: np.dtype) -> bool:
    """Whether numpy can hold such an array; a file may claim any numbers it likes."""
    if len(shape) > MAX_NDIM or min(shape, default=0) < 0:
        return False
    return math.prod(size for size in shape if size) * dtype.itemsize < 2**63


def read_box(data: FileBytes, start: int, header: Header, index: Index | None = None) -> np.ndarray:
    """The box of the array that `header` describes, whose bytes begin at `start`; all of it for None.

    A view, of a scalar too, if the bytes are mapped. Otherwise the rows that the box touches are copied.
    """
    shape, inner = header.shape, index
    if index and not isinstance(data, np.ndarray):
        first, stop, _ = index[0].indices(shape[0])
        shape, inner = (max(stop - first, 0), *shape[1:]), (slice(None), *index[1:])
        start += first * Header(header.shape[1:], header.dtype).nbytes
    held = data[start : start + Header(shape, header.dtype).nbytes].view(header.dtype).reshape(shape)
    return box(held, inner)


def box(array: np.ndarray, index: Index | None) -> np.ndarray:
    """The part of the array that `index` names, all of it for None. Always a view, of a scalar too."""
    return array if index is None else array[(*index, ...)]


def copy_into(held: np.ndarray, view: np.ndarray) -> None:
    """Cast `view` into `held`, which is in C order and of the same shape; what overflows becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        runs_down = view.ndim > 1 and view.strides[-2] == view.itemsize and view.strides[-1] > view.itemsize
        if runs_down and view.ndim > 2 and view[0].nbytes > _CACHED:
            for parts in zip(held, view, strict=True):
                copy_into(*parts)
        elif runs_down and view.ndim == 2 and (view.dtype != held.dtype or view.nbytes > _CACHED):
            _transpose(view.T, held)
        else:
            np.copyto(held, view, casting="unsafe")


def _transpose(rows: np.ndarray, transposed: np.ndarray) -> None:
    """Cast [rows, columns] into [columns, rows], in tiles that the processor's cache holds.

    Each tile is first cast in the order of the source: a strided cast is several times slower, and rows a power of
    two apart evict each other from the cache. Elements that will be neighbours are put together there, so that the
    transposition itself, which takes a step for each element, moves 8 bytes a step.
    """
    count = 8 // transposed.itemsize
    even = len(rows) - len(rows) % count
    if transposed.strides[0] % 8 or transposed.ctypes.data % 8:
        even = 0
    np.copyto(transposed[:, even:], rows[even:].T, casting="unsafe")
    scratch = np.empty((_TILE[0] // count, _TILE[1], count), transposed.dtype)
    wide = transposed[:, :even].view(np.uint64)
    for top in range(0, even, _TILE[0]):
        for left in range(0, rows.shape[1], _TILE[1]):
            part = rows[top : min(top + _TILE[0], even), left : left + _TILE[1]]
            tile = scratch[: len(part) // count, : part.shape[1]]
            for number in range(count):
                np.copyto(tile[:, :, number], part[number::count], casting="unsafe")
            wide[left : left + _TILE[1], top // count : (top + len(part)) // count] = tile.view(np.uint64)[:, :, 0].T


def in_parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """The array in runs of rows in C order: all of it where it is so already, else copies of a bounded size.

    A few copies are made ahead, by threads.
    """
    rows = array.reshape(1, *array.shape) if array.ndim < 2 else array
    step = max(1, _PART // max(rows[:1].nbytes, 1))
    parts = (rows[start : start + step] for start in range(0, len(rows), step))
    if array.flags.c_contiguous:
        yield rows
    elif array.nbytes <= _PART:
        yield contiguous(rows)
    else:
        with ThreadPoolExecutor(_WORKERS) as pool:
            ahead = deque(pool.submit(contiguous, part) for part in islice(parts, _WORKERS))
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(pool.submit(contiguous, part) for part in islice(parts, 1))


def contiguous(array: np.ndarray, dtype: np.dtype | None = None) -> np.ndarray:
    """The array cast to `dtype`, by default its own, in C order: itself where it already is so, else a copy."""
    dtype = array.dtype if dtype is None else dtype
    if array.flags.c_contiguous and array.dtype == dtype:
        return array
    held = np.empty(array.shape, dtype)
    copy_into(held, array)
    return held


def write_array(file: BinaryIO, array: np.ndarray) -> None:
    """Appends the bytes of the array in C order. What is mapped of a file leaves the memory again."""
    for part in in_parts(array):
        data = part.reshape(-1).view(np.uint8).data
        for start in range(0, len(data), _WRITTEN):
            file.write(data[start : start + _WRITTEN])
    drop_pages(array)


def checked(name: str, array: np.ndarray, header: Header) -> np.ndarray:
    """The array itself, which is what the header of its file has already promised.

    Raises:
        CheckpointError: it is not.
    """
    if array.shape == header.shape and array.dtype == header.dtype:
        return array
    found, promised = f"{array.dtype} {array.shape}", f"{header.dtype} {header.shape}"
    raise CheckpointError(f"{shown(name)}: the array is {found}, its header says {promised}. Cast or reshape it.")


def check_dtypes(headers: Mapping[str, Header], known: Mapping[str, np.dtype]) -> None:
    """Refuse tensors whose dtype is not among those that a format has names for.

    Raises:
        CheckpointError: naming the tensors, and the dtypes that there are.
    """
    dtypes = dict.fromkeys(known.values())
    unknown = [f"{name} is {header.dtype}" for name, header in headers.items() if header.dtype not in dtypes]
    if unknown:
        names = ", ".join(map(str, dtypes))
        raise CheckpointError(f"The format has no such dtype: {listed(unknown)}. Cast to one of {names}.")

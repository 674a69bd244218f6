"""Arrays between files and devices, without a second copy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import jax
import numpy as np

from flaxmodels.errors import CheckpointError
from flaxmodels.files.reading import forget
from interop.source import Header, Index

_MAX_NDIM = 32


def addressable(shape: Sequence[int], dtype: np.dtype) -> bool:
    """Whether numpy can hold such an array; a file may claim any numbers it likes."""
    if len(shape) > _MAX_NDIM or min(shape, default=0) < 0:
        return False
    return math.prod(size for size in shape if size) * dtype.itemsize < 2**63


def view(data: np.ndarray, start: int, header: Header) -> np.ndarray:
    """The array that `header` describes, as a view of the bytes of `data` from `start` on."""
    return data[start : start + header.nbytes].view(header.dtype).reshape(header.shape)


def box(array: np.ndarray, index: Index | None) -> np.ndarray:
    """The part of the array that `index` names, all of it for None. Always a view, of a scalar too."""
    return array if index is None else array[(*index, ...)]


def contiguous(array: np.ndarray) -> np.ndarray:
    """The array in C order: itself where it already is, else a copy.

    XLA transposes about five times faster than numpy, but narrows 8-byte types by default.
    """
    if array.flags.c_contiguous:
        return array
    if array.dtype.itemsize > 4:
        return np.ascontiguousarray(array)
    try:
        return np.asarray(jax.device_put(array, jax.local_devices(backend="cpu")[0]))
    except RuntimeError:  # JAX_PLATFORMS may leave the CPU out
        return np.ascontiguousarray(array)


def write_array(file: BinaryIO, array: np.ndarray) -> None:
    """Appends the bytes of the array in C order. What is mapped of a file leaves the memory again."""
    file.write(contiguous(array).reshape(-1).view(np.uint8).data)
    forget(array)


def checked(name: str, array: np.ndarray, header: Header) -> np.ndarray:
    """The array itself, refused if it is not what the header of its file has already promised."""
    if array.shape == header.shape and array.dtype == header.dtype:
        return array
    found, promised = f"{array.dtype} {array.shape}", f"{header.dtype} {header.shape}"
    raise CheckpointError(f"{name}: the array is {found}, its header says {promised}. Cast or reshape it.")


def check_dtypes(headers: Mapping[str, Header], known: Mapping[str, np.dtype]) -> None:
    """Refuses tensors whose dtype is not among those that a format has names for."""
    dtypes = dict.fromkeys(known.values())
    unknown = [f"{name} is {header.dtype}" for name, header in headers.items() if header.dtype not in dtypes]
    if unknown:
        names = ", ".join(map(str, dtypes))
        raise CheckpointError(f"The format has no such dtype: {', '.join(unknown)}. Cast to one of {names}.")

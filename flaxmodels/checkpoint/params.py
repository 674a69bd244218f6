"""Parameters as a source of tensors, wherever their parts are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from flaxmodels.checkpoint.hosts import gather
from interop.ops import full_index
from interop.source import Header, Index


class ParamsSource:
    """A `Source` over arrays of numpy or jax by "/"-joined path; read into the memory of the host.

    `before_gather` is called before an array that processes share is gathered from them.
    """

    def __init__(self, values: Mapping[str, Any], before_gather: Callable[[], object] = lambda: None):
        self.values = values
        self.before_gather = before_gather
        self.headers = {name: Header(tuple(value.shape), np.dtype(value.dtype)) for name, value in values.items()}

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """The array or a box of it. Every process must read in the same order where processes share an array."""
        return _on_host(self.values[name], index, self.before_gather)


class DeviceSource(ParamsSource):
    """The same, read as jax arrays that stay where they are."""

    def read(self, name: str, index: Index | None = None) -> Any:
        value = self.values[name]
        return value if index in (None, full_index(value.shape)) else value[(*index, ...)]


def _on_host(array: Any, index: Index | None, before_gather: Callable[[], object]) -> np.ndarray:
    """A box of an array. What lies on several devices is put together from their parts: `numpy.asarray` would keep
    the whole on the host for as long as the array lives."""
    box = full_index(array.shape) if index is None else index
    if not isinstance(array, jax.Array) or len(array.sharding.device_set) == 1:
        return np.asarray(array)[(*box, ...)]
    if array.is_fully_replicated:
        return np.asarray(array.addressable_data(0))[(*box, ...)]
    if not array.is_fully_addressable:
        before_gather()
        return gather(array, box)
    joined = np.empty([part.stop - part.start for part in box], array.dtype)
    for shard in array.addressable_shards:
        overlap = [_overlap(part, held, size) for part, held, size in zip(box, shard.index, array.shape, strict=True)]
        if shard.replica_id == 0 and all(low < high for low, high, _ in overlap):
            into = tuple(
                slice(low - part.start, high - part.start) for part, (low, high, _) in zip(box, overlap, strict=True)
            )
            out_of = tuple(slice(low - start, high - start) for low, high, start in overlap)
            joined[into] = np.asarray(shard.data)[out_of]
    return joined


def _overlap(wanted: slice, held: slice, size: int) -> tuple[int, int, int]:
    """First and last of what is both wanted and held, and the first of what is held."""
    start, stop, _ = held.indices(size)
    return max(wanted.start, start), min(wanted.stop, stop), start

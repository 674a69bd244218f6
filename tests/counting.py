"""Counting the bytes that are read from checkpoints, and those that devices hold."""

from __future__ import annotations

from typing import Any

import jax

from flaxmodels.files import weights


class Counting:
    """A source that counts the bytes read from it."""

    def __init__(self, source: Any):
        self.source, self.headers, self.bytes = source, source.headers, 0

    def read(self, name, index=None):
        array = self.source.read(name, index)
        self.bytes += array.nbytes
        return array


def counting(counters: list[Counting]):
    """An `open_weights` that adds what counts each checkpoint it opens."""
    open_weights = weights.open_weights

    def counted(*args, **kwargs):
        found = open_weights(*args, **kwargs)
        counters.append(Counting(found.source))
        return weights.Weights(found.path, counters[-1], found.layout)

    return counted


def held(params: Any) -> int:
    """Bytes of the distinct parts of the parameters on the devices of this process."""
    parts = {
        (jax.tree_util.keystr(path), str(shard.index)): shard.data.nbytes
        for path, array in jax.tree_util.tree_flatten_with_path(params)[0]
        for shard in array.addressable_shards
    }
    return sum(parts.values())

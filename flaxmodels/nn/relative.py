"""Distances between tokens in buckets: near ones exactly, far ones by their logarithm (arXiv 1910.10683)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np


def relative_buckets(
    relative_positions: jax.Array, *, bidirectional: bool, buckets: int, max_distance: int
) -> jax.Array:
    """The bucket of each relative position, int32 of the same shape.

    Args:
        relative_positions: position of the key minus position of the query, int of any shape.
        bidirectional: half of the buckets are for keys after the query; else these share the bucket of distance 0.
        buckets: how many there are. Half of those for one direction hold one distance each.
        max_distance: from which on all distances share the last bucket.
    """
    buckets = buckets // 2 if bidirectional else buckets
    exact = buckets // 2
    # Models are trained with float32 logarithms, whose rounding decides at powers of two; XLA's round otherwise.
    distances = np.arange(max_distance + 1)
    logarithms = np.log(np.maximum(distances, 1).astype(np.float32) / np.float32(exact))
    scaled = logarithms / np.float32(math.log(max_distance / exact)) * np.float32(buckets - exact)
    far = np.minimum(exact + scaled.astype(np.int32), buckets - 1)
    table = jnp.asarray(np.where(distances < exact, distances, far), jnp.int32)
    reached = jnp.abs(relative_positions) if bidirectional else jnp.maximum(-relative_positions, 0)
    found = table[jnp.minimum(reached, max_distance)]
    return found + buckets * (relative_positions > 0) if bidirectional else found

"""Relative positions in buckets (arXiv 1910.10683): near ones apart, far ones together on a logarithmic scale."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np


def relative_buckets(
    relative_positions: jax.Array, *, bidirectional: bool, buckets: int, max_distance: int
) -> jax.Array:
    """The bucket of each relative position, a key's place less its query's: int32 of the same shape.

    Args:
        relative_positions: integers of any shape.
        bidirectional: whether keys behind their query have the upper half of the buckets; else all share bucket 0.
        buckets: how many there are.
        max_distance: from which on all are in the last one.
    """
    half = buckets // 2 if bidirectional else buckets
    distance = jnp.abs(relative_positions) if bidirectional else jnp.maximum(-relative_positions, 0)
    found = jnp.take(jnp.asarray(_buckets_of_distances(half, max_distance)), jnp.minimum(distance, max_distance))
    return found + half * (relative_positions > 0) if bidirectional else found


def _buckets_of_distances(buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each distance up to `max_distance`: int32 `[max_distance + 1]`."""
    # numpy's float32 logarithm is torch's, XLA's is an ulp off, which at a bucket's edge is another bucket.
    exact, distances = buckets // 2, np.arange(max_distance + 1)
    ratios = np.maximum(distances, exact).astype(np.float32) / np.float32(exact)
    share = np.log(ratios) / np.float32(math.log(max_distance / exact)) * np.float32(buckets - exact)
    far = np.minimum(exact + share.astype(np.int32), buckets - 1)
    return np.where(distances < exact, distances, far).astype(np.int32)

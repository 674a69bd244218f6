"""Additive attention masks and head masks, as the utilities of transformers make them.

The models here take masks of ones and zeros and need none of these: they are for modules of a user's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.errors import FlaxModelsError


def inverted(mask: jax.Array, dtype: Any) -> jax.Array:
    """0 where `mask` is 1, and the least finite number of `dtype` where it is 0, in `dtype`."""
    return (1.0 - mask.astype(dtype)) * jnp.finfo(dtype).min


def over_heads(mask: jax.Array, what: str) -> jax.Array:
    """`[batch, kv_len]` or `[batch, q_len, kv_len]` with axes for heads, and for queries if they share a row.

    Raises:
        FlaxModelsError: a mask of other axes; `what` is its name.
    """
    if mask.ndim == 3:
        return mask[:, None]
    if mask.ndim == 2:
        return mask[:, None, None]
    raise FlaxModelsError(
        f"{what}: expected a mask [batch, length] or [batch, q_len, kv_len], got one of shape {mask.shape}"
    )


def causal(input_shape: Sequence[int], mask: jax.Array) -> jax.Array:
    """`mask` `[batch, kv_len]` for each of the last queries, which do not see what comes after them.

    Args:
        input_shape: batch and number of queries; keys before these are seen by all.
        mask: ones and zeros.

    Returns:
        `[batch, 1, q_len, kv_len]` in the dtype of `mask`.
    """
    q_len, kv_len = input_shape[1], mask.shape[1]
    queries, keys = jnp.arange(q_len) + max(kv_len - q_len, 0), jnp.arange(max(kv_len, q_len))
    seen = (keys[None] <= queries[:, None]).astype(mask.dtype)
    return seen[None, None] * mask[:, None, None]


def head_masks(mask: jax.Array, layers: int, dtype: Any) -> jax.Array:
    """`[heads]` or `[layers, heads]` as `[layers, 1, heads, 1, 1]` in `dtype`.

    Raises:
        FlaxModelsError: a mask of other axes.
    """
    if mask.ndim == 1:
        mask = jnp.broadcast_to(mask[None], (layers, *mask.shape))
    if mask.ndim != 2:
        raise FlaxModelsError(f"head_mask: expected [heads] or [layers, heads], got {mask.shape}")
    return mask.astype(dtype)[:, None, :, None, None]

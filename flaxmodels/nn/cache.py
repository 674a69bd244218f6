"""Key-value caches as explicit pytrees: preallocated, written in place under `jax.jit`."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer, each `[batch, max_length, kv_heads, head_dim]`; the first `length` are filled."""

    key: jax.Array
    value: jax.Array
    length: jax.Array

    def append(self, key: jax.Array, value: jax.Array) -> LayerCache:
        """The cache with `key` and `value` `[batch, q_len, kv_heads, head_dim]` written behind the filled part."""
        start = (0, self.length, 0, 0)
        return LayerCache(
            jax.lax.dynamic_update_slice(self.key, key.astype(self.key.dtype), start),
            jax.lax.dynamic_update_slice(self.value, value.astype(self.value.dtype), start),
            self.length + key.shape[1],
        )


Cache = tuple[LayerCache, ...]
"""One `LayerCache` a layer."""


def empty_cache(layers: int, batch: int, max_length: int, kv_heads: int, head_dim: int, dtype: jnp.dtype) -> Cache:
    """A cache with room for `max_length` tokens and none in it."""
    shape = (batch, max_length, kv_heads, head_dim)
    return tuple(
        LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros((), jnp.int32)) for _ in range(layers)
    )

"""Key-value caches as explicit pytrees: preallocated, written in place under `jax.jit`.

A cache knows how many tokens it holds, the same number for each row; a smaller `length` forgets the last of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import jax
import jax.numpy as jnp

SLACK = 64
"""Tokens that a `RingCache` holds beyond its window, so that as many can be forgotten."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer, each `[batch, slots, kv_heads, head_dim]`; slot i holds token i.

    Attributes:
        length: int32, how many tokens are there.
        expected: int32, how many of the tokens that come next count if not all: those behind them are padding.
    """

    key: jax.Array
    value: jax.Array
    length: jax.Array
    expected: jax.Array | None = None

    def extend(self, key: jax.Array, value: jax.Array) -> tuple[Self, jax.Array, jax.Array]:
        """Take in keys and values `[batch, q_len, kv_heads, head_dim]`.

        Returns:
            The cache, and the keys and values that these tokens may look at, whose places `key_positions` gives.
        """
        start = (0, self.length, 0, 0)
        keys = jax.lax.dynamic_update_slice(self.key, key.astype(self.key.dtype), start)
        values = jax.lax.dynamic_update_slice(self.value, value.astype(self.value.dtype), start)
        return self._with(keys, values, key.shape[1]), keys.astype(key.dtype), values.astype(value.dtype)

    def key_positions(self, q_len: int) -> jax.Array:
        """int32 `[kv_len]`: which tokens the keys belong to that `extend` returns for `q_len`; negative for none."""
        return jnp.arange(self.key.shape[1])

    def resized(self, slots: int) -> Self:
        """With room for `slots` tokens, if that is more than there is."""
        more = ((0, 0), (0, max(0, slots - self.key.shape[1])), (0, 0), (0, 0))
        return replace(self, key=jnp.pad(self.key, more), value=jnp.pad(self.value, more))

    def _with(self, keys: jax.Array, values: jax.Array, q_len: int) -> Self:
        length = self.length + (q_len if self.expected is None else self.expected)
        return replace(self, key=keys, value=values, length=length, expected=None)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RingCache(LayerCache):
    """The last tokens only, for attention that looks back over a window: slot i holds token i modulo the slots."""

    def extend(self, key: jax.Array, value: jax.Array) -> tuple[Self, jax.Array, jax.Array]:
        q_len, slots = key.shape[1], self.key.shape[1]
        count = q_len if self.expected is None else self.expected
        new = jnp.arange(q_len)
        kept = (new < count) & (new >= count - slots)
        places = jnp.where(kept, (self.length + new) % slots, slots)
        keys, values = (
            held.at[:, places].set(added.astype(held.dtype), mode="drop")
            for held, added in ((self.key, key), (self.value, value))
        )
        cache = self._with(keys, values, q_len)
        if q_len == 1:
            return cache, keys.astype(key.dtype), values.astype(value.dtype)
        # Early tokens of a long text look at what late ones push out.
        before = (self.key.astype(key.dtype), self.value.astype(value.dtype))
        return cache, jnp.concatenate([before[0], key], 1), jnp.concatenate([before[1], value], 1)

    def key_positions(self, q_len: int) -> jax.Array:
        slots = jnp.arange(self.key.shape[1])
        last = self.length - (q_len != 1)
        held = last - (last - slots) % self.key.shape[1]
        return held if q_len == 1 else jnp.concatenate([held, self.length + jnp.arange(q_len)])

    def resized(self, slots: int) -> Self:
        return self


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossCache:
    """Keys and values of an encoder's output, `[batch, kv_len, kv_heads, head_dim]`, computed once."""

    key: jax.Array
    value: jax.Array


Cache = tuple[Any, ...]
"""One cache a layer: a `LayerCache`, or a pair of it and a `CrossCache`."""


def empty_cache(
    batch: int, slots: int, kv_heads: int, head_dim: int, dtype: jnp.dtype, window: int | None = None
) -> LayerCache:
    """The cache of one layer with room for `slots` tokens, or for as many as a `window` needs."""
    ring = window is not None and window + SLACK < slots
    shape = (batch, window + SLACK if window is not None and ring else slots, kv_heads, head_dim)
    kind = RingCache if ring else LayerCache
    return kind(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros((), jnp.int32))


def _each(cache: Cache, change: Any) -> Cache:
    """The cache with its `LayerCache`s changed."""
    return jax.tree.map(
        lambda part: change(part) if isinstance(part, LayerCache) else part,
        cache,
        is_leaf=lambda part: isinstance(part, LayerCache),
    )


def self_attention_cache(cache: Cache) -> LayerCache:
    """The first `LayerCache`, which knows the length."""
    first = cache[0]
    return first if isinstance(first, LayerCache) else first[0]


def has_ring(cache: Cache) -> bool:
    """Whether a layer forgets what its window has left behind."""
    return any(isinstance(self_attention_cache((layer,)), RingCache) for layer in cache)


def expecting(cache: Cache, count: jax.Array) -> Cache:
    """The cache whose next tokens count if they are among the first `count`."""
    return _each(cache, lambda layer: replace(layer, expected=count))


def rewound(cache: Cache, length: jax.Array) -> Cache:
    """The cache as it was with `length` tokens. A ring goes back by `SLACK` at most."""
    return _each(cache, lambda layer: replace(layer, length=length))


def resized(cache: Cache, slots: int) -> Cache:
    """The cache with room for `slots` tokens, if that is more than there is."""
    return _each(cache, lambda layer: layer.resized(slots))


def take_rows(cache: Cache, rows: jax.Array) -> Cache:
    """The cache of other rows, given by number, int32 `[new_batch]`."""
    return jax.tree.map(lambda array: jnp.take(array, rows, axis=0) if array.ndim else array, cache)

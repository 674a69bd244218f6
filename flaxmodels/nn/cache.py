"""Caches of decoders as explicit pytrees: preallocated, written in place under `jax.jit`.

A cache knows how many tokens its layer has read, the same number for each row; a smaller `length` forgets the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

SLACK = 64
"""Tokens that a `RingCache` holds beyond its window, so that as many can be forgotten."""


@dataclass(frozen=True, kw_only=True)
class LayerCache:
    """What a layer keeps of the tokens that it has read. Each kind of mixer may have its own, a pytree of arrays with a
    leading batch axis.

    Attributes:
        length: int32, how many tokens were read.
        expected: int32, how many of the tokens that come next count if not all: those after them are padding.
        max_rewind: how many of the last tokens can be forgotten.
    """

    length: jax.Array
    expected: jax.Array | None = None
    max_rewind: ClassVar[float] = 0

    @property
    def batch_size(self) -> int:
        """How many rows it is for."""
        return next(array.shape[0] for array in jax.tree.leaves(self) if array.ndim)

    @property
    def cache_len(self) -> float:
        """The most tokens that it can hold."""
        return math.inf

    def key_positions(self, q_len: int) -> jax.Array:
        """int32 `[kv_len]`: the positions of the tokens that `q_len` new ones may attend to; negative for none."""
        return self.length + jnp.arange(q_len)

    def resized(self, cache_len: int) -> Self:
        """The cache for `cache_len` tokens, if these are more."""
        return self

    def advanced(self, q_len: int, **arrays: Any) -> Self:
        """After `q_len` more tokens, of which `expected` count, with `arrays` in place of its own."""
        length = self.length + (q_len if self.expected is None else self.expected)
        return replace(self, **arrays, length=length, expected=None)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KeyValueCache(LayerCache):
    """Keys and values, each `[batch, cache_len, kv_heads, head_dim]`; entry i is of token i."""

    key: jax.Array
    value: jax.Array
    max_rewind: ClassVar[float] = math.inf

    @property
    def cache_len(self) -> float:
        return self.key.shape[1]

    def extend(self, key: jax.Array, value: jax.Array) -> tuple[Self, jax.Array, jax.Array]:
        """Add keys and values `[batch, q_len, kv_heads, head_dim]`.

        Returns:
            The cache, and the keys and values that these tokens may attend to, whose positions `key_positions` gives.
        """
        start = (0, self.length, 0, 0)
        keys = jax.lax.dynamic_update_slice(self.key, key.astype(self.key.dtype), start)
        values = jax.lax.dynamic_update_slice(self.value, value.astype(self.value.dtype), start)
        cache = self.advanced(key.shape[1], key=keys, value=values)
        return cache, keys.astype(key.dtype), values.astype(value.dtype)

    def key_positions(self, q_len: int) -> jax.Array:
        return jnp.arange(self.key.shape[1])

    def resized(self, cache_len: int) -> Self:
        more = ((0, 0), (0, max(0, cache_len - self.key.shape[1])), (0, 0), (0, 0))
        return replace(self, key=jnp.pad(self.key, more), value=jnp.pad(self.value, more))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RingCache(KeyValueCache):
    """The last tokens only, for attention over a sliding window: entry i is of token i modulo its length."""

    max_rewind: ClassVar[float] = SLACK

    @property
    def cache_len(self) -> float:
        return math.inf

    def extend(self, key: jax.Array, value: jax.Array) -> tuple[Self, jax.Array, jax.Array]:
        q_len, ring_len = key.shape[1], self.key.shape[1]
        count = q_len if self.expected is None else self.expected
        new = jnp.arange(q_len)
        kept = (new < count) & (new >= count - ring_len)
        entries = jnp.where(kept, (self.length + new) % ring_len, ring_len)
        keys, values = (
            held.at[:, entries].set(added.astype(held.dtype), mode="drop")
            for held, added in ((self.key, key), (self.value, value))
        )
        cache = self.advanced(q_len, key=keys, value=values)
        if q_len == 1:
            return cache, keys.astype(key.dtype), values.astype(value.dtype)
        # Early tokens of a long sequence attend to what late ones overwrite.
        held_keys, held_values = self.key.astype(key.dtype), self.value.astype(value.dtype)
        return cache, jnp.concatenate([held_keys, key], 1), jnp.concatenate([held_values, value], 1)

    def key_positions(self, q_len: int) -> jax.Array:
        entries = jnp.arange(self.key.shape[1])
        last = self.length - (q_len != 1)
        held = last - (last - entries) % self.key.shape[1]
        return held if q_len == 1 else jnp.concatenate([held, self.length + jnp.arange(q_len)])

    def resized(self, cache_len: int) -> Self:
        return self


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossCache:
    """Keys and values of an encoder's output, `[batch, kv_len, kv_heads, head_dim]`, computed once."""

    key: jax.Array
    value: jax.Array


Cache = tuple[Any, ...]
"""One cache a layer: a `LayerCache`, several of them, or a pair of one and a `CrossCache`."""


def empty_cache(
    batch: int, cache_len: int, kv_heads: int, head_dim: int, dtype: jnp.dtype, window: int | None = None
) -> KeyValueCache:
    """The empty cache of one layer for `cache_len` tokens, or for as many as a `window` needs."""
    ring = window is not None and window + SLACK < cache_len
    shape = (batch, window + SLACK if window is not None and ring else cache_len, kv_heads, head_dim)
    kind = RingCache if ring else KeyValueCache
    return kind(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), length=jnp.zeros((), jnp.int32))


def _is_layer_cache(part: Any) -> bool:
    return isinstance(part, LayerCache)


def _each(cache: Cache, change: Any) -> Cache:
    """The cache with its `LayerCache`s changed."""
    return jax.tree.map(lambda part: change(part) if _is_layer_cache(part) else part, cache, is_leaf=_is_layer_cache)


def self_attention_cache(cache: Cache) -> Any:
    """Of the first layer the keys and values, or what it has in their place: a `LayerCache`, which knows the length."""
    first = cache[0] if isinstance(cache[0], tuple) else cache[:1]
    return next((part for part in first if isinstance(part, KeyValueCache)), first[0])


def max_rewind(cache: Cache) -> float:
    """How many of the last tokens all layers can forget."""
    layers = filter(_is_layer_cache, jax.tree.leaves(cache, is_leaf=_is_layer_cache))
    return min(layer.max_rewind for layer in layers)


def expecting(cache: Cache, count: jax.Array) -> Cache:
    """The cache whose next tokens count if they are among the first `count`, an int32 scalar."""
    return _each(cache, lambda layer: replace(layer, expected=count))


def rewound(cache: Cache, length: jax.Array) -> Cache:
    """The cache as it was with `length` tokens, an int32 scalar, at most `max_rewind` fewer than it has."""
    return _each(cache, lambda layer: replace(layer, length=length))


def resized(cache: Cache, cache_len: int) -> Cache:
    """The cache for `cache_len` tokens, if these are more than it can hold."""
    return _each(cache, lambda layer: layer.resized(cache_len))


def take_rows(cache: Cache, rows: jax.Array) -> Cache:
    """The cache of other rows, given by number, int32 `[new_batch]`."""
    return jax.tree.map(lambda array: jnp.take(array, rows, axis=0) if array.ndim else array, cache)

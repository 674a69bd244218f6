"""Scaled dot-product attention (arXiv 1706.03762), grouped heads included (arXiv 2305.13245)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.nn.cache import CrossCache
from flaxmodels.nn.dropout import dropout
from flaxmodels.nn.flash import flash_attention

MAX_QUERIES_OF_EINSUM = 256


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """`[batch, len, heads * head_dim]` to `[batch, len, heads, head_dim]`."""
    return x.reshape(*x.shape[:-1], heads, -1)


def merge_heads(x: jax.Array) -> jax.Array:
    """`[batch, len, heads, head_dim]` to `[batch, len, heads * head_dim]`."""
    return x.reshape(*x.shape[:-2], -1)


def dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    *,
    bias: jax.Array | None = None,
    sinks: jax.Array | None = None,
    implementation: str = "sdpa",
    return_weights: bool = False,
    dropout_rate: float = 0.0,
    dropout_rng: jax.Array | None = None,
    head_mask: jax.Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> tuple[jax.Array, jax.Array | None]:
    """Softmax of `query . key * scale + bias` over the keys, applied to the values.

    Args:
        query: `[batch, q_len, heads, head_dim]`.
        key, value: `[batch, kv_len, kv_heads, head_dim]`; `heads` is a multiple of `kv_heads`.
        mask: boolean, broadcastable to `[batch, heads, q_len, kv_len]`, true where a query may look.
        bias: broadcastable to `[batch, heads, q_len, kv_len]`.
        sinks: `[heads]`, a further logit of each head whose weight goes nowhere (arXiv 2309.17453).
        implementation: "sdpa", "eager" or "flash". The weights exist only in the eager computation, which is therefore
            used whenever they are needed (`return_weights`, dropout, `head_mask`, `softcap`, `sinks`).
        return_weights: also return the softmax weights `[batch, heads, q_len, kv_len]`.
        dropout_rate, dropout_rng: dropout of the weights; none without a key.
        head_mask: `[heads]`, multiplies the weights of each head.
        scale: `head_dim ** -0.5` by default.
        softcap: products become `softcap * tanh(product / softcap)` (arXiv 2408.00118).

    Returns:
        The attended values `[batch, q_len, heads, head_dim]` in the dtype of `query`, and the weights or `None`.
        A query that may look nowhere attends uniformly.
    """
    dropped = dropout_rng is not None and dropout_rate > 0.0
    weighted = return_weights or dropped or any(given is not None for given in (head_mask, softcap, sinks))
    if implementation == "flash" and not weighted:
        return flash_attention(query, key, value, mask, bias, scale), None
    if implementation == "eager" or weighted or _einsum_is_faster(query):
        weights = _attention_weights(query, key, mask, bias, sinks, scale, softcap)
        mixed = dropout(weights, dropout_rate, dropout_rng)
        mixed = mixed if head_mask is None else mixed * head_mask[None, :, None, None]
        return _mix(mixed, value).astype(query.dtype), weights if return_weights else None
    return jax.nn.dot_product_attention(query, key, value, bias, mask, scale=scale), None


def cached_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, cache: Any, **options: Any
) -> tuple[jax.Array, jax.Array | None, Any]:
    """`dot_product_attention` to a cache and to `key` and `value`, which are added to it, or without a cache.

    Returns:
        The attended values with heads merged, `[batch, q_len, heads * head_dim]`, the weights or `None`, and the cache.
    """
    if cache is not None:
        cache, key, value = cache.extend(key, value)
    mixed, weights = dot_product_attention(query, key, value, mask, **options)
    return merge_heads(mixed), weights, cache


def keys_and_values(
    project: Callable[[jax.Array], Iterable[jax.Array]], hidden_states: jax.Array, memory: jax.Array | None, cache: Any
) -> tuple[jax.Array, jax.Array, Any]:
    """What queries look at: their own hidden states and what a cache holds of earlier ones, or an encoder's output.

    Args:
        project: keys and values, each `[batch, len, kv_heads, head_dim]`, of hidden states.
        memory: the encoder's output; `None` for self-attention.
        cache: a `LayerCache`; for `memory` a `CrossCache`, which has its keys and values already; or `None`.

    Returns:
        Keys, values, and the cache with them.
    """
    if isinstance(cache, CrossCache):
        return cache.key.astype(hidden_states.dtype), cache.value.astype(hidden_states.dtype), cache
    key, value = project(hidden_states if memory is None else memory)
    if memory is not None:
        return key, value, CrossCache(key, value)
    if cache is not None:
        cache, key, value = cache.extend(key, value)
    return key, value, cache


def _einsum_is_faster(query: jax.Array) -> bool:
    """On a CPU, in half precision or for few queries: `jax.nn.dot_product_attention` takes up to twice as long."""
    few = query.shape[1] <= MAX_QUERIES_OF_EINSUM
    return jax.default_backend() == "cpu" and (few or query.dtype.itemsize == 2)


def _attention_weights(
    query: jax.Array,
    key: jax.Array,
    mask: jax.Array | None,
    bias: jax.Array | None,
    sinks: jax.Array | None,
    scale: float | None,
    softcap: float | None,
) -> jax.Array:
    """float32 `[batch, heads, q_len, kv_len]`."""
    batch, q_len, heads, head_dim = query.shape
    grouped = query.swapaxes(1, 2).reshape(batch, key.shape[2], -1, q_len, head_dim)
    scores = jnp.einsum("bkgqd,bskd->bkgqs", grouped, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, heads, q_len, key.shape[1]) * (head_dim**-0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    if sinks is None:
        return jax.nn.softmax(scores, axis=-1)
    further = jnp.broadcast_to(sinks.astype(scores.dtype)[None, :, None, None], (batch, heads, q_len, 1))
    return jax.nn.softmax(jnp.concatenate([scores, further], axis=-1), axis=-1)[..., :-1]


def _mix(weights: jax.Array, value: jax.Array) -> jax.Array:
    """`[batch, q_len, heads, head_dim]` in float32."""
    batch, heads, q_len, kv_len = weights.shape
    grouped = weights.astype(value.dtype).reshape(batch, value.shape[2], -1, q_len, kv_len)
    mixed = jnp.einsum("bkgqs,bskd->bkgqd", grouped, value, preferred_element_type=jnp.float32)
    return mixed.reshape(batch, heads, q_len, value.shape[3]).swapaxes(1, 2)

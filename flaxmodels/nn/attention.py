"""Scaled dot-product attention (arXiv 1706.03762), grouped heads included (arXiv 2305.13245)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.nn.activations import softcap as capped
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
        key: `[batch, kv_len, kv_heads, head_dim]`; `heads` is a multiple of `kv_heads`.
        value: `[batch, kv_len, kv_heads, value_dim]`.
        mask: boolean, broadcastable to `[batch, heads, q_len, kv_len]`, true where a query may attend.
        bias: broadcastable to `[batch, heads, q_len, kv_len]`.
        sinks: `[heads]`, a further logit of each head whose weight is dropped (arXiv 2309.17453).
        implementation: "sdpa", "eager" or "flash". The weights exist only in the eager computation, which is therefore
            used whenever they are needed (`return_weights`, dropout, `head_mask`, `softcap`, `sinks`); "sdpa" uses it
            too where `value_dim` is not `head_dim`.
        return_weights: also return the softmax weights `[batch, heads, q_len, kv_len]`.
        dropout_rate, dropout_rng: dropout of the weights; none without a key.
        head_mask: `[heads]`, multiplies the weights of each head.
        scale: `head_dim ** -0.5` by default.
        softcap: products become `softcap * tanh(product / softcap)` (arXiv 2408.00118).

    Returns:
        The attended values `[batch, q_len, heads, value_dim]` in the dtype of `query`, and the weights or `None`.
        A query whose keys are all masked attends uniformly.
    """
    dropped = dropout_rng is not None and dropout_rate > 0.0
    weighted = return_weights or dropped or any(given is not None for given in (head_mask, softcap, sinks))
    if implementation == "flash" and not weighted:
        return flash_attention(query, key, value, mask, bias, scale), None
    unequal = value.shape[-1] != key.shape[-1]
    if implementation == "eager" or weighted or unequal:
        weights = _attention_weights(query, key, mask, bias, sinks, scale, softcap)
        applied = dropout(weights, dropout_rate, dropout_rng)
        applied = applied if head_mask is None else applied * head_mask[None, :, None, None]
        return _weighted_values(applied, value).astype(query.dtype), weights if return_weights else None
    is_short = isinstance(query.shape[1], int) and query.shape[1] <= MAX_QUERIES_OF_EINSUM  # it may be symbolic
    if is_short or query.dtype.itemsize == 2:
        return _attend_by_platform(query, key, value, mask, bias, scale), None
    return _attend(query, key, value, mask, bias, scale), None


def cached_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, cache: Any, **options: Any
) -> tuple[jax.Array, jax.Array | None, Any]:
    """`dot_product_attention` to a cache and to `key` and `value`, which are added to it, or without a cache.

    Returns:
        The attended values with merged heads, `[batch, q_len, heads * value_dim]`, the weights or `None`, the cache.
    """
    if cache is not None:
        cache, key, value = cache.extend(key, value)
    attn_output, weights = dot_product_attention(query, key, value, mask, **options)
    return merge_heads(attn_output), weights, cache


def keys_and_values(
    project: Callable[[jax.Array], Iterable[jax.Array]],
    hidden_states: jax.Array,
    encoder_hidden_states: jax.Array | None,
    cache: Any,
) -> tuple[jax.Array, jax.Array, Any]:
    """What queries attend to: their own hidden states and what a cache holds of earlier ones, or an encoder's output.

    Args:
        project: keys and values, each `[batch, len, kv_heads, head_dim]`, of hidden states.
        encoder_hidden_states: the encoder's output; `None` for self-attention.
        cache: a `KeyValueCache`; for an encoder's output a `CrossCache`, which has its keys and values already; or
            `None`.

    Returns:
        Keys, values, and the cache with them.
    """
    if isinstance(cache, CrossCache):
        return cache.key.astype(hidden_states.dtype), cache.value.astype(hidden_states.dtype), cache
    key, value = project(hidden_states if encoder_hidden_states is None else encoder_hidden_states)
    if encoder_hidden_states is not None:
        return key, value, CrossCache(key, value)
    if cache is not None:
        cache, key, value = cache.extend(key, value)
    return key, value, cache


@partial(jax.jit, static_argnames="scale", inline=True)
def _attend_by_platform(query, key, value, mask, bias, scale: float | None) -> jax.Array:
    """In half precision and for few queries: on a CPU `jax.nn.dot_product_attention` takes up to twice as long."""
    branches = {"cpu": partial(_attend_by_einsum, scale=scale), "default": partial(_attend, scale=scale)}
    return jax.lax.platform_dependent(query, key, value, mask, bias, **branches)


def _attend(query, key, value, mask, bias, scale: float | None) -> jax.Array:
    return jax.nn.dot_product_attention(query, key, value, bias, mask, scale=scale)


def _attend_by_einsum(query, key, value, mask, bias, scale: float | None) -> jax.Array:
    weights = _attention_weights(query, key, mask, bias, None, scale, None)
    return _weighted_values(weights, value).astype(query.dtype)


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
    # [batch, kv_heads, group, q_len, head_dim] . [batch, kv_len, kv_heads, head_dim]
    # -> [batch, kv_heads, group, q_len, kv_len]
    scores = jnp.einsum("bkgqd,bskd->bkgqs", grouped, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, heads, q_len, key.shape[1]) * (head_dim**-0.5 if scale is None else scale)
    scores = capped(scores, softcap)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    if sinks is None:
        return jax.nn.softmax(scores, axis=-1)
    further = jnp.broadcast_to(sinks.astype(scores.dtype)[None, :, None, None], (batch, heads, q_len, 1))
    return jax.nn.softmax(jnp.concatenate([scores, further], axis=-1), axis=-1)[..., :-1]


def _weighted_values(weights: jax.Array, value: jax.Array) -> jax.Array:
    """`[batch, q_len, heads, value_dim]` in float32."""
    batch, heads, q_len, kv_len = weights.shape
    grouped = weights.astype(value.dtype).reshape(batch, value.shape[2], -1, q_len, kv_len)
    # [batch, kv_heads, group, q_len, kv_len] . [batch, kv_len, kv_heads, value_dim]
    # -> [batch, kv_heads, group, q_len, value_dim]
    attn_output = jnp.einsum("bkgqs,bskd->bkgqd", grouped, value, preferred_element_type=jnp.float32)
    return attn_output.reshape(batch, heads, q_len, value.shape[3]).swapaxes(1, 2)

"""Attention masks. All are boolean, true where a query may look, and broadcast to `[batch, heads, q_len, kv_len]`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxmodels.nn.cache import LayerCache


def padding_mask(attention_mask: jax.Array) -> jax.Array:
    """`[batch, kv_len]` of ones and zeros, or a ready `[batch, q_len, kv_len]`, to a boolean mask with a heads axis."""
    keep = attention_mask.astype(bool)
    return keep[:, None, None, :] if keep.ndim == 2 else keep[:, None, :, :]


def causal_mask(q_len: int, kv_len: int, offset: jax.Array | int = 0) -> jax.Array:
    """`[1, 1, q_len, kv_len]`: query i, at position `offset + i`, sees the keys at positions up to its own."""
    return (jnp.arange(kv_len)[None] <= jnp.arange(q_len)[:, None] + offset)[None, None]


def decoder_mask(attention_mask: jax.Array | None, q_len: int, cache: LayerCache | None) -> jax.Array:
    """The causal mask of `q_len` new tokens, and padding where `attention_mask` `[batch, kv_len]` says so.

    With a cache the keys are its `max_length` slots; a shorter `attention_mask` speaks of the first of them.
    """
    kv_len = q_len if cache is None else cache.key.shape[1]
    causal = causal_mask(q_len, kv_len, 0 if cache is None else cache.length)
    if attention_mask is None:
        return causal
    missing = kv_len - attention_mask.shape[-1]
    return causal & padding_mask(jnp.pad(attention_mask, ((0, 0), (0, missing)), constant_values=1))

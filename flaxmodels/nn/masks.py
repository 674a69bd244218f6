"""Attention masks. All are boolean, true where a query may attend, and broadcast to `[batch, heads, q_len, kv_len]`."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from flaxmodels.errors import FlaxModelsError
from flaxmodels.nn.cache import Cache, LayerCache, self_attention_cache


def padding_mask(attention_mask: jax.Array) -> jax.Array:
    """`[batch, kv_len]` of ones and zeros, or a ready `[batch, q_len, kv_len]`, to a boolean mask with a heads axis."""
    keep = attention_mask.astype(bool)
    return keep[:, None, None, :] if keep.ndim == 2 else keep[:, None, :, :]


def new_positions(q_len: int, cache: LayerCache | None) -> jax.Array:
    """int32 `[q_len]`: the positions of `q_len` new tokens in a sequence, after those that a cache holds."""
    return jnp.arange(q_len) + (0 if cache is None else cache.length)


def token_positions(attention_mask: jax.Array | None, positions: jax.Array) -> jax.Array:
    """How many tokens come before those at `positions` of a sequence, where padding does not count.

    Args:
        attention_mask: `[batch, length]`, 0 for padding; the tokens after it count.
        positions: int `[len]`, from 0 on.

    Returns:
        int32 `[batch, len]`, -1 for padding; `[1, len]` without a mask.
    """
    if attention_mask is None:
        return positions[None]
    valid, length = attention_mask.astype(jnp.int32), attention_mask.shape[1]
    seen = valid.cumsum(-1)
    within = jnp.take(seen * valid - 1, positions, axis=1, mode="clip")
    return jnp.where((positions < length)[None], within, seen[:, -1:] + (positions - length)[None])


def local_mask(length: int, reach: int) -> jax.Array:
    """The mask `[1, 1, length, length]` of tokens that see those up to `reach` positions before and after them."""
    positions = jnp.arange(length)
    return (jnp.abs(positions[:, None] - positions[None]) <= reach)[None, None]


def token_mask(attention_mask: jax.Array, q_len: int, cache: Cache | None) -> jax.Array:
    """Which of `q_len` new tokens count, boolean `[batch, q_len]`; with a cache the mask is of the whole sequence.

    Raises:
        FlaxModelsError: a ready mask `[batch, q_len, kv_len]`, which does not say it.
    """
    if attention_mask.ndim != 2:
        raise FlaxModelsError(
            f"attention_mask: expected [batch, length] to count tokens, got {attention_mask.shape}; leave out "
            "output_router_logits, whose loss is of tokens"
        )
    positions = new_positions(q_len, None if cache is None else self_attention_cache(cache))
    return jnp.take(attention_mask, positions, axis=1, mode="fill", fill_value=1).astype(bool)


def decoder_masks(
    attention_mask: jax.Array | None, q_len: int, cache: Cache | None, windows: Sequence[int | None]
) -> tuple[jax.Array, ...]:
    """The `decoder_mask` of each layer; those that are equal are one array."""
    layers = [None] * len(windows) if cache is None else [self_attention_cache((layer,)) for layer in cache]
    masks: dict[tuple[int | None, type], jax.Array] = {}
    for layer, window in zip(layers, windows, strict=True):
        if (window, type(layer)) not in masks:
            masks[window, type(layer)] = decoder_mask(attention_mask, q_len, layer, window)
    return tuple(masks[window, type(layer)] for layer, window in zip(layers, windows, strict=True))


def decoder_mask(
    attention_mask: jax.Array | None, q_len: int, cache: LayerCache | None, window: int | None = None
) -> jax.Array:
    """The mask of `q_len` new tokens, each of which sees itself and what came before.

    Args:
        attention_mask: `[batch, length]`, 0 for padding. With a cache it is of the whole sequence from the first token
            on; tokens after it count.
        cache: to which the tokens will be added; the keys are then those that its `extend` returns.
        window: if given, how many tokens a token sees, itself included.

    Returns:
        Boolean, `[batch or 1, 1, q_len, kv_len]`.
    """
    queries = new_positions(q_len, cache)[:, None]
    positions = jnp.arange(q_len) if cache is None else cache.key_positions(q_len)
    keys = positions[None]
    seen = (keys <= queries) & (keys >= 0)
    if window is not None:
        seen &= keys > queries - window
    if attention_mask is None:
        return seen[None, None]
    return seen[None, None] & padding_mask(jnp.take(attention_mask, positions, axis=1, mode="fill", fill_value=1))

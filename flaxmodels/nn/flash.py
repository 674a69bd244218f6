"""Exact attention whose memory grows with the length, not with its square (arXiv 2205.14135)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp

BLOCK = 512
"""Keys that are looked at together."""


def flash_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    bias: jax.Array | None,
    scale: float | None,
    block: int = BLOCK,
) -> jax.Array:
    """As `dot_product_attention`: by cuDNN in half precision on a GPU if it has a kernel, else blocks of keys in turn.

    The backward pass computes the weights of each block again.
    """
    if query.dtype.itemsize == 2 and jax.default_backend() == "gpu":
        with suppress(NotImplementedError, RuntimeError):  # no cuDNN, or none for this GPU or this size of heads
            return _cudnn_attention(query, key, value, mask, bias, scale)
    batch, q_len, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    grouped = query.reshape(batch, q_len, kv_heads, heads // kv_heads, head_dim).astype(jnp.float32)
    grouped = grouped * (head_dim**-0.5 if scale is None else scale)
    real = jnp.ones((1, 1, 1, key.shape[1]), bool)
    blocks = [_in_blocks(array, 1, block) for array in (key, value)]
    blocks += [_in_blocks(array, 3, block) for array in (real, mask, bias)]
    start = (
        jnp.full((batch, heads, q_len), -jnp.inf),
        jnp.zeros((batch, heads, q_len)),
        jnp.zeros((batch, heads, q_len, value.shape[3])),
    )

    def look(state: tuple[jax.Array, ...], parts: list[Any]) -> tuple[Any, None]:
        """Take in one block: the greatest scores so far, the sums of weights relative to them, and of values."""
        greatest, total, mixed = state
        keys, values, there, seen, added = parts
        scores = jnp.einsum("bqkgd,bskd->bkgqs", grouped, keys, preferred_element_type=jnp.float32)
        scores = scores.reshape(batch, heads, q_len, -1)
        scores = scores if added is None else scores + added
        scores = scores if seen is None else jnp.where(seen, scores, jnp.finfo(scores.dtype).min)
        scores = jnp.where(there, scores, -jnp.inf)
        higher = jnp.maximum(greatest, scores.max(-1))
        weights, kept = jnp.exp(scores - higher[..., None]), jnp.exp(greatest - higher)
        by_group = weights.astype(values.dtype).reshape(batch, kv_heads, heads // kv_heads, q_len, -1)
        new = jnp.einsum("bkgqs,bskd->bkgqd", by_group, values, preferred_element_type=jnp.float32)
        mixed = mixed * kept[..., None] + new.reshape(mixed.shape)
        return (higher, total * kept + weights.sum(-1), mixed), None

    (_, total, mixed), _ = jax.lax.scan(jax.checkpoint(look), start, blocks)
    return (mixed / total[..., None]).swapaxes(1, 2).astype(query.dtype)


def _cudnn_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    bias: jax.Array | None,
    scale: float | None,
) -> jax.Array:
    lengths = query.shape[1], key.shape[1]
    masked = mask is not None or bias is not None
    if masked and lengths[0] > 1 and (lengths[0] % 2 or lengths[1] % 2):
        raise NotImplementedError("the backward pass of cuDNN's kernel takes even lengths only")
    mask, bias = (
        None if array is None else jnp.broadcast_to(array, (*array.shape[:2], *lengths)) for array in (mask, bias)
    )
    bias = None if bias is None else bias.astype(query.dtype)
    return jax.nn.dot_product_attention(query, key, value, bias, mask, scale=scale, implementation="cudnn")


def _in_blocks(array: jax.Array | None, axis: int, block: int) -> jax.Array | None:
    """`[blocks, ..., block, ...]`: `axis` filled with zeros up to a multiple of `block` and divided."""
    if array is None:
        return None
    length = array.shape[axis]
    block = min(block, length)
    count = -(-length // block)
    filling = [(0, 0)] * array.ndim
    filling[axis] = (0, count * block - length)
    shape = (*array.shape[:axis], count, block, *array.shape[axis + 1 :])
    return jnp.moveaxis(jnp.pad(array, filling).reshape(shape), axis, 0)

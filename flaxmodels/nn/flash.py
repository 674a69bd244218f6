"""Exact attention whose memory grows with the length, not with its square (arXiv 2205.14135)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

BLOCK = 512
"""Keys of one block."""


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

    Returns:
        `[batch, q_len, heads, value_dim]` in the dtype of `query`.
    """
    arrays, blocks = (query, key, value, mask, bias), partial(_attend_in_blocks, scale=scale, block=block)
    cudnn = partial(_cudnn_attention, scale=scale)
    if query.dtype.itemsize == 2 and value.shape == key.shape and _is_traceable(cudnn, *arrays):
        return jax.lax.platform_dependent(*arrays, cuda=cudnn, default=blocks)
    return blocks(*arrays)


def _is_traceable(cudnn: Callable[..., jax.Array], *arrays: jax.Array | None) -> bool:
    """Whether there is cuDNN, with a kernel for the GPU and this size of heads; JAX finds out when it traces a call."""
    with suppress(NotImplementedError, RuntimeError):
        return jax.eval_shape(cudnn, *arrays) is not None
    return False


def _attend_in_blocks(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    bias: jax.Array | None,
    scale: float | None,
    block: int,
) -> jax.Array:
    batch, q_len, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    grouped = query.reshape(batch, q_len, kv_heads, heads // kv_heads, head_dim).astype(jnp.float32)
    grouped = grouped * (head_dim**-0.5 if scale is None else scale)
    valid = jnp.ones((1, 1, 1, key.shape[1]), bool)
    blocks = [_in_blocks(array, 1, block) for array in (key, value)]
    blocks += [_in_blocks(array, 3, block) for array in (valid, mask, bias)]
    start = (
        jnp.full((batch, heads, q_len), -jnp.inf),
        jnp.zeros((batch, heads, q_len)),
        jnp.zeros((batch, heads, q_len, value.shape[3])),
    )

    def add_block(state: tuple[jax.Array, ...], parts: list[Any]) -> tuple[Any, None]:
        """The greatest scores up to one block, and the sums of weights relative to them, and of weighted values."""
        greatest, total, attn_output = state
        keys, values, valid, seen, added = parts
        # [batch, q_len, kv_heads, group, head_dim] . [batch, block, kv_heads, head_dim]
        # -> [batch, kv_heads, group, q_len, block]
        scores = jnp.einsum("bqkgd,bskd->bkgqs", grouped, keys, preferred_element_type=jnp.float32)
        scores = scores.reshape(batch, heads, q_len, -1)
        scores = scores if added is None else scores + added
        scores = scores if seen is None else jnp.where(seen, scores, jnp.finfo(scores.dtype).min)
        scores = jnp.where(valid, scores, -jnp.inf)
        higher = jnp.maximum(greatest, scores.max(-1))
        weights, kept = jnp.exp(scores - higher[..., None]), jnp.exp(greatest - higher)
        by_group = weights.astype(values.dtype).reshape(batch, kv_heads, heads // kv_heads, q_len, -1)
        # [batch, kv_heads, group, q_len, block] . [batch, block, kv_heads, value_dim]
        # -> [batch, kv_heads, group, q_len, value_dim]
        new = jnp.einsum("bkgqs,bskd->bkgqd", by_group, values, preferred_element_type=jnp.float32)
        attn_output = attn_output * kept[..., None] + new.reshape(attn_output.shape)
        return (higher, total * kept + weights.sum(-1), attn_output), None

    (_, total, attn_output), _ = jax.lax.scan(jax.checkpoint(add_block), start, blocks)
    return (attn_output / total[..., None]).swapaxes(1, 2).astype(query.dtype)


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

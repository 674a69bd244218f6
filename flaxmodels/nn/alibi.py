"""Attention with linear biases (ALiBi, arXiv 2108.12409): each head favours near keys by a slope of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def alibi_slopes(heads: int) -> np.ndarray:
    """float32 `[heads]`: powers of `2 ** (-8 / n)` for the greatest power of two n up to `heads`.

    Those of further heads lie between them: every other one of the slopes of 2 n heads.
    """
    whole = 1 << (heads.bit_length() - 1)
    return np.concatenate([_powers(whole), _powers(2 * whole)[::2][: heads - whole]]).astype(np.float32)


def alibi_bias(heads: int, positions: jax.Array) -> jax.Array:
    """float32 `[batch, heads, 1, kv_len]` from the positions of the keys, int `[batch, kv_len]`.

    They stand for distances: softmax does not see what is the same for all keys of a query.
    """
    return jnp.asarray(alibi_slopes(heads))[None, :, None, None] * positions.astype(jnp.float32)[:, None, None, :]


def _powers(count: int) -> np.ndarray:
    return 2.0 ** (-8.0 / count * np.arange(1, count + 1))

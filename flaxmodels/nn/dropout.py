"""Dropout as a function of an explicit key: no key, no dropout. So it is safe under remat, scan and vmap."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero each element with probability `rate` and scale the rest by `1 / (1 - rate)`; identity without a key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def drop_path(x: jax.Array, rate: float | jax.Array, key: jax.Array | None) -> jax.Array:
    """Zero each row of `[batch, ...]` with probability `rate` and scale the rest: stochastic depth (arXiv 1603.09382).

    Identity without a key. `rate` may be a scalar array, such as one of a scanned layer.
    """
    if key is None or (isinstance(rate, float) and rate == 0.0):
        return x
    kept = jnp.asarray(1.0 - rate, jnp.float32)
    keep = jax.random.bernoulli(key, kept, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(keep, x / kept.astype(x.dtype), jnp.zeros_like(x))


def layer_dropout(inputs: jax.Array, outputs: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """The `outputs` of a layer or, given a key, with probability `rate` its `inputs` (LayerDrop, arXiv 1909.11556)."""
    if key is None or rate == 0.0:
        return outputs
    return jnp.where(jax.random.bernoulli(key, rate), inputs, outputs)


def split_key(key: jax.Array | None, count: int) -> list[jax.Array | None]:
    """`count` independent keys, or as many `None`s."""
    return [None] * count if key is None else list(jax.random.split(key, count))

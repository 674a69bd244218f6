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


def drop_layer(before: jax.Array, after: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """LayerDrop (arXiv 1909.11556): with probability `rate` what went into a layer, else what came out of it."""
    if key is None or rate == 0.0:
        return after
    return jnp.where(jax.random.bernoulli(key, rate), before, after)


def split_key(key: jax.Array | None, count: int) -> list[jax.Array | None]:
    """`count` independent keys, or as many `None`s."""
    return [None] * count if key is None else list(jax.random.split(key, count))

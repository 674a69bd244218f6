"""SpecAugment (arXiv 1904.08779): spans of audio that a model does not see in training."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxmodels.errors import FlaxModelsError


def span_mask(
    key: jax.Array,
    shape: tuple[int, int],
    share: float,
    span: int,
    least: int,
    lengths: jax.Array | None = None,
) -> jax.Array:
    """Which positions are masked, bool `[batch, length]`: spans that begin at distinct random positions.

    Args:
        shape: batch and length.
        share: how much of a row the spans would cover if none overlapped.
        span: length of each.
        least: fewest spans in a row that is long enough.
        lengths: int `[batch]`, how many positions of each row are not padding; all if not given.

    Raises:
        FlaxModelsError: a span is longer than a row.
    """
    batch, length = shape
    if span > length:
        raise FlaxModelsError(f"spans of {span} positions cannot be masked in {length}: lower the length of the spans")
    rounding_key, order_key = jax.random.split(key)
    lengths = jnp.full(batch, length) if lengths is None else lengths
    starts = jnp.maximum(lengths - span + 1, 0)
    count = (share * lengths / span + jax.random.uniform(rounding_key)).astype(jnp.int32)
    count = jnp.minimum(jnp.clip(count, least, length // span), starts)
    positions = jnp.arange(length)[None]
    order = jnp.where(positions < starts[:, None], jax.random.uniform(order_key, shape), 2.0)
    begins = (order.argsort(-1).argsort(-1) < count[:, None]).astype(jnp.int32)
    begun = begins.cumsum(-1)
    ended = jnp.pad(begun, ((0, 0), (span, 0)))[:, :length]
    return begun > ended

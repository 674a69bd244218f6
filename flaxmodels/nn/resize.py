"""Interpolation of images to another size, as torch's `interpolate(align_corners=False)` computes it.

`jax.image.resize` differs: its cubic kernel has another slope, and it smooths where it shrinks.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

_SLOPE = -0.75
"""Of the cubic kernel at a distance of one (Keys 1981)."""


def resize_bicubic(image: jax.Array, height: int, width: int) -> jax.Array:
    """`[batch, h, w, channels]` to `[batch, height, width, channels]` by cubic convolution, in float32."""
    return _resize(image, height, width, _cubic, 4)


def resize_bilinear(image: jax.Array, height: int, width: int) -> jax.Array:
    """`[batch, h, w, channels]` to `[batch, height, width, channels]` by linear interpolation, in float32."""
    return _resize(image, height, width, lambda distance: 1.0 - distance, 2)


def _resize(image: jax.Array, height: int, width: int, kernel: Callable[[np.ndarray], np.ndarray], taps: int):
    """Each axis times the matrix of its weights; the result has the dtype of `image`."""
    if image.shape[1:3] == (height, width):
        return image
    rows, columns = (
        jnp.asarray(_weights(old, new, kernel, taps))
        for old, new in zip(image.shape[1:3], (height, width), strict=True)
    )
    exact = image.astype(jnp.float32)
    resized = jnp.einsum("hi,wj,bijc->bhwc", rows, columns, exact, precision=jax.lax.Precision.HIGHEST)
    return resized.astype(image.dtype)


def _weights(old: int, new: int, kernel: Callable[[np.ndarray], np.ndarray], taps: int) -> np.ndarray:
    """float32 `[new, old]`: how much of each old pixel is in each new one. Pixels beyond the border repeat it."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centres).astype(int) - taps // 2 + 1
    sources = first[:, None] + np.arange(taps)
    weights = np.zeros((new, old))
    np.add.at(
        weights,
        (np.arange(new)[:, None], sources.clip(0, old - 1)),
        kernel(np.abs(centres[:, None] - sources)),
    )
    return weights.astype(np.float32)


def _cubic(distance: np.ndarray) -> np.ndarray:
    a = _SLOPE
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)

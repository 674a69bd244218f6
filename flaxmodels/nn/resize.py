"""Images in another size, as torch's `interpolate(align_corners=False)` and `adaptive_avg_pool2d` compute them.

`jax.image.resize` differs: its cubic kernel has another slope, and it smooths where it shrinks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

_SLOPE = -0.75
"""Of the cubic kernel at a distance of one (Keys 1981)."""


def resize_bicubic(image: jax.Array, height: int, width: int) -> jax.Array:
    """`[batch, h, w, channels]` to `[batch, height, width, channels]` by cubic convolution, in float32."""
    return _resize(image, height, width, partial(_weights, kernel=_cubic, taps=4))


def resize_bilinear(image: jax.Array, height: int, width: int) -> jax.Array:
    """`[batch, h, w, channels]` to `[batch, height, width, channels]` by linear interpolation, in float32."""
    return _resize(image, height, width, partial(_weights, kernel=lambda distance: 1.0 - distance, taps=2))


def pool_adaptively(image: jax.Array, height: int, width: int) -> jax.Array:
    """`[batch, h, w, channels]` to `[batch, height, width, channels]`: means of parts, in float32.

    Parts share their borders where the sizes do not divide.
    """
    return _resize(image, height, width, _shares)


def resize_positions(table: jax.Array, grid: tuple[int, int], rows: int, columns: int) -> jax.Array:
    """Embeddings of positions `[tokens, hidden]` for `rows` by `columns` patches of those for a `grid` of patches.

    Tokens before the patches keep theirs.
    """
    first = table.shape[0] - grid[0] * grid[1]
    patches = resize_bicubic(table[first:].reshape(1, *grid, -1), rows, columns)
    return jnp.concatenate([table[:first], patches.reshape(rows * columns, -1)])


def _resize(image: jax.Array, height: int, width: int, weights: Callable[[int, int], np.ndarray]) -> jax.Array:
    """Each axis times the matrix of its weights; the result has the dtype of `image`."""
    if image.shape[1:3] == (height, width):
        return image
    sizes = zip(image.shape[1:3], (height, width), strict=True)
    rows, columns = (jnp.asarray(weights(old, new), jnp.float32) for old, new in sizes)
    exact = image.astype(jnp.float32)
    # [height, h], [width, w], [batch, h, w, channels] -> [batch, height, width, channels]
    resized = jnp.einsum("hi,wj,bijc->bhwc", rows, columns, exact, precision=jax.lax.Precision.HIGHEST)
    return resized.astype(image.dtype)


def _weights(old: int, new: int, kernel: Callable[[np.ndarray], np.ndarray], taps: int) -> np.ndarray:
    """`[new, old]`: how much of each old pixel is in each new one. Pixels beyond the border repeat it."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centres).astype(int) - taps // 2 + 1
    sources = first[:, None] + np.arange(taps)
    weights = np.zeros((new, old))
    np.add.at(
        weights,
        (np.arange(new)[:, None], sources.clip(0, old - 1)),
        kernel(np.abs(centres[:, None] - sources)),
    )
    return weights


def _shares(old: int, new: int) -> np.ndarray:
    """`[new, old]`: the mean of the old pixels that a new one covers, in whole or in part."""
    begin = np.arange(new) * old // new
    end = -(-(np.arange(new) + 1) * old // new)
    pixels = np.arange(old)
    covered = (begin[:, None] <= pixels) & (pixels < end[:, None])
    return covered / covered.sum(1, keepdims=True)


def _cubic(distance: np.ndarray) -> np.ndarray:
    a = _SLOPE
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)

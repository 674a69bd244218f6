"""Resizing of images and of tables of positions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

SHARPNESS = -0.75
"""The free parameter of the cubic kernel; torch's."""


def resize_bicubic(image: jax.Array, height: int, width: int) -> jax.Array:
    """`[batch, h, w, channels]` to `[batch, height, width, channels]` by cubic convolution (Keys, 1981).

    As `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`: corners of the grids coincide, and what
    lies outside is as the nearest pixel.
    """
    rows, columns = (_weights(*sizes) for sizes in ((image.shape[1], height), (image.shape[2], width)))
    return jnp.einsum("bhwc,yh,xw->byxc", image, rows, columns, precision="highest")


def _weights(size: int, new_size: int) -> np.ndarray:
    """How much of each old pixel is in each new one, float32 `[new_size, size]`."""
    new = np.arange(new_size)
    places = (new + 0.5) * (size / new_size) - 0.5
    nearest = np.floor(places).astype(int)
    weights = np.zeros((new_size, size))
    for tap in range(-1, 3):
        np.add.at(weights, (new, np.clip(nearest + tap, 0, size - 1)), _cubic(np.abs(places - nearest - tap)))
    return weights.astype(np.float32)


def _cubic(distance: np.ndarray) -> np.ndarray:
    near = ((SHARPNESS + 2) * distance - (SHARPNESS + 3)) * distance**2 + 1
    far = SHARPNESS * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)

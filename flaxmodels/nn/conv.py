"""Convolutions, channels last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from flaxmodels.errors import FlaxModelsError
from flaxmodels.nn.initializers import Initializer, constant, normal, zeros
from flaxmodels.nn.module import Module, TorchLeaf, param
from flaxmodels.policy import Policy
from interop.ops import Transpose


class _Conv(Module):
    """Kernel `[*kernel_size, in_channels / groups, out_channels]`. `padding` is zeros on both sides of each axis."""

    axes: ClassVar[str]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        policy: Policy,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        groups: int = 1,
        use_bias: bool = True,
        init: Initializer,
    ):
        self.dtype, self.groups = policy.dtype, groups
        size, self.stride, self.padding = (self._by_axis(value) for value in (kernel_size, stride, padding))
        self.kernel = param((*size, in_channels // groups, out_channels), policy.param_dtype, init)
        self.bias = param((out_channels,), policy.param_dtype, zeros) if use_bias else None

    def _by_axis(self, value: int | Sequence[int]) -> tuple[int, ...]:
        return (value,) * len(self.axes) if isinstance(value, int) else tuple(value)

    def weight(self) -> jax.Array:
        """The kernel that is applied, `[*kernel_size, in_channels / groups, out_channels]`."""
        return self.kernel[...]

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, *spatial, in_channels]` to `[batch, *spatial, out_channels]`."""
        y = self.convolve(x.astype(self.dtype), self.weight().astype(self.dtype))
        if self.bias is None:
            return y
        return y + self.bias[...].astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))

    def convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The product of `[batch, *spatial, in_channels]` and the kernel, without the bias."""
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            self.stride,
            [(each, each) for each in self.padding],
            dimension_numbers=(f"N{self.axes}C", f"{self.axes}IO", f"N{self.axes}C"),
            feature_group_count=self.groups,
        )


_TRANSPOSED = (Transpose((2, 1, 0)),)


class Conv1d(_Conv):
    """Over `[batch, length, channels]`."""

    axes = "W"
    torch_leaves = {"kernel": TorchLeaf("weight", _TRANSPOSED)}


class WeightNormConv1d(Conv1d):
    """A `Conv1d` with weight normalisation (arXiv 1602.07868): `scale` is the norm of the kernel at each position."""

    torch_leaves = {
        leaf: TorchLeaf(
            f"parametrizations.weight.{name}", _TRANSPOSED, legacy_names=(older,), flax_name=older, flax_ops=_TRANSPOSED
        )
        for leaf, name, older in (("kernel", "original1", "weight_v"), ("scale", "original0", "weight_g"))
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        policy: Policy,
        *,
        padding: int = 0,
        groups: int = 1,
        stddev: float,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, policy, padding=padding, groups=groups, init=normal(stddev)
        )
        expected = stddev * (in_channels // groups * out_channels) ** 0.5  # the norm that `normal` gives
        self.scale = param((kernel_size, 1, 1), policy.param_dtype, constant(expected))

    def weight(self) -> jax.Array:
        direction = self.kernel[...].astype(jnp.float32)
        norm = jnp.sqrt(jnp.square(direction).sum((1, 2), keepdims=True))
        return direction * (self.scale[...].astype(jnp.float32) / norm)


class Conv2d(_Conv):
    """Over `[batch, height, width, channels]`."""

    axes = "HW"
    torch_leaves = {"kernel": TorchLeaf("weight", (Transpose((2, 3, 1, 0)),))}


class ConvTranspose2d(Conv2d):
    """Each pixel spread over a patch by the kernel; patches, `stride` apart, are added (arXiv 1603.07285).

    `[batch, height, width, channels]` to `(height - 1) * stride + kernel_size` rows, columns likewise.
    """

    torch_leaves = {"kernel": TorchLeaf("weight", (Transpose((2, 3, 0, 1)),))}

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, policy: Policy, *, stride: int, init: Initializer
    ):
        super().__init__(in_channels, out_channels, kernel_size, policy, stride=stride, init=init)

    def convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            jnp.flip(kernel, (0, 1)),
            (1, 1),
            [(size - 1, size - 1) for size in kernel.shape[:2]],
            lhs_dilation=self.stride,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


def channels_first(x: jax.Array) -> jax.Array:
    """`[batch, height, width, channels]` as `[batch, channels, height, width]`, which transformers gives."""
    return jnp.moveaxis(x, -1, 1)


def pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """`[batch, h, w, channels * factor**2]` to `[batch, h * factor, w * factor, channels]` (arXiv 1609.05158).

    The features of one pixel are ordered as torch orders them: channel, then row, then column of the block.
    """
    batch, height, width, features = x.shape
    channels = features // factor**2
    blocks = x.reshape(batch, height, width, channels, factor, factor).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(batch, height * factor, width * factor, channels)


def channels_last(pixel_values: jax.Array, channels: int) -> jax.Array:
    """Images `[batch, height, width, channels]`, given so or as `[batch, channels, height, width]`.

    What could be either is read as the second, the layout of transformers.

    Raises:
        FlaxModelsError: it is neither.
    """
    if pixel_values.ndim == 4 and pixel_values.shape[1] == channels:
        return jnp.moveaxis(pixel_values, 1, -1)
    if pixel_values.ndim == 4 and pixel_values.shape[-1] == channels:
        return pixel_values
    raise FlaxModelsError(
        f"pixel_values: expected [batch, {channels}, height, width] or [batch, height, width, {channels}], "
        f"got {pixel_values.shape}"
    )

"""Heads that label every pixel: UPerNet (arXiv 1807.10221) and a fully convolutional one (arXiv 1411.4038).

Parameters have the names of mmsegmentation, which published checkpoints keep. Maps are `[batch, rows, columns,
features]`; with `train` batch norms norm by the batch and move their statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp

from flaxmodels.nn.conv import Conv2d
from flaxmodels.nn.initializers import Initializer
from flaxmodels.nn.module import Module, ModuleList
from flaxmodels.nn.norms import BatchNorm
from flaxmodels.nn.resize import pool_adaptively, resize_bilinear
from flaxmodels.policy import Policy


class ConvNorm(Module):
    """A convolution that keeps the size of the map, batch norm and ReLU."""

    def __init__(self, inner: int, outer: int, policy: Policy, *, size: int = 3, init: Initializer):
        self.conv = Conv2d(inner, outer, size, policy, padding=size // 2, use_bias=False, init=init)
        self.bn = BatchNorm(outer, policy)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return jax.nn.relu(self.bn(self.conv(x), train))


class PyramidLevel(Module):
    """What a map holds on a grid of `scale` by `scale`, stretched to the size of the map (arXiv 1612.01105)."""

    torch_names = {"layer": "1"}

    def __init__(self, features: int, scale: int, policy: Policy, *, init: Initializer):
        self.scale = scale
        self.layer = ConvNorm(features, features, policy, size=1, init=init)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        pooled = pool_adaptively(x, self.scale, self.scale)
        return resize_bilinear(self.layer(pooled, train), *x.shape[1:3])


class UperHead(Module):
    """Labels from `levels` maps of an image, the finest first: pooled on several scales, and added from coarse to fine.

    All maps have `features` features; the labels have the size of the first.
    """

    def __init__(
        self, features: int, labels: int, levels: int, scales: Sequence[int], policy: Policy, *, init: Initializer
    ):
        def layer(maps: int, size: int = 3) -> ConvNorm:
            return ConvNorm(maps * features, features, policy, size=size, init=init)

        self.psp_modules = ModuleList(PyramidLevel(features, scale, policy, init=init) for scale in scales)
        self.bottleneck = layer(1 + len(scales))
        self.lateral_convs = ModuleList(layer(1, size=1) for _ in range(levels - 1))
        self.fpn_convs = ModuleList(layer(1) for _ in range(levels - 1))
        self.fpn_bottleneck = layer(levels)
        self.classifier = Conv2d(features, labels, 1, policy, init=init)

    def __call__(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        *finer, coarsest = maps
        pooled = [level(coarsest, train) for level in self.psp_modules]
        context = self.bottleneck(jnp.concatenate([coarsest, *pooled], axis=-1), train)
        sums = [context]
        for conv, each in reversed(list(zip(self.lateral_convs, finer, strict=True))):
            sums.insert(0, conv(each, train) + resize_bilinear(sums[0], *each.shape[1:3]))
        levels = [conv(each, train) for conv, each in zip(self.fpn_convs, sums[:-1], strict=True)]
        levels = [resize_bilinear(each, *sums[0].shape[1:3]) for each in (*levels, context)]
        return self.classifier(self.fpn_bottleneck(jnp.concatenate(levels, axis=-1), train))


class FCNHead(Module):
    """Labels from one map by a few convolutions, with the map itself beside their result if `joins`."""

    def __init__(
        self, features: int, channels: int, labels: int, depth: int, policy: Policy, *, joins: bool, init: Initializer
    ):
        widths = (features, *(channels,) * depth)
        self.convs = ModuleList(ConvNorm(inner, outer, policy, init=init) for inner, outer in pairwise(widths))
        self.conv_cat = ConvNorm(features + widths[-1], channels, policy, init=init) if joins else None
        self.classifier = Conv2d(channels, labels, 1, policy, init=init)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = x
        for conv in self.convs:
            y = conv(y, train)
        if self.conv_cat is not None:
            y = self.conv_cat(jnp.concatenate([x, y], axis=-1), train)
        return self.classifier(y)

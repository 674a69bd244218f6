"""Normalisation: over features, and over batch and space."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxmodels.nn.dense import add_bias, along_last_axis
from flaxmodels.nn.initializers import ones, zeros
from flaxmodels.nn.module import Module, TorchLeaf, param, statistic
from flaxmodels.policy import Policy
from interop.ops import Retype


class LayerNorm(Module):
    """Layer normalisation over the last axis, in float32 (arXiv 1607.06450).

    Without a bias if not `use_bias`, and with no parameters at all if not `affine`.
    """

    torch_leaves = {
        "scale": TorchLeaf("weight", legacy_names=("gamma",)),
        "bias": TorchLeaf("bias", legacy_names=("beta",)),
    }

    def __init__(self, features: int, policy: Policy, *, epsilon: float, affine: bool = True, use_bias: bool = True):
        self.epsilon = epsilon
        self.scale = param((features,), policy.param_dtype, ones) if affine else None
        self.bias = param((features,), policy.param_dtype, zeros) if affine and use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        y = y if self.scale is None else y * along_last_axis(self.scale, y)
        return add_bias(y, self.bias).astype(x.dtype)


class RMSNorm(Module):
    """Root-mean-square normalisation over the last axis, in float32 (arXiv 1910.07467).

    `offset` is added to the scale, which is then initialised around it.
    """

    torch_leaves = {"scale": TorchLeaf("weight", flax_name="weight")}

    def __init__(self, features: int, policy: Policy, *, epsilon: float, offset: float = 0.0):
        self.epsilon, self.offset = epsilon, offset
        self.scale = param((features,), policy.param_dtype, zeros if offset else ones)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        scale = along_last_axis(self.scale, y)
        return (y * (scale + self.offset if self.offset else scale)).astype(x.dtype)


class BatchNorm(Module):
    """Normalisation of each channel over batch and space, in float32 (arXiv 1502.03167).

    In training by the mean and variance of the batch, which move the running ones by a tenth; else by these.
    """

    torch_leaves = {
        "scale": TorchLeaf("weight"),
        "running_mean": TorchLeaf("running_mean", flax_name="mean"),
        "running_var": TorchLeaf("running_var", flax_name="var"),
        "num_batches_tracked": TorchLeaf("num_batches_tracked", (Retype("int64", "int32"),), optional=True),
    }

    def __init__(self, features: int, policy: Policy, *, epsilon: float = 1e-5, momentum: float = 0.1):
        self.epsilon, self.momentum = epsilon, momentum
        self.scale = param((features,), policy.param_dtype, ones)
        self.bias = param((features,), policy.param_dtype, zeros)
        self.running_mean = statistic((features,), zeros)
        self.running_var = statistic((features,), ones)
        self.num_batches_tracked = statistic((), zeros, np.int32)

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[batch, ..., features]`; with `train` the module holds the moved statistics afterwards."""
        y = x.astype(jnp.float32)
        mean, variance = self.running_mean[...], self.running_var[...]
        if train:
            axes = tuple(range(x.ndim - 1))
            mean, variance = y.mean(axes), y.var(axes)
            count = x.size // x.shape[-1]
            self._move(self.running_mean, mean)
            self._move(self.running_var, variance * (count / max(count - 1, 1)))
            self.num_batches_tracked.set_value(self.num_batches_tracked.get_value() + 1)
        scale = self.scale[...].astype(jnp.float32) * jax.lax.rsqrt(variance + self.epsilon)
        shape = (1,) * (x.ndim - 1) + (-1,)
        shifted = (y - mean.reshape(shape)) * scale.reshape(shape)
        return (shifted + along_last_axis(self.bias, y)).astype(x.dtype)

    def _move(self, statistic: nnx.BatchStat, value: jax.Array) -> None:
        statistic.set_value(statistic.get_value() * (1 - self.momentum) + jax.lax.stop_gradient(value) * self.momentum)

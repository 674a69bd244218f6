"""Parts of encoders of raw audio, which several of them share."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxmodels.nn.dense import Linear
from flaxmodels.nn.initializers import Initializer, normal, uniform
from flaxmodels.nn.module import Module, param
from flaxmodels.nn.norms import LayerNorm
from flaxmodels.policy import Policy


class ChannelNorm(LayerNorm):
    """Each channel of `[batch, length, channels]` normalised over its length, in float32 (arXiv 1607.08022)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y - y.mean(1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(1, keepdims=True) + self.epsilon)
        assert self.scale is not None
        assert self.bias is not None
        return (y * self.scale[...][None, None] + self.bias[...][None, None]).astype(x.dtype)


class GumbelVectorQuantizer(Module):
    """Code vectors in place of features: the likeliest, in training one that is sampled (arXiv 1611.01144).

    A vector of `size` features is put together of one from each of `groups` tables of `choices`. `temperature` is how
    far from the likeliest training samples; it falls from 2 in the paper.
    """

    def __init__(self, features: int, size: int, groups: int, choices: int, policy: Policy):
        self.groups, self.temperature = groups, 2.0
        self.codevectors = param((1, groups * choices, size // groups), policy.param_dtype, uniform(1.0))
        self.weight_proj = Linear(features, groups * choices, policy, init=normal(1.0))

    def __call__(
        self, features: jax.Array, mask_time_indices: jax.Array | None, dropout_rng: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Vectors `[batch, frames, size]`, and the perplexity of their choice at the frames that are masked."""
        logits = self.weight_proj(features).astype(jnp.float32)
        logits = logits.reshape(*logits.shape[:-1], self.groups, -1)
        if dropout_rng is None:
            chosen = shares = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])
        else:
            noise = jax.random.gumbel(dropout_rng, logits.shape)
            soft, shares = jax.nn.softmax((logits + noise) / self.temperature), jax.nn.softmax(logits)
            chosen = jax.lax.stop_gradient(jax.nn.one_hot(soft.argmax(-1), soft.shape[-1]) - soft) + soft
        table = self.codevectors[...].reshape(self.groups, logits.shape[-1], -1)
        # [batch, frames, groups, choices], [groups, choices, size / groups] -> [batch, frames, groups, size / groups]
        vectors = jnp.einsum("btgv,gvd->btgd", chosen, table.astype(jnp.float32))
        vectors = vectors.reshape(*vectors.shape[:2], -1).astype(features.dtype)
        where = None if mask_time_indices is None else jnp.asarray(mask_time_indices, bool)[..., None, None]
        mean = shares.mean((0, 1), where=where)
        perplexity = jnp.exp(-jax.scipy.special.xlogy(mean, mean).sum(-1)).sum()
        return vectors, perplexity.astype(features.dtype)


class TDNNLayer(Module):
    """A dense layer of each frame and `width - 1` around it, `dilation` apart (time delay neural network), and ReLU.

    `[batch, frames, in_features]` to `[batch, frames - (width - 1) * dilation, out_features]`.
    """

    def __init__(
        self, in_features: int, out_features: int, policy: Policy, *, width: int, dilation: int, init: Initializer
    ):
        self.width, self.dilation = width, dilation
        self.kernel = Linear(in_features * width, out_features, policy, init=init)

    def __call__(self, x: jax.Array) -> jax.Array:
        count = x.shape[1] - (self.width - 1) * self.dilation
        around = [x[:, position * self.dilation :][:, :count] for position in range(self.width)]
        return jax.nn.relu(self.kernel(jnp.concatenate(around, axis=-1)))


class AMSoftmaxLoss(Module):
    """The speakers' directions of additive margin softmax (arXiv 1801.05599), which training alone uses."""

    def __init__(self, features: int, labels: int, policy: Policy):
        self.weight = param((features, labels), policy.param_dtype, normal(1.0))


def moments(x: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and deviation, `[batch, features]`, of the first `lengths` frames of `[batch, frames, features]`."""
    lengths, y = jnp.minimum(lengths, x.shape[1]), x.astype(jnp.float32)
    valid = (jnp.arange(x.shape[1])[None] < lengths[:, None])[..., None]
    mean = y.mean(1, keepdims=True, where=valid)
    variance = jnp.where(valid, jnp.square(y - mean), 0.0).sum(1) / jnp.maximum(lengths - 1, 1)[:, None]
    varies = variance > 0  # the root has no gradient at 0
    deviation = jnp.where(varies, jnp.sqrt(jnp.where(varies, variance, 1.0)), 0.0)
    return mean[:, 0].astype(x.dtype), deviation.astype(x.dtype)

"""Layers that own parameters: dense, embedding and norm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import Initializer, ones, zeros

from flaxmodels.errors import FlaxModelsError
from flaxmodels.nn.module import Module, TorchLeaf, param, statistic
from flaxmodels.nn.policy import Policy
from interop.ops import Retype, Transpose

MIN_ROWS_OF_CPU_KERNEL = 2
FOLDS = 8
MIN_FOLDED = 2**16
"""Elements of the smallest matrix that is folded: for less, the gain is not worth the time to compile."""


def matmul(x: jax.Array, weight: jax.Array, contract: int = 0) -> jax.Array:
    """`x` [..., in] times `weight`, contracting its axis `contract`, in the dtype of `x` with float32 accumulation."""
    rows = x.reshape(-1, x.shape[-1])
    alone = len(rows) == 1 and weight.size >= MIN_FOLDED and jax.default_backend() == "cpu"
    if alone and contract == 0 and rows.shape[1] % FOLDS == 0:
        y = _folded_product(rows, weight)
    elif alone and contract == 1 and x.dtype.itemsize == 2:
        weight, rows = jax.lax.optimization_barrier((weight, rows))  # see _folded_product
        y = (weight.astype(jnp.float32) * rows.astype(jnp.float32)).sum(-1)
    else:
        y = _product(rows, weight, contract)
    return y.astype(x.dtype).reshape(*x.shape[:-1], y.shape[-1])


def _product(rows: jax.Array, weight: jax.Array, contract: int) -> jax.Array:
    """float32 `[rows, out]`. XLA's CPU backend has a half-precision kernel for two rows or more only."""
    count = len(rows)
    if rows.dtype.itemsize == 2 and jax.default_backend() == "cpu":
        rows = jnp.pad(rows, ((0, max(0, MIN_ROWS_OF_CPU_KERNEL - count)), (0, 0)))
    axes = (((1,), (contract,)), ((), ()))
    return jax.lax.dot_general(rows, weight, axes, preferred_element_type=jnp.float32)[:count]


def _folded_product(row: jax.Array, weight: jax.Array) -> jax.Array:
    """float32 `[1, out]` of `[1, in]` and `[in, out]`.

    The matrix is cut into `FOLDS` parts of as many rows, which are weighted and added in one pass over it; then the
    rows of this sum are added. XLA's CPU backend makes one vectorised loop of the pass, in several threads, and so
    reads the matrix about as fast as memory gives it. Its own product of one row takes about 1.4 times as long for the
    matrices of SmolLM2-135M on two cores, and 5 times in half precision, where it converts each matrix first.
    """
    weight, row = jax.lax.optimization_barrier((weight, row))  # else a loop keeps a float32 copy of the matrix
    length = row.shape[1] // FOLDS
    parts = weight.reshape(FOLDS, length, -1).astype(jnp.float32) * row.reshape(FOLDS, length, 1).astype(jnp.float32)
    folded = jax.lax.optimization_barrier(sum(parts[part] for part in range(FOLDS)))
    return jax.lax.dot(jnp.ones((1, length), jnp.float32), folded)


class Linear(Module):
    """`x @ kernel + bias`, kernel `[in_features, out_features]`."""

    torch_leaves = {"kernel": TorchLeaf("weight", (Transpose((1, 0)),))}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        policy: Policy,
        *,
        use_bias: bool = True,
        init: Initializer,
    ):
        self.dtype = policy.dtype
        self.kernel = param((in_features, out_features), policy.param_dtype, init)
        self.bias = param((out_features,), policy.param_dtype, zeros) if use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        return _add_bias(matmul(x.astype(self.dtype), self.kernel[...].astype(self.dtype)), self.bias)


class Conv1D(Linear):
    """A `Linear` that torch stores as `[in_features, out_features]` too, and the retired Flax classes transposed."""

    torch_leaves = {"kernel": TorchLeaf("weight", flax_ops=(Transpose((1, 0)),))}


class TiedLinear(Module):
    """`x @ embedding.T + bias`: an output projection that shares the `[vocab, hidden]` parameter of an embedding."""

    torch_leaves = {"embedding": TorchLeaf("weight")}

    def __init__(self, embedding: nnx.Param, policy: Policy, *, bias: nnx.Param | None = None):
        self.dtype = policy.dtype
        self.embedding = embedding
        self.bias = bias

    def __call__(self, x: jax.Array) -> jax.Array:
        y = matmul(x.astype(self.dtype), self.embedding[...].astype(self.dtype), contract=1)
        return _add_bias(y, self.bias)


def vocabulary_projection(
    table: Embedding, policy: Policy, *, tied: bool, init: Initializer, bias: nnx.Param | None = None
) -> Linear | TiedLinear:
    """From features to a score for each word of `table`, whose parameter is shared if `tied`.

    With a `bias` a tied projection adds it, and another one has a bias of its own.
    """
    if tied:
        return TiedLinear(table.embedding, policy, bias=bias)
    words, features = table.embedding.get_raw_value().shape
    return Linear(features, words, policy, use_bias=bias is not None, init=init)


def _add_bias(y: jax.Array, bias: nnx.Param | None) -> jax.Array:
    return y if bias is None else y + _along_last_axis(bias, y)


def _along_last_axis(parameter: nnx.Param, x: jax.Array) -> jax.Array:
    """A `[features]` parameter in the dtype of `x` and of as many axes."""
    return parameter[...].astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class Embedding(Module):
    """A table `[num_embeddings, features]` looked up by integer ids."""

    torch_leaves = {"embedding": TorchLeaf("weight")}

    def __init__(self, num_embeddings: int, features: int, policy: Policy, *, init: Initializer):
        self.dtype = policy.dtype
        self.embedding = param((num_embeddings, features), policy.param_dtype, init)

    @property
    def num_embeddings(self) -> int:
        """Ids are below it."""
        return self.embedding.get_raw_value().shape[0]

    def __call__(self, ids: jax.Array) -> jax.Array:
        # Calls check ids where they can (`nn.inputs`). The default mode makes NaN of those beyond the table, which
        # spread from padding, although it is masked, to the whole row.
        return jnp.take(self.embedding[...], ids, axis=0, mode="clip").astype(self.dtype)


class LearnedPositions(Embedding):
    """Positions from 0 on; the first `offset` rows of their table are not used."""

    def __init__(self, num_positions: int, features: int, policy: Policy, *, offset: int, init: Initializer):
        super().__init__(num_positions + offset, features, policy, init=init)
        self.offset = offset

    @property
    def num_embeddings(self) -> int:
        return super().num_embeddings - self.offset

    def __call__(self, ids: jax.Array) -> jax.Array:
        return super().__call__(ids + self.offset)


def embedding_sizes(words: Any, positions: Any) -> dict[str, int]:
    """The number of words and of their features, and of positions; of what is no `Embedding`, nothing."""
    sizes: dict[str, int] = {}
    if isinstance(words, Embedding):
        sizes |= {"vocab": words.num_embeddings, "features": words.embedding.get_raw_value().shape[1]}
    return sizes | ({"positions": positions.num_embeddings} if isinstance(positions, Embedding) else {})


class SinusoidalPositions(Embedding):
    """A fixed table: sines in the first half of the features, cosines in the second (arXiv 1706.03762).

    It is computed where a checkpoint lacks it, and gets no gradient.
    """

    torch_leaves = {"embedding": TorchLeaf("weight", optional=True, flax_name="")}

    def __init__(self, num_embeddings: int, features: int, policy: Policy):
        super().__init__(num_embeddings, features, policy, init=_sinusoids)

    def __call__(self, ids: jax.Array) -> jax.Array:
        return jax.lax.stop_gradient(super().__call__(ids))


def _sinusoids(key: Any, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
    """The initialiser of `SinusoidalPositions`; computed in float64, as in transformers."""
    positions, features = shape
    wavelengths = 10000.0 ** (np.arange(0, features, 2) / features)
    angles = np.arange(positions)[:, None] / wavelengths[None]
    table = np.concatenate([np.sin(angles), np.cos(angles[:, : features // 2])], axis=1)
    return jnp.asarray(table.astype(np.float32), dtype)


def embed(table: Embedding, input_ids: jax.Array | None, inputs_embeds: jax.Array | None) -> jax.Array:
    """`[batch, len, features]`: the ids looked up, or the embeddings given in their place."""
    if input_ids is not None and inputs_embeds is None:
        return table(input_ids)
    if inputs_embeds is not None and input_ids is None:
        return inputs_embeds.astype(table.dtype)
    raise FlaxModelsError("pass exactly one of input_ids and inputs_embeds")


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
        y = y if self.scale is None else y * _along_last_axis(self.scale, y)
        return _add_bias(y, self.bias).astype(x.dtype)


class RMSNorm(Module):
    """Root-mean-square normalisation over the last axis, in float32 (arXiv 1910.07467).

    `offset` is added to the scale, which is then drawn around it.
    """

    torch_leaves = {"scale": TorchLeaf("weight", flax_name="weight")}

    def __init__(self, features: int, policy: Policy, *, epsilon: float, offset: float = 0.0):
        self.epsilon, self.offset = epsilon, offset
        self.scale = param((features,), policy.param_dtype, zeros if offset else ones)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        scale = _along_last_axis(self.scale, y)
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
        return (shifted + _along_last_axis(self.bias, y)).astype(x.dtype)

    def _move(self, statistic: nnx.BatchStat, value: jax.Array) -> None:
        statistic.set_value(statistic.get_value() * (1 - self.momentum) + jax.lax.stop_gradient(value) * self.momentum)

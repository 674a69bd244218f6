"""Dense layers, and the product of activations and weights that all of them use."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmodels.nn.cpu_products import cpu_product
from flaxmodels.nn.embedding import Embedding
from flaxmodels.nn.initializers import Initializer, zeros
from flaxmodels.nn.module import Module, TorchLeaf, param
from flaxmodels.policy import Policy
from interop.ops import Transpose


def matmul(x: jax.Array, weight: jax.Array, contract: int = 0) -> jax.Array:
    """Activations times weights, in the dtype of `x` with float32 accumulation.

    Args:
        x: `[..., in]`.
        weight: `[in, out]`, or `[out, in]` for `contract=1`.
        contract: the axis of `weight` that is contracted.

    Returns:
        `[..., out]`.
    """
    rows = x.reshape(-1, x.shape[-1])
    on_cpu = cpu_product(rows, weight, contract)
    if on_cpu is None:
        y = _PRODUCTS[contract](rows, weight)
    else:
        y = jax.lax.platform_dependent(rows, weight, cpu=on_cpu, default=_PRODUCTS[contract])
    return y.astype(x.dtype).reshape(*x.shape[:-1], y.shape[-1])


def _product(rows: jax.Array, weight: jax.Array, contract: int) -> jax.Array:
    # [rows, in] x [in, out], or [out, in] if contract is 1 -> float32 [rows, out]
    return jax.lax.dot_general(rows, weight, (((1,), (contract,)), ((), ())), preferred_element_type=jnp.float32)


_PRODUCTS = tuple(partial(_product, contract=axis) for axis in (0, 1))
"""By the axis of the weights that is contracted; made once, as JAX traces the same function once."""


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
        return add_bias(matmul(x.astype(self.dtype), self.kernel[...].astype(self.dtype)), self.bias)


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
        return add_bias(y, self.bias)


def vocabulary_projection(
    table: Embedding, policy: Policy, *, tied: bool, init: Initializer, bias: nnx.Param | None = None
) -> Linear | TiedLinear:
    """From features to a score for each id of `table`, whose parameter is shared if `tied`.

    With a `bias` a tied projection adds it, and another one has a bias of its own.
    """
    if tied:
        return TiedLinear(table.embedding, policy, bias=bias)
    vocab, features = table.embedding.get_raw_value().shape
    return Linear(features, vocab, policy, use_bias=bias is not None, init=init)


def add_bias(y: jax.Array, bias: nnx.Param | None) -> jax.Array:
    """`y` `[..., features]` plus the bias `[features]`, if there is one."""
    return y if bias is None else y + along_last_axis(bias, y)


def along_last_axis(parameter: nnx.Param, x: jax.Array) -> jax.Array:
    """A `[features]` parameter in the dtype of `x` and of as many axes."""
    return parameter[...].astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))

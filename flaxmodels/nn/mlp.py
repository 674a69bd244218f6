"""The feed-forward network of a transformer, as it was first described (arXiv 1706.03762)."""

from __future__ import annotations

import jax

from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.dropout import dropout
from flaxmodels.nn.initializers import Initializer
from flaxmodels.nn.module import Module
from flaxmodels.policy import Policy


class MLP(Module):
    """Two dense layers with an activation and dropout between them, `[..., features]` to `[..., inner]` and back.

    `names` are those of the layers, which architectures call differently.
    """

    def __init__(
        self,
        features: int,
        inner: int,
        policy: Policy,
        *,
        activation: str,
        names: tuple[str, str] = ("fc1", "fc2"),
        layer: type[Linear] = Linear,
        dropout_rate: float = 0.0,
        init: Initializer,
        out_init: Initializer | None = None,
    ):
        self.activation, self.dropout_rate = get_activation(activation), dropout_rate
        self.names = names
        setattr(self, names[0], layer(features, inner, policy, init=init))
        setattr(self, names[1], layer(inner, features, policy, init=out_init or init))

    def __call__(self, x: jax.Array, dropout_rng: jax.Array | None = None) -> jax.Array:
        first, second = (getattr(self, name) for name in self.names)
        return second(dropout(self.activation(first(x)), self.dropout_rate, dropout_rng))


class GatedMLP(Module):
    """`down(act(gate(x)) * up(x))`, `[..., features]` to `[..., inner]` and back (SwiGLU, arXiv 2002.05202)."""

    def __init__(
        self,
        features: int,
        inner: int,
        policy: Policy,
        *,
        activation: str,
        use_bias: bool = False,
        init: Initializer,
    ):
        self.activation = get_activation(activation)
        self.gate_proj = Linear(features, inner, policy, use_bias=use_bias, init=init)
        self.up_proj = Linear(features, inner, policy, use_bias=use_bias, init=init)
        self.down_proj = Linear(inner, features, policy, use_bias=use_bias, init=init)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))

"""The feed-forward network of a transformer, as it was first described (arXiv 1706.03762)."""

from __future__ import annotations

import jax
from jax.nn.initializers import Initializer

from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.dropout import dropout
from flaxmodels.nn.linear import Linear
from flaxmodels.nn.module import Module
from flaxmodels.nn.policy import Policy


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

"""The feed-forward network of a transformer, as it was first described (arXiv 1706.03762)."""

from __future__ import annotations

import jax
from jax.nn.initializers import Initializer

from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.linear import Linear
from flaxmodels.nn.module import Module
from flaxmodels.nn.policy import Policy


class MLP(Module):
    """Two dense layers with an activation between them, `[..., features]` to `[..., inner]` and back.

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
        init: Initializer,
        out_init: Initializer | None = None,
    ):
        self.activation, self.first, self.second = get_activation(activation), *names
        setattr(self, self.first, layer(features, inner, policy, init=init))
        setattr(self, self.second, layer(inner, features, policy, init=out_init or init))

    def __call__(self, x: jax.Array) -> jax.Array:
        return getattr(self, self.second)(self.activation(getattr(self, self.first)(x)))

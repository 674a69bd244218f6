"""Activation functions under the names that configurations use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.errors import ConfigError


def _of_jax(x: jax.Array, *, function: str, **options: Any) -> jax.Array:
    """A function of `jax.nn` by its name: some of them cannot be pickled, and models hold activation functions."""
    return getattr(jax.nn, function)(x, **options)


def quick_gelu(x: jax.Array) -> jax.Array:
    """`x * sigmoid(1.702 x)` (arXiv 1606.08415)."""
    return x * jax.nn.sigmoid(1.702 * x)


def linear(x: jax.Array) -> jax.Array:
    """`x` itself."""
    return x


def relu2(x: jax.Array) -> jax.Array:
    """The square of `max(x, 0)` (arXiv 2109.08668)."""
    return jnp.square(jax.nn.relu(x))


_EXACT_GELU = partial(_of_jax, function="gelu", approximate=False)
_TANH_GELU = partial(_of_jax, function="gelu", approximate=True)

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": _EXACT_GELU,
    "gelu_new": _TANH_GELU,
    "gelu_pytorch_tanh": _TANH_GELU,
    "gelu_fast": _TANH_GELU,
    "quick_gelu": quick_gelu,
    "linear": linear,
    "mish": partial(_of_jax, function="mish"),
    "relu": partial(_of_jax, function="relu"),
    "relu2": relu2,
    "sigmoid": partial(_of_jax, function="sigmoid"),
    "silu": partial(_of_jax, function="silu"),
    "swish": partial(_of_jax, function="silu"),
    "tanh": partial(_of_jax, function="tanh"),
}


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
    """`cap * tanh(x / cap)` of any shape (arXiv 2408.00118), or `x` if there is no cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def get_activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The activation called `name`.

    Raises:
        ConfigError: there is none.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"activation {name!r} is not known: expected one of {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]

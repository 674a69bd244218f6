"""The initialisers of `jax.nn.initializers` that models use, as objects that can be pickled and compared.

Each is called as `init(key, shape, dtype)`. Those of JAX are closures, of which a pickle knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax.nn.initializers import ones, zeros

__all__ = [
    "Initializer",
    "constant",
    "he_normal",
    "lecun_normal",
    "normal",
    "ones",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_uniform",
    "zeros",
]

Initializer = Callable[..., jax.Array]


@dataclass(frozen=True)
class _JaxInitializer:
    """The initialiser that a function of `jax.nn.initializers` makes of these arguments."""

    function: str
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return _initialised(self, key, shape, dtype)


@partial(jax.jit, static_argnums=(0, 2, 3))
def _initialised(init: _JaxInitializer, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """One program for what JAX would do in several."""
    make = getattr(jax.nn.initializers, init.function)
    return make(*init.arguments, **dict(init.options))(key, shape, dtype)


def normal(stddev: float) -> Initializer:
    """Normal values of mean 0."""
    return _JaxInitializer("normal", (stddev,))


def truncated_normal(stddev: float, *, lower: float = -2.0, upper: float = 2.0) -> Initializer:
    """Normal values of mean 0, sampled between `lower` and `upper` and then multiplied by `stddev`."""
    return _JaxInitializer("truncated_normal", (stddev,), (("lower", lower), ("upper", upper)))


def uniform(scale: float) -> Initializer:
    """Values from 0 to `scale`."""
    return _JaxInitializer("uniform", (scale,))


def constant(value: float) -> Initializer:
    """`value` everywhere."""
    return _JaxInitializer("constant", (value,))


def variance_scaling(scale: float, mode: str, distribution: str) -> Initializer:
    """Values whose variance is `scale` by the number of inputs, outputs or both, as in `jax.nn.initializers`."""
    return _JaxInitializer("variance_scaling", (scale, mode, distribution))


def he_normal() -> Initializer:
    """Truncated normal values of variance 2 by the number of inputs (arXiv 1502.01852)."""
    return _JaxInitializer("he_normal")


def lecun_normal() -> Initializer:
    """Truncated normal values of variance 1 by the number of inputs."""
    return _JaxInitializer("lecun_normal")


def xavier_uniform() -> Initializer:
    """Uniform values of variance 2 by the number of inputs and outputs."""
    return _JaxInitializer("xavier_uniform")

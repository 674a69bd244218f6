"""Products of activations and weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels.nn.linear import matmul


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("contract", [0, 1])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_matmul_accumulates_in_float32(rows, contract, dtype):
    """A sum of a thousand ones: bfloat16 would not count beyond 256, float16 would lose the quarter."""
    x = jnp.ones((rows, 1000), dtype).at[:, 0].set(0.25)
    weight = jnp.ones((7, 1000), dtype)
    y = matmul(x, weight if contract else weight.T, contract)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, np.full((rows, 7), 999.25).astype(dtype))
    gradient = jax.grad(lambda x: matmul(x, weight if contract else weight.T, contract).astype(jnp.float32).sum())(x)
    np.testing.assert_array_equal(gradient, np.full((rows, 1000), 7).astype(dtype))

"""Products of activations and weights."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxmodels.nn.cpu_products import FOLDS, MIN_FOLDED
from flaxmodels.nn.dense import matmul


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


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("contract", [0, 1])
@pytest.mark.parametrize("features", [1000, 1001])
def test_products_of_one_row(features, contract, dtype):
    """With matrices that are large enough to be folded, if their number of features can be divided."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((1, 1, features)), dtype)
    weight = jnp.asarray(rng.standard_normal((features, 70) if contract == 0 else (70, features)), dtype)
    exact_x, exact_weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    matrix = exact_weight if contract == 0 else exact_weight.T
    assert weight.size >= MIN_FOLDED

    y, pull_back = jax.vjp(lambda x, weight: matmul(x, weight, contract), x, weight)
    error = 2 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(y, np.float64), exact_x @ matrix, rtol=error, atol=5e-4)
    given = jnp.asarray(rng.standard_normal(y.shape), dtype)
    to_x, to_weight = pull_back(given)
    np.testing.assert_allclose(np.asarray(to_x, np.float64), given @ matrix.T, rtol=0, atol=40 * error)
    outer = exact_x[0].T @ np.asarray(given[0], np.float64)
    np.testing.assert_allclose(
        np.asarray(to_weight, np.float64), outer if contract == 0 else outer.T, rtol=error, atol=error
    )
    batch = jax.vmap(lambda row: matmul(row, weight, contract))(jnp.concatenate([x, 2 * x]))
    np.testing.assert_allclose(batch[1], 2 * y[0], rtol=error, atol=5e-4)


@pytest.mark.parametrize(("rows", "features", "folded"), [(1, 1000, True), (1, 1001, False), (2, 1000, False)])
def test_one_row_is_not_multiplied_by_the_whole_matrix(rows, features, folded):
    program = jax.jit(matmul).trace(jnp.ones((rows, features)), jnp.ones((features, 70)))
    text = program.lower(lowering_platforms=("cpu",)).as_text()
    lengths = re.findall(r"dot_general .*, tensor<(\d+)x70xf32>\)", text)
    assert lengths == [str(features // FOLDS if folded else features)]


@pytest.mark.parametrize("spec", [P("model"), P(None, "model"), P("data", "model")], ids=str)
def test_one_row_and_a_matrix_on_several_devices(spec):
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, 1024), (1024, 72)))
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))
    sharded = jax.device_put(weight, NamedSharding(mesh, spec))
    y = jax.jit(matmul)(jax.device_put(x, NamedSharding(mesh, P())), sharded)
    np.testing.assert_allclose(y, np.float64(x) @ weight, atol=1e-4)


@pytest.mark.parametrize("contract", [0, 1])
def test_a_loop_keeps_no_float32_copy_of_a_matrix(contract):
    """XLA would move its conversion out of the loop, where it takes twice the memory of the matrix."""
    weight = jnp.ones((1024, 1024), jnp.bfloat16)
    steps = jax.jit(lambda x, w: jax.lax.fori_loop(0, 3, lambda _, x: matmul(x, w, contract) * 0.1, x))
    memory: Any = steps.lower(jnp.ones((1, 1024), jnp.bfloat16), weight).compile().memory_analysis()
    assert memory.temp_size_in_bytes < weight.nbytes

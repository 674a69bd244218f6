"""Stochastic depth."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels.nn.dropout import drop_path


@pytest.mark.parametrize("rate", [0.25, jnp.float32(0.25)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_whole_rows_are_dropped_and_the_mean_is_kept(rate, dtype):
    dropped = drop_path(jnp.full((1000, 2, 3), 3.0, dtype), rate, jax.random.key(0))
    assert dropped.dtype == dtype
    rows = np.asarray(dropped, np.float32).reshape(1000, -1)
    assert (rows == rows[:, :1]).all()
    assert set(np.unique(rows)) == {0.0, 4.0}
    assert abs(rows.mean() - 3.0) < 0.15


def test_nothing_is_dropped_without_a_key_or_at_rate_zero():
    x = jnp.arange(6.0).reshape(3, 2)
    assert drop_path(x, 0.5, None) is x
    assert drop_path(x, 0.0, jax.random.key(0)) is x
    assert jnp.array_equal(drop_path(x, jnp.float32(0.0), jax.random.key(0)), x)

"""Linear biases of attention, and the positions that they are made of, beside transformers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from flaxmodels.nn.alibi import alibi_bias, alibi_slopes
from flaxmodels.nn.masks import token_positions

MASK = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 7, 8, 12, 25, 112])
def test_biases_equal_transformers(heads):
    expected = build_alibi_tensor(torch.from_numpy(MASK), heads, torch.float32).reshape(3, heads, 1, 5)
    bias = alibi_bias(heads, token_positions(jnp.asarray(MASK), jnp.arange(5)))
    assert bias.dtype == jnp.float32
    there = np.broadcast_to(MASK[:, None, None, :], bias.shape).astype(bool)
    np.testing.assert_allclose(np.asarray(bias)[there], expected.numpy()[there], rtol=1e-6)


def test_slopes_of_the_paper():
    np.testing.assert_allclose(alibi_slopes(8), 2.0 ** -np.arange(1, 9))


def test_positions_count_tokens_alone():
    positions = jnp.arange(1, 8)
    expected = [[1, 2, 3, 4, 5, 6, 7], [-1, 0, 1, 2, 3, 4, 5], [1, 2, -1, -1, 3, 4, 5]]
    np.testing.assert_array_equal(token_positions(jnp.asarray(MASK), positions), expected)
    np.testing.assert_array_equal(token_positions(jnp.asarray(MASK, bool), positions), expected)
    np.testing.assert_array_equal(token_positions(None, positions), [np.arange(1, 8)])

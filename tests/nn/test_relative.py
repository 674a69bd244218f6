"""Buckets of relative positions, beside those of transformers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder
from transformers.models.t5.modeling_t5 import T5Attention

from flaxmodels.nn.relative import relative_buckets


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (32, 20), (18, 67), (64, 256)])
def test_buckets_are_those_of_t5(bidirectional, buckets, max_distance):
    relative = np.arange(-900, 900).reshape(18, -1)
    settings = {"bidirectional": bidirectional, "max_distance": max_distance}
    found = relative_buckets(jnp.asarray(relative), buckets=buckets, **settings)
    expected = T5Attention._relative_position_bucket(torch.tensor(relative), num_buckets=buckets, **settings)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


def test_buckets_are_those_of_mpnet():
    relative = np.arange(-300, 301)
    found = relative_buckets(jnp.asarray(relative), bidirectional=True, buckets=32, max_distance=128)
    np.testing.assert_array_equal(found, MPNetEncoder.relative_position_bucket(torch.tensor(relative)))

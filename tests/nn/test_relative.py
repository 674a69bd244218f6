"""Buckets of distances, beside those of transformers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from flaxmodels.nn.relative import relative_buckets

POSITIONS = np.arange(-700, 701)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("buckets", [4, 5, 8, 31, 32, 64, 128])
@pytest.mark.parametrize("max_distance", [65, 100, 128, 512])
def test_every_distance_is_in_the_bucket_of_torch(bidirectional, buckets, max_distance):
    ours = relative_buckets(
        jnp.asarray(POSITIONS), bidirectional=bidirectional, buckets=buckets, max_distance=max_distance
    )
    theirs = T5Attention._relative_position_bucket(torch.tensor(POSITIONS), bidirectional, buckets, max_distance)
    assert ours.dtype == jnp.int32
    np.testing.assert_array_equal(ours, theirs.numpy())


def test_distances_as_the_paper_has_them():
    found = relative_buckets(
        jnp.array([[0, -1, -7, -8, -11, -12, -500, 3]]), bidirectional=False, buckets=16, max_distance=32
    )
    np.testing.assert_array_equal(found, [[0, 1, 7, 8, 9, 10, 15, 0]])

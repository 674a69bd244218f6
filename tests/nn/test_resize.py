"""Resizing beside that of torch."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from models.comparisons import assert_close

from flaxmodels.nn.resize import resize_bicubic


@pytest.mark.parametrize("size", [(5, 7), (9, 4), (1, 1), (13, 20), (2, 7)])
@pytest.mark.parametrize("new_size", [(5, 7), (3, 11), (1, 2), (16, 5)])
def test_bicubic_is_that_of_torch(size, new_size):
    image = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(0, 3, 1, 2), size=new_size, mode="bicubic", align_corners=False
    )
    assert_close(resize_bicubic(jnp.asarray(image), *new_size), theirs.permute(0, 2, 3, 1), 1e-5)

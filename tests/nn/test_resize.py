"""Resizing beside torch's `interpolate`, up and down, means of parts, and shuffling pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models.comparisons import assert_close

from flaxmodels.nn.conv import pixel_shuffle
from flaxmodels.nn.resize import pool_adaptively, resize_bicubic, resize_bilinear

IMAGE = np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype(np.float32)
LAST = np.moveaxis(IMAGE, 1, -1)


SIZES = [(5, 7), (7, 5), (11, 16), (2, 3), (1, 1), (5, 40)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("ours", "mode"), [(resize_bicubic, "bicubic"), (resize_bilinear, "bilinear")])
def test_a_resized_image_is_that_of_torch(ours, mode, size):
    expected = torch.nn.functional.interpolate(torch.from_numpy(IMAGE), size, mode=mode, align_corners=False)
    found = ours(LAST, *size)
    assert found.dtype == "float32"
    assert_close(found, np.moveaxis(expected.numpy(), 1, -1), 1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_a_pooled_image_is_that_of_torch(size):
    expected = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(IMAGE), size)
    assert_close(pool_adaptively(LAST, *size), np.moveaxis(expected.numpy(), 1, -1), 1e-6)


def test_half_precision_is_rounded_at_the_end():
    rounded = LAST.astype("bfloat16")
    exact = resize_bicubic(rounded.astype(np.float32), 9, 8)
    found = resize_bicubic(rounded, 9, 8)
    assert found.dtype == "bfloat16"
    assert np.array_equal(found, exact.astype("bfloat16"))


def test_shuffled_pixels_are_those_of_torch():
    blocks = np.random.default_rng(0).normal(size=(2, 3 * 4, 5, 7)).astype(np.float32)
    expected = torch.nn.functional.pixel_shuffle(torch.from_numpy(blocks), 2).numpy()
    assert np.array_equal(pixel_shuffle(np.moveaxis(blocks, 1, -1), 2), np.moveaxis(expected, 1, -1))

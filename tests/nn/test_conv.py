"""Convolutions beside those of torch, from torch's weights."""

from __future__ import annotations

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from models.comparisons import assert_close

from flaxmodels.errors import FlaxModelsError
from flaxmodels.nn.conv import Conv1d, Conv2d, ConvTranspose2d, WeightNormConv1d, channels_last
from flaxmodels.nn.initializers import zeros
from flaxmodels.nn.leaves import iter_leaves
from flaxmodels.parameters import init_values
from flaxmodels.policy import Policy
from interop.ops import Op, chain_shapes, full_index, read_chain

CASES = [
    (Conv1d, torch.nn.Conv1d, {"kernel_size": 3, "stride": 2, "padding": 1}),
    (Conv1d, torch.nn.Conv1d, {"kernel_size": 4, "groups": 2, "bias": False}),
    (Conv2d, torch.nn.Conv2d, {"kernel_size": 3, "padding": 2}),
    (Conv2d, torch.nn.Conv2d, {"kernel_size": (2, 5), "stride": (3, 1), "padding": (0, 2), "groups": 6}),
    (ConvTranspose2d, torch.nn.ConvTranspose2d, {"kernel_size": 2, "stride": 2}),
    (ConvTranspose2d, torch.nn.ConvTranspose2d, {"kernel_size": 5, "stride": 2}),
    (ConvTranspose2d, torch.nn.ConvTranspose2d, {"kernel_size": 2, "stride": 3}),
]


def moved(value: np.ndarray, ops: Sequence[Op]) -> np.ndarray:
    """A tensor of torch in our layout."""
    (shape,) = chain_shapes(ops, [value.shape])
    return read_chain(ops, 0, full_index(shape), [value.shape], lambda _, index: value[index])


@pytest.mark.parametrize(("ours", "theirs", "options"), CASES, ids=str)
def test_a_convolution_is_that_of_torch(ours, theirs, options):
    torch.manual_seed(0)
    reference = theirs(6, 12, **options)
    own = {"use_" * (name == "bias") + name: value for name, value in options.items()}
    layer = ours(6, 12, policy=Policy(), init=zeros, **own)
    for leaf in iter_leaves(layer):
        value = moved(getattr(reference, leaf.torch.name).detach().numpy(), leaf.torch.ops)
        assert value.shape == leaf.variable.get_raw_value().shape
        leaf.variable.set_value(jnp.asarray(value))
    x = np.random.default_rng(0).normal(size=(2, 6, *(9, 13)[: len(layer.axes)])).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(x)).numpy()
    assert_close(layer(jnp.moveaxis(x, 1, -1)), np.moveaxis(expected, 1, -1), 1e-5)


def test_a_normalised_convolution_is_that_of_torch():
    torch.manual_seed(0)
    reference = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(6, 12, 4, padding=2, groups=3), dim=2)
    layer = WeightNormConv1d(6, 12, 4, Policy(), padding=2, groups=3, stddev=0.5)
    tensors = dict(reference.named_parameters())
    initial = init_values(layer, jax.random.key(0))
    for leaf in iter_leaves(layer):
        tensor = tensors.pop(leaf.torch.name).detach().normal_()
        leaf.variable.set_value(jnp.asarray(moved(tensor.numpy(), leaf.torch.ops)))
    assert not tensors
    x = np.random.default_rng(0).normal(size=(2, 6, 9)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(x)).numpy()
    assert_close(layer(jnp.moveaxis(x, 1, -1)), np.moveaxis(expected, 1, -1), 1e-5)
    norms = jnp.sqrt(jnp.square(initial["kernel"]).sum((1, 2)))
    np.testing.assert_allclose(initial["scale"][:, 0, 0], norms, rtol=0.5)


def test_images_in_both_layouts():
    image = jnp.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert jnp.array_equal(channels_last(image, 3), jnp.moveaxis(image, 1, -1))
    assert jnp.array_equal(channels_last(jnp.moveaxis(image, 1, -1), 3), jnp.moveaxis(image, 1, -1))
    expected = "pixel_values: expected [batch, 7, height, width] or [batch, height, width, 7], got (2, 3, 4, 5)"
    with pytest.raises(FlaxModelsError, match=f"^{re.escape(expected)}$"):
        channels_last(image, 7)

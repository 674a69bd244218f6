"""What training needs of every architecture beside gradients: dropout, and half precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from models.comparisons import assert_close
from models.tiny_configs import FIRSTS, OWN, PREDICTING, for_cases
from models.torch_reference import at_tokens, flat_outputs, inputs_for, to_torch

from flaxmodels.errors import FlaxModelsError
from flaxmodels.nn.dropout import dropout


@for_cases(
    [case for case in OWN if case.family.has_dropout],
    exhaustive=[case for case in FIRSTS if case.family.has_dropout],
)
def test_dropout_depends_on_its_key_alone(case, model, reference):
    inputs = inputs_for(case)

    def values(outputs):
        found = (at_tokens(np.asarray(value), inputs.get("attention_mask")) for _, value in flat_outputs(outputs))
        return np.concatenate([value.ravel() for value in found])

    keys = [jax.random.key(seed) for seed in (0, 0, 1)]
    first, again, other = (values(model(**inputs, train=True, dropout_rng=key)) for key in keys)
    with torch.no_grad():
        undropped = values(reference(**to_torch(inputs)))
    np.testing.assert_array_equal(first, again)
    for left, right in ((first, other), (first, undropped), (other, undropped)):
        assert np.isclose(left, right, rtol=1e-3, atol=1e-4).mean() < 0.5
    with pytest.raises(FlaxModelsError, match=r"^train=True needs dropout_rng=, a key such as jax.random.key\(0\); "):
        model(**inputs, train=True)


def test_dropout_keeps_the_mean():
    dropped = np.asarray(dropout(jnp.full((100, 100), 3.0), 0.25, jax.random.key(0)))
    assert set(np.unique(dropped)) == {0.0, 4.0}
    assert abs(dropped.mean() - 3.0) < 0.1


@for_cases([case for first, case in zip(FIRSTS, PREDICTING, strict=True) if first in OWN], exhaustive=PREDICTING)
def test_half_precision_is_close(case, reference, folder):
    inputs = inputs_for(case)
    half = case.ours.from_pretrained(folder, torch_dtype="bfloat16")
    with torch.no_grad():
        exact = dict(flat_outputs(reference(**to_torch(inputs))))
    for name, value in flat_outputs(half(**inputs)):
        assert value.dtype == "bfloat16"
        rounded, full = (at_tokens(np.asarray(array), inputs.get("attention_mask")) for array in (value, exact[name]))
        assert_close(rounded, full, case.family.half_tolerance, name)

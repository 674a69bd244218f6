"""What training needs of every architecture: gradients, dropout, half precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from models.comparisons import assert_close
from models.tiny_configs import DISTINCT, FIRSTS, HEADS
from models.torch_reference import at_tokens, flat_outputs, inputs_for, to_torch, torch_state

from flaxmodels.errors import FlaxModelsError
from flaxmodels.nn.dropout import dropout

PREDICTING = [case for case in HEADS if "LM" in case.head and case not in FIRSTS]


@pytest.fixture(scope="module", params=[case for case in DISTINCT if case in HEADS], ids=str)
def case(request):
    return request.param


def test_gradients_are_those_of_torch(case, model, reference):
    inputs = inputs_for(case)

    def loss(outputs):
        """The mean square of all outputs at tokens; of torch tensors and of jax arrays."""
        return sum((at_tokens(value, inputs.get("attention_mask")) ** 2).mean() for _, value in flat_outputs(outputs))

    reference.zero_grad()
    loss(reference(**to_torch(inputs))).backward()
    gradients = jax.jit(jax.grad(lambda params: loss(model(**inputs, params=params))))(model.params)
    ours = model.state_dict(gradients)
    tensors = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in reference.named_parameters(remove_duplicate=False)
    }
    for name, theirs in torch_state(reference, tensors).items():
        scale = max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(ours[name], theirs, rtol=1e-4, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("case", FIRSTS, ids=str, indirect=True)
def test_dropout_depends_on_its_key_alone(case, model):
    if not case.family.has_dropout:
        pytest.skip("nothing is dropped")
    inputs = inputs_for(case)

    def outputs(**kwargs):
        return jnp.concatenate([value.ravel() for _, value in flat_outputs(model(**inputs, **kwargs))])

    first, again, other = (outputs(train=True, dropout_rng=jax.random.key(seed)) for seed in (0, 0, 1))
    still = outputs()
    assert jnp.array_equal(first, again)
    for left, right in ((first, other), (first, still), (other, still)):
        assert (left != right).mean() > 0.5
    with pytest.raises(FlaxModelsError, match=r"^train=True needs dropout_rng=, a key such as jax.random.key\(0\); "):
        model(**inputs, train=True)


def test_dropout_keeps_the_mean():
    dropped = np.asarray(dropout(jnp.full((100, 100), 3.0), 0.25, jax.random.key(0)))
    assert set(np.unique(dropped)) == {0.0, 4.0}
    assert abs(dropped.mean() - 3.0) < 0.1


@pytest.mark.parametrize("case", FIRSTS + PREDICTING, ids=str, indirect=True)
def test_half_precision_is_close(case, model, folder):
    inputs = inputs_for(case)
    half = case.ours.from_pretrained(folder, torch_dtype="bfloat16")
    exact = dict(flat_outputs(model(**inputs)))
    for name, value in flat_outputs(half(**inputs)):
        assert value.dtype == "bfloat16"
        rounded, full = (at_tokens(np.asarray(array), inputs.get("attention_mask")) for array in (value, exact[name]))
        assert_close(rounded, full, case.family.half_tolerance, name)

"""The numbers of every architecture beside those of its counterpart in transformers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from models.tiny_configs import CASES
from models.torch_reference import (
    MASK,
    assert_close,
    assert_same_outputs,
    at_tokens,
    flat_outputs,
    inputs_for,
    to_torch,
)


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    return request.param


def test_outputs_hidden_states_and_attentions(case, model, reference):
    inputs = inputs_for(case)
    wanted = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        theirs = reference(**to_torch(inputs), **wanted)
    assert_same_outputs(model(**inputs, **wanted), theirs, inputs["attention_mask"])


def test_fused_attention_of_embedded_inputs(case, model, reference):
    inputs = inputs_for(case, embedded=True)
    with torch.no_grad():
        theirs = reference(**to_torch(inputs))
    assert_same_outputs(model(**inputs), theirs, inputs["attention_mask"])


def test_gradients(case, model, reference):
    inputs = inputs_for(case)
    mask = np.asarray(inputs["attention_mask"])

    def loss(outputs):
        """The mean square of all outputs at tokens; of torch tensors and of jax arrays."""
        return sum((at_tokens(value, mask) ** 2).mean() for _, value in flat_outputs(outputs))

    reference.zero_grad()
    loss(reference(**to_torch(inputs))).backward()
    gradients = jax.jit(jax.grad(lambda params: loss(model(**inputs, params=params))))(model.params)
    ours = model.state_dict(gradients)
    theirs = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    scale = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, array in ours.items():
        expected = theirs.get(name, torch.zeros(())).numpy()
        np.testing.assert_allclose(array, np.broadcast_to(expected, array.shape), rtol=1e-4, atol=1e-5 * scale)


def test_decoding_with_a_cache(case, model, reference):
    if not case.is_decoder:
        pytest.skip("an encoder")
    inputs = inputs_for(case)
    rest = {name: value for name, value in inputs.items() if name.startswith("encoder_")}
    ids, types = inputs["input_ids"], inputs.get("token_type_ids")
    cache, past = model.init_cache(len(ids), 11), None
    for start, stop, known in ((0, 4, 4), (4, 5, 7), (5, 7, 7)):
        chunk = {"input_ids": ids[:, start:stop]} | ({} if types is None else {"token_type_ids": types[:, start:stop]})
        ours = model(**chunk, **rest, attention_mask=MASK[:, :known], past_key_values=cache)
        with torch.no_grad():
            mask = torch.from_numpy(MASK[:, :stop])
            theirs = reference(**to_torch(chunk | rest), attention_mask=mask, past_key_values=past, use_cache=True)
        cache, past = ours.past_key_values, theirs.past_key_values
        for name, value in flat_outputs(ours):
            if value.ndim == 3:
                shown = MASK[:, start:stop]
                assert_close(at_tokens(np.asarray(value), shown), at_tokens(theirs[name].numpy(), shown), 1e-5, name)


def test_half_precision_is_close(case, model, folder):
    inputs = inputs_for(case)
    half = case.ours.from_pretrained(folder, dtype="bfloat16")
    exact = dict(flat_outputs(model(**inputs)))
    for name, value in flat_outputs(half(**inputs)):
        assert value.dtype == jnp.bfloat16
        mask = inputs["attention_mask"]
        assert_close(at_tokens(np.asarray(value), mask), at_tokens(np.asarray(exact[name]), mask), 1e-9, name)

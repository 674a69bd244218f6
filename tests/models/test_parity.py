"""The outputs of every architecture beside those of its counterpart in transformers, in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models.tiny_configs import CASES
from models.torch_reference import (
    MASK,
    assert_same_outputs,
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


@pytest.mark.parametrize("case", [case for case in CASES if case.is_decoder], ids=str, scope="module")
def test_decoding_with_a_cache(case, model, reference):
    inputs = inputs_for(case)
    memory = {name: value for name, value in inputs.items() if name.startswith("encoder_")}
    cache, past = model.init_cache(len(MASK), 11), None
    slots = np.pad(MASK, ((0, 0), (0, 4)), constant_values=1)
    for start, stop in ((0, 3), (3, 6), (6, 7)):
        parts = ("input_ids", "token_type_ids")
        chunk = {name: inputs[name][:, start:stop] for name in parts if name in inputs} | memory
        ours = model(**chunk, attention_mask=slots, past_key_values=cache)
        with torch.no_grad():
            mask = torch.from_numpy(MASK[:, :stop])
            theirs = reference(**to_torch(chunk), attention_mask=mask, past_key_values=past, use_cache=True)
        assert_same_outputs(ours, theirs, MASK[:, start:stop])
        cache, past = ours.past_key_values, theirs.past_key_values

"""The outputs of every architecture beside those of its counterpart in transformers, in float32."""

from __future__ import annotations

import pytest
import torch
from models.tiny_configs import CASES, FIRSTS
from models.torch_reference import assert_same_outputs, everything, inputs_for, to_torch


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    return request.param


def test_outputs_hidden_states_and_attentions(case, model, reference):
    inputs = inputs_for(case)
    wanted = everything(case)
    with torch.no_grad():
        theirs = reference(**to_torch(inputs), **wanted)
    assert_same_outputs(model(**inputs, **wanted), theirs, inputs.get("attention_mask"))


@pytest.mark.parametrize("case", FIRSTS, ids=str, indirect=True)
def test_fused_attention(case, model, reference):
    inputs = inputs_for(case, embedded=True)
    with torch.no_grad():
        theirs = reference(**to_torch(inputs))
    assert_same_outputs(model(**inputs), theirs, inputs.get("attention_mask"))

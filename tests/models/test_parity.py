"""The outputs and gradients of every architecture beside those of its counterpart in transformers, in float32."""

from __future__ import annotations

import torch
from models.tiny_configs import CASES, FIRSTS, OWN, REPEATED, WITH_EACH_HEAD, for_cases
from models.torch_reference import (
    assert_same_outputs,
    assert_same_outputs_and_gradients,
    everything,
    inputs_for,
    to_torch,
)


@for_cases([case for case in CASES if case not in WITH_EACH_HEAD + REPEATED], exhaustive=REPEATED)
def test_outputs_hidden_states_and_attentions(case, model, reference):
    """The first class of each family takes embeddings in place of ids."""
    inputs, wanted = inputs_for(case, embedded=case in FIRSTS), everything(case)
    with torch.no_grad():
        theirs = reference(**to_torch(inputs), **wanted)
    assert_same_outputs(model(**inputs, **wanted), theirs, inputs.get("attention_mask"))


@for_cases(WITH_EACH_HEAD)
def test_outputs_and_gradients_of_every_head(case, model, reference):
    assert_same_outputs_and_gradients(model, reference, inputs_for(case), everything(case))


@for_cases(OWN, exhaustive=FIRSTS)
def test_outputs_and_gradients_of_fused_attention(case, model, reference):
    assert_same_outputs_and_gradients(model, reference, inputs_for(case), {})

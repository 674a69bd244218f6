"""Every architecture beside its counterpart in transformers: numbers, files, gradients, decoding."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from models.tiny_configs import CASES
from models.torch_reference import assert_same_outputs, inputs_for, to_torch, torch_model


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def reference(case):
    return torch_model(case)


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("torch")
    reference.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(case, folder):
    return case.ours.from_pretrained(folder)


def test_all_hidden_states_attentions_and_outputs(case, model, reference):
    inputs = inputs_for(case)
    wanted = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        theirs = reference(**to_torch(inputs), **wanted)
    assert_same_outputs(model(**inputs, **wanted), theirs, inputs["attention_mask"])


def test_fused_attention_and_embedded_inputs(case, model, reference):
    inputs = inputs_for(case, embedded=True)
    with torch.no_grad():
        theirs = reference(**to_torch(inputs))
    assert_same_outputs(model(**inputs), theirs, inputs["attention_mask"])

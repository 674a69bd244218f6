"""Every decoder in chunks, with a cache, beside its counterpart in transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models.tiny_configs import CASES
from models.torch_reference import MASK, assert_same_outputs, inputs_for, to_torch


@pytest.fixture(scope="module", params=[case for case in CASES if case.is_decoder], ids=str)
def case(request):
    return request.param


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

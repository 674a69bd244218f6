"""Every decoder, some tokens at a time with a cache, beside its counterpart in transformers."""

from __future__ import annotations

import numpy as np
import torch
from models.family import MASK
from models.tiny_configs import CASES, for_cases
from models.torch_reference import assert_same_outputs, inputs_for, to_torch


@for_cases(case for case in CASES if case.is_decoder)
def test_decoding_with_a_cache(case, model, reference):
    inputs = inputs_for(case)
    of_encoder = {name: value for name, value in inputs.items() if name.startswith("encoder_")}
    cache, past = model.init_cache(len(MASK), 11), None
    whole_mask = np.pad(MASK, ((0, 0), (0, 4)), constant_values=1)
    for start, stop in ((0, 3), (3, 6), (6, 7)):
        parts = ("input_ids", "token_type_ids")
        given = {name: inputs[name][:, start:stop] for name in parts if name in inputs} | of_encoder
        ours = model(**given, attention_mask=whole_mask, past_key_values=cache)
        with torch.no_grad():
            mask = torch.from_numpy(MASK[:, :stop])
            theirs = reference(**to_torch(given), attention_mask=mask, past_key_values=past, use_cache=True)
        assert_same_outputs(ours, theirs, MASK[:, start:stop])
        cache, past = ours.past_key_values, theirs.past_key_values

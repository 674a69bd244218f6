"""Stacked layers: the same file, the same numbers, the same file back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models.comparisons import same_params
from models.tiny_configs import CASES, FIRSTS, HEADS, LAYERS, for_cases
from models.torch_reference import (
    assert_same_outputs,
    assert_same_outputs_and_gradients,
    everything,
    inputs_for,
    tensors_in,
    to_torch,
)

from flaxmodels.checkpoint.mapping import checkpoint_spec
from flaxmodels.errors import ConfigError

MIXED = [case for case in CASES if case.name.rpartition("-")[2] in case.family.unequal]
KINDS = ("Albert", "Bert", "Llama", "Mixtral", "ModernBert", "T5", "ViT", "Whisper")
STACKS = [case for case in FIRSTS if case.head.removesuffix("Model") in KINDS]
"""One of each kind of stack."""
BY_NUMBER = {
    "BeitBackbone-flat",
    "BeitModel-shared",
    "Dinov2Backbone-flat",
    "GPT2LMHeadModel-by-layer",
    "GPT2Model-crossed-by-layer",
    "GptOssForCausalLM-unbiased",
    "ModernBertModel-layers",
    "Qwen2ForCausalLM-windows",
    "Qwen3MoeForCausalLM-windows",
    "SmolLM3ForCausalLM-windows",
    "WhisperForAudioClassification-all-layers",
    "Wav2Vec2ForCTC-stable",
}
"""Variants in which what a layer does, or what becomes of its output, depends on its number."""
SCANNED = [case for case in LAYERS if case in FIRSTS or case.name in BY_NUMBER]


@for_cases(SCANNED, exhaustive=[case for case in LAYERS if case not in SCANNED + MIXED])
def test_scanned_layers_equal_those_of_torch(case, folder, reference):
    inputs, wanted = inputs_for(case), everything(case)
    with torch.no_grad():
        theirs = reference(**to_torch(inputs), **wanted)
    scanned = case.ours.from_pretrained(folder, scan_layers=True)
    assert_same_outputs(scanned(**inputs, **wanted), theirs, inputs.get("attention_mask"))


@for_cases(FIRSTS, exhaustive=[case for case in HEADS if case not in FIRSTS + MIXED])
def test_scanned_layers_save_the_same_file(case, folder, tmp_path):
    case.ours.from_pretrained(folder, scan_layers=True).save_pretrained(tmp_path)
    assert same_params(tensors_in(tmp_path), tensors_in(folder))


@for_cases(STACKS, exhaustive=[case for case in FIRSTS if case not in STACKS])
def test_scanned_and_unrolled_layers_have_the_same_initial_values(case):
    config = case.ours.config_class(**case.values)
    unrolled, scanned = (case.ours(config, seed=3, scan_layers=scan).state_dict() for scan in (False, True))
    assert unrolled.keys() == scanned.keys()
    for name in unrolled:
        np.testing.assert_array_equal(unrolled[name], scanned[name])


@for_cases(STACKS)
def test_rematerialised_gradients_are_the_same(case, folder, reference):
    model = case.ours.from_pretrained(folder, remat="full")
    assert_same_outputs_and_gradients(model, reference, inputs_for(case), {})


@for_cases(case for case in HEADS if case not in MIXED)
def test_the_mapping_is_a_bijection_of_all_layers(case):
    config = case.ours.config_class(**case.values)
    tables = [checkpoint_spec(case.ours.abstract(config, scan_layers=scan)).rules for scan in (False, True)]
    names = [sorted(name for rule in rules for name in rule.sources) for rules in tables]
    assert names[0] == names[1]


@for_cases(MIXED)
def test_layers_of_several_kinds_are_not_scanned(case):
    message = "scan_layers=True stacks equal layers, and this model has several kinds: leave it out"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        case.ours.abstract(dict(case.values), scan_layers=True)

"""Stacked layers: the same file, the same numbers, the same file back."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from models.comparisons import assert_close
from models.tiny_configs import CASES, FIRSTS, HEADS, LAYERS
from models.torch_reference import everything, inputs_for, tensors_in

from flaxmodels.checkpoint.mapping import wanted
from flaxmodels.errors import ConfigError

MIXED = [case for case in CASES if case.name.rpartition("-")[2] in case.family.unequal]
KINDS = ("Albert", "Bert", "Llama", "Mixtral", "ModernBert", "T5", "ViT", "Whisper")
STACKS = [case for case in FIRSTS if case.head.removesuffix("Model") in KINDS]
"""One of each kind of stack."""
EQUAL = [case for case in LAYERS if case not in MIXED]


@pytest.fixture(params=[case for case in HEADS if case not in MIXED], ids=str, scope="module")
def case(request):
    return request.param


@pytest.mark.parametrize("case", EQUAL, ids=str, indirect=True)
def test_scanned_equals_unrolled(case, folder, model):
    scanned, inputs = case.ours.from_pretrained(folder, scan_layers=True), inputs_for(case)
    expected, found = (each(**inputs, **everything(case)) for each in (model, scanned))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(ours, theirs, 1e-5)


def test_scanned_layers_save_the_same_file(case, folder, tmp_path):
    case.ours.from_pretrained(folder, scan_layers=True).save_pretrained(tmp_path)
    original, saved = tensors_in(folder), tensors_in(tmp_path)
    assert original.keys() == saved.keys()
    assert all(original[name].tobytes() == saved[name].tobytes() for name in saved)


@pytest.mark.parametrize("case", FIRSTS, ids=str, indirect=True)
def test_scanned_and_unrolled_draw_the_same_parameters(case):
    config = case.ours.config_class(**case.values)
    unrolled, scanned = (case.ours(config, seed=3, scan_layers=scan).state_dict() for scan in (False, True))
    assert unrolled.keys() == scanned.keys()
    for name in unrolled:
        np.testing.assert_array_equal(unrolled[name], scanned[name])


@pytest.mark.parametrize("case", STACKS, ids=str, indirect=True)
def test_rematerialised_gradients_are_the_same(case, folder, model):
    inputs = inputs_for(case)

    def gradients(model):
        def loss(params):
            outputs = jax.tree.leaves(model(**inputs, params=params))
            return sum((output.astype("float32") ** 2).sum() for output in outputs)

        return jax.tree.leaves(jax.jit(jax.grad(loss))(model.params))

    for ours, theirs in zip(gradients(case.ours.from_pretrained(folder, remat="full")), gradients(model), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_the_mapping_is_a_bijection_of_all_layers(case):
    config = case.ours.config_class(**case.values)
    tables = [wanted(case.ours.abstract(config, scan_layers=scan)).rules for scan in (False, True)]
    names = [sorted(name for rule in rules for name in rule.sources) for rules in tables]
    assert names[0] == names[1]


@pytest.mark.parametrize("case", MIXED, ids=str)
def test_layers_of_several_kinds_are_not_scanned(case):
    message = "scan_layers=True stacks equal layers, and this model has several kinds: leave it out"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        case.ours.abstract(dict(case.values), scan_layers=True)

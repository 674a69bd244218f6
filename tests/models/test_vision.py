"""What is particular to models of images: layouts, sizes, masks, stages, names of tensors in modules and in files."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from models.comparisons import assert_close, same_params
from models.tiny_configs import CASES, for_cases
from models.torch_reference import assert_same_outputs, inputs_for, to_torch, torch_model

import interop
from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.models.beit import BeitConfig, BeitForSemanticSegmentation, BeitLayer, BeitModel
from flaxmodels.models.dinov2 import Dinov2Config
from flaxmodels.models.vit import ViTConfig, ViTForMaskedImageModeling, ViTModel

BY_NAME = {case.name: case for case in CASES}
SMALL: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 6,
    "patch_size": 4,
}


def for_named(*names):
    return for_cases(map(BY_NAME.get, names))


def other_size(case, height, width):
    rng = np.random.default_rng(2)
    return {"pixel_values": rng.normal(size=(2, case.values["num_channels"], height, width)).astype(np.float32)}


@for_named("ViTForMaskedImageModeling", "BeitModel", "Dinov2Backbone")
def test_both_layouts_give_the_same(case, model):
    inputs = inputs_for(case)
    last = inputs | {"pixel_values": np.moveaxis(inputs["pixel_values"], 1, -1)}
    for first_value, last_value in zip(model(**inputs).values(), model(**last).values(), strict=True):
        jax.tree.map(np.testing.assert_array_equal, first_value, last_value)


@for_named(
    "ViTModel",
    "DeiTForImageClassification",
    "BeitModel",
    "BeitModel-shared",
    "BeitBackbone",
    "Dinov2ForImageClassification",
)
@pytest.mark.parametrize("size", [(41, 36), (36, 11)])
def test_images_of_other_sizes(case, model, reference, size):
    inputs = other_size(case, *size)
    stretches = {"interpolate_pos_encoding": True} if case.head.startswith(("ViT", "DeiT")) else {}
    with torch.no_grad():
        theirs = reference(**to_torch(inputs), **stretches)
    assert_same_outputs(model(**inputs, **stretches), theirs, None)


@for_named("BeitForMaskedImageModeling")
def test_absolute_positions_of_other_sizes(case, model, reference):
    inputs = other_size(case, 41, 36) | {"bool_masked_pos": np.arange(2 * 8 * 7).reshape(2, 56) % 3 == 0}
    with torch.no_grad():
        theirs = reference(**to_torch(inputs))
    assert_same_outputs(model(**inputs), theirs, None)


@for_named("ViTModel")
def test_another_size_is_refused_unless_positions_are_stretched(case, model):
    expected = "pixel_values: expected images of 26 x 26, got 26 x 41: pass interpolate_pos_encoding=True"
    with pytest.raises(FlaxModelsError) as error:
        model(**other_size(case, 26, 41))
    assert str(error.value) == expected


def test_a_mask_needs_a_mask_token():
    model = ViTModel(ViTConfig(**SMALL, image_size=8))
    with pytest.raises(FlaxModelsError) as error:
        model(np.zeros((1, 3, 8, 8), np.float32), np.zeros((1, 4), bool))
    assert str(error.value) == "bool_masked_pos: this model has no mask token"


def test_the_error_of_masked_pixels_needs_a_reconstruction_of_the_same_size():
    model = ViTForMaskedImageModeling(ViTConfig(**SMALL, image_size=8, encoder_stride=2))
    pixels = np.zeros((1, 3, 8, 8), np.float32)
    assert model(pixels).reconstruction.shape == (1, 3, 4, 4)
    expected = (
        "bool_masked_pos: images (8, 8, 3) are reconstructed as (4, 4, 3): expected encoder_stride and patch_size "
        "to be equal, and the images to consist of whole patches"
    )
    with pytest.raises(FlaxModelsError) as error:
        model(pixels, np.zeros((1, 4), bool))
    assert str(error.value) == expected


@for_named("ViTForImageClassification", "DeiTModel", "BeitModel", "BeitModel-shared", "Dinov2Model")
def test_tensors_are_found_under_the_names_in_modules_of_transformers_5(case, model, reference):
    other = case.ours.abstract(dict(case.values))
    other.load_state_dict(reference.state_dict())
    assert same_params(other.params, model.params)


@for_named("ViTForImageClassification", "BeitModel-shared", "BeitBackbone", "Dinov2Model-swiglu")
def test_live_modules_and_back(case, model, reference):
    assert same_params(interop.from_torch(reference).params, model.params)
    fresh = interop.to_torch(model, case.theirs(reference.config).eval())
    filled, original = fresh.state_dict(), reference.state_dict()
    assert filled.keys() == original.keys()
    assert all(torch.equal(filled[name], original[name]) for name in original)


@for_named("ViTModel")
def test_a_live_module_with_another_head_is_refused(case, model, reference):
    classifier = torch_model(BY_NAME["ViTForImageClassification"])
    with pytest.raises(interop.errors.InteropError, match=r"(?s)^the weights do not fit .*missing classifier\.bias"):
        interop.to_torch(model, classifier)


def test_paths_are_dropped_more_often_in_later_layers(monkeypatch):
    config = BeitConfig(**SMALL, num_channels=1, image_size=8, drop_path_rate=0.5)
    rates = []

    def finish(self, branch, output, dropout_rate, drop_path_rate, dropout_rng):
        rates.append(float(drop_path_rate))
        return output

    monkeypatch.setattr(BeitLayer, "finish", finish)
    BeitModel(config).forward(jnp.zeros((1, 1, 8, 8)), dropout_rng=jax.random.key(0))
    assert rates == [0.0, 0.0, 0.5, 0.5]


@pytest.mark.parametrize("scan_layers", [False, True])
def test_dropped_paths_leave_the_rest_of_a_row(scan_layers):
    """All paths of a row gone, what is left of it are its embeddings."""
    config = BeitConfig(**SMALL, image_size=8, drop_path_rate=1 - 1e-6, num_labels=3)
    model = BeitModel(config, scan_layers=scan_layers)
    pixels = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    states: Any = model(pixels, train=True, dropout_rng=jax.random.key(0), output_hidden_states=True).hidden_states
    assert not jnp.array_equal(states[0], states[1])
    assert_close(states[1], states[2], 1e-6)


@pytest.mark.parametrize(
    ("given", "stages"),
    [
        ({}, (2,)),
        ({"out_features": ["stem", "stage2"]}, (0, 2)),
        ({"out_indices": [0, -1]}, (0, 2)),
        ({"out_features": ["stage1"], "out_indices": [1]}, (1,)),
        ({"segmentation_indices": [1, 2]}, (1, 2)),
    ],
)
def test_stages_are_chosen_by_name_or_by_number(given, stages):
    assert BeitConfig(**SMALL, image_size=8, **given).chosen_stages == stages


STAGES = "['stem', 'stage1', 'stage2']"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"out_features": ["stage3"]}, f"out_features=['stage3']: expected names among {STAGES}"),
        ({"out_indices": [3]}, "out_indices=[3]: there are 3 stages"),
        (
            {"out_indices": [2, 1]},
            "out_features or out_indices, stages [2, 1]: expected each once, in ascending order",
        ),
        ({"out_features": ["stem"], "out_indices": [1]}, "out_features=['stem'] and out_indices=[1] differ"),
        ({"patch_size": 9}, "image_size=8 is smaller than patch_size=9"),
        ({"hidden_act": "wave"}, "hidden_act='wave': expected one of "),
        ({"hidden_size": 9}, "hidden_size=9 is not a multiple of num_attention_heads=2"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(given, problem):
    expected = "Dinov2Config cannot be computed:\n  - " + problem
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}"):
        Dinov2Config(**{k: v for k, v in SMALL.items() if k != "intermediate_size"} | {"image_size": 8} | given)


def test_what_beit_lacks_is_refused_by_name():
    expected = "image_size=[8, 12]: relative positions are implemented for square images only"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        BeitConfig(**SMALL, image_size=[8, 12], use_relative_position_bias=True)
    with pytest.raises(ConfigError, match=r"^BeitConfig cannot be computed:\n  - add_fpn=True needs four out_indices"):
        BeitConfig(**SMALL, image_size=8, add_fpn=True)
    pyramid = SMALL | {"num_hidden_layers": 4, "image_size": 8, "out_indices": [1, 2, 3, 4], "add_fpn": True}
    with pytest.raises(ConfigError, match=r"add_fpn=True needs reshape_hidden_states=True$"):
        BeitConfig(**pyramid, reshape_hidden_states=False)
    with pytest.raises(ConfigError, match=r"^BeitForSemanticSegmentation needs four out_indices, not \[1, 2\]$"):
        BeitForSemanticSegmentation(BeitConfig(**SMALL, image_size=8, out_indices=[1, 2]))

"""CLIP and SigLIP where they are more than one model of one kind of input: parts, images, positions, methods."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from models.comparisons import assert_close, same_params
from models.tiny_configs import FAMILIES, HEADS, for_cases
from models.torch_reference import assert_same_outputs, inputs_for, to_torch

import flaxmodels
from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.models.clip import CLIPTextConfig, CLIPVisionModel
from flaxmodels.models.siglip import SiglipModel

for_both = for_cases(case for case in HEADS if case.head in ("CLIPModel", "SiglipModel"))
TOWERS = {"CLIPModel": ["CLIPTextModel", "CLIPVisionModel"]}
TOWERS |= {"SiglipModel": ["SiglipTextModel", "SiglipVisionModel"]}
VISION = next(case for case in HEADS if case.head == "CLIPVisionModel")


@for_both
def test_features_are_those_of_torch_and_functions_of_parameters(case, model, reference):
    inputs = inputs_for(case)
    pixels = {"pixel_values": inputs.pop("pixel_values")}
    for name, given in (("get_text_features", inputs), ("get_image_features", pixels)):
        method = getattr(model, name)
        with torch.no_grad():
            expected = getattr(reference, name)(**to_torch(given)).pooler_output
        assert_close(method(**given), expected, 1e-5)
        zeros = jax.tree.map(jnp.zeros_like, model.params)
        assert not np.nan_to_num(method(**given, params=zeros)).any()
        gradients = jax.jit(jax.grad(lambda params, method=method, given=given: method(**given, params=params).sum()))
        tower = "text_model" if name == "get_text_features" else "vision_model"
        moved = {key for key, part in gradients(model.params).items() if any(map(jnp.any, jax.tree.leaves(part)))}
        assert moved - {"text_projection", "visual_projection"} == {tower}
        dropped = [method(**given, train=True, dropout_rng=jax.random.key(seed)) for seed in (0, 0, 1)]
        assert jnp.array_equal(dropped[0], dropped[1])
        assert not jnp.array_equal(dropped[0], dropped[2])
    with pytest.raises(TypeError, match=r"it takes pixel_values, interpolate_pos_encoding, dropout_rng$"):
        model.get_image_features(images=1)


@for_both
def test_outputs_within_an_output(case, model):
    inputs = inputs_for(case)
    outputs, plain = model(**inputs), model(**inputs, return_dict=False)
    assert outputs.keys() == (
        "logits_per_image",
        "logits_per_text",
        "text_embeds",
        "image_embeds",
        "text_model_output",
        "vision_model_output",
    )
    assert outputs["text_model_output"].keys() == ("last_hidden_state", "pooler_output")
    assert [type(value) for value in plain[4:]] == [tuple, tuple]
    for left, right in zip(jax.tree.leaves(outputs), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(left, right)


@for_both
def test_images_with_channels_last(case, model):
    inputs = inputs_for(case)
    channels_last = inputs | {"pixel_values": np.moveaxis(inputs["pixel_values"], 1, -1)}
    np.testing.assert_array_equal(model(**inputs).logits_per_image, model(**channels_last).logits_per_image)


@for_both
@pytest.mark.parametrize("size", [(16, 28), (14, 15), (9, 9)])
def test_images_of_other_sizes(case, model, reference, size):
    inputs = inputs_for(case)
    inputs["pixel_values"] = np.random.default_rng(0).normal(size=(2, 2, *size)).astype(np.float32)
    with torch.no_grad():
        theirs = reference(**to_torch(inputs), interpolate_pos_encoding=True)
    assert_same_outputs(model(**inputs, interpolate_pos_encoding=True), theirs, inputs["attention_mask"])
    message = (
        f"images of {size[0]}x{size[1]} pixels: the model's are 14x14. "
        "Resize them, or pass interpolate_pos_encoding=True."
    )
    with pytest.raises(FlaxModelsError) as error:
        model(**inputs)
    assert str(error.value) == message


@for_both
def test_texts_without_a_mask_and_positions(case, model, reference):
    inputs = inputs_for(case)
    given = {name: inputs[name] for name in ("input_ids", "pixel_values")}
    with torch.no_grad():
        theirs = reference(**to_torch(given))
    assert_same_outputs(model(**given), theirs, None)
    with pytest.raises(FlaxModelsError) as error:
        model(np.ones((1, 10), int), inputs["pixel_values"])
    assert str(error.value) == "input_ids: 10 tokens exceed the 9 positions of the model; shorten the sequence"


@for_both
def test_towers_load_from_a_checkpoint_of_both(case, model, folder):
    for name in TOWERS[case.head]:
        tower, info = getattr(flaxmodels, name).from_pretrained(folder, output_loading_info=True)
        theirs, expected = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
        assert info.missing_keys == []
        assert set(info.unexpected_keys) == expected["unexpected_keys"]
        assert same_params(tower.state_dict(), {key: value.numpy() for key, value in theirs.state_dict().items()})
        kind = "text" if "Text" in name else "vision"
        assert tower.config.to_dict() == model.config.to_dict()[f"{kind}_config"]
        assert (
            getattr(flaxmodels, name).as_submodule(model.config, model.policy).config.model_type
            == tower.config.model_type
        )


@for_both
def test_a_tower_of_one_model_is_not_that_of_another(folder, case):
    other = CLIPVisionModel if case.head == "SiglipModel" else flaxmodels.SiglipVisionModel
    with pytest.raises(ConfigError, match=r"is a model of type '\w+_vision_model', but \w+VisionModel loads"):
        other.from_pretrained(folder)


@for_both
def test_auto_classes(case, folder, model):
    for auto in (flaxmodels.AutoModel, flaxmodels.FlaxAutoModelForZeroShotImageClassification):
        loaded = auto.from_pretrained(folder)
        assert type(loaded) is case.ours
        assert same_params(loaded.params, model.params)
    chosen = flaxmodels.AutoModelForImageClassification.from_config(model.config)
    assert type(chosen).__name__ == case.head.replace("Model", "ForImageClassification")
    kind = model.config.text_config.model_type
    assert type(flaxmodels.AutoModelForTextEncoding.from_config({"model_type": kind})) is type(model.text_model)


@for_both
def test_embeddings_can_be_replaced(case, model):
    fresh = case.ours(case.values)
    for found in (fresh, fresh.text_model, fresh.vision_model):
        other = type(found)(found.config, seed=5)
        found.set_input_embeddings(other.get_input_embeddings())
        assert found.get_input_embeddings() is other.get_input_embeddings()


def test_vectors_of_the_vision_tower_are_drawn_with_the_same_key():
    config = VISION.values
    towers = [
        getattr(flaxmodels, name)(config, seed=4) for name in ("CLIPVisionModel", "CLIPVisionModelWithProjection")
    ]
    assert same_params(towers[0].params, towers[1].params["vision_model"])


def test_what_cannot_be_computed():
    with pytest.raises(ConfigError) as error:
        CLIPTextConfig(eos_token_id=[1, 2])
    assert str(error.value) == (
        "CLIPTextConfig cannot be computed:\n"
        "  - eos_token_id=[1, 2]: expected one token, whose position gives the vector of a text"
    )
    with pytest.raises(ConfigError) as error:
        CLIPVisionModel.abstract({"patch_size": [4, 4], "hidden_act": "swoosh"})
    assert str(error.value).splitlines()[2:] == ["  - patch_size=[4, 4]: expected an integer from 1 to 16384"]
    values = FAMILIES["siglip"].config
    config = {**values, "vision_config": {**values["vision_config"], "vision_use_head": False}}
    message = "vision_use_head=False: images have no vectors then, which SiglipModel compares"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        SiglipModel.abstract(config)

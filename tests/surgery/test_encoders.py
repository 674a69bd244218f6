"""Other encoders and decoders in place of those of a model."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from models.tiny_configs import HEADS

from flaxmodels.errors import FlaxModelsError
from flaxmodels.models.bart import BartForConditionalGeneration
from flaxmodels.models.clip import CLIPModel
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.initializers import zeros

IDS = np.array([[5, 7, 11, 2], [1, 2, 3, 4]])


def model_of(head: str) -> Any:
    case = next(case for case in HEADS if case.head == head)
    return case.ours(dict(case.values))


def test_another_encoder_computes_and_ties_follow():
    model = model_of("BartForConditionalGeneration")
    ties = model.all_tied_weights_keys
    donor: Any = BartForConditionalGeneration(model.config, seed=1)
    before = model(IDS).logits
    model.set_encoder(donor.get_encoder())
    assert model.get_encoder() is donor.model.encoder
    assert model.model.encoder is donor.model.encoder
    assert model.model.encoder.embed_tokens.embedding is model.model.shared.embedding
    assert model.all_tied_weights_keys == ties
    assert not np.allclose(model(IDS).logits, before)
    model.set_decoder(copy.copy(donor.get_decoder()))
    assert model.all_tied_weights_keys == ties


def test_another_tower_for_images():
    model, donor = model_of("CLIPModel"), CLIPModel(model_of("CLIPModel").config, seed=1)
    model.set_encoder(donor.get_encoder("image"), modality="image")
    assert model.vision_model is donor.vision_model
    assert model.text_model is not donor.text_model
    model.set_decoder(donor.text_model)
    assert model.get_decoder() is donor.text_model


def test_what_cannot_be_set_or_found():
    model = model_of("LlamaForCausalLM")
    with pytest.raises(NotImplementedError) as error:
        model.set_encoder(Linear(3, 4, model.policy, init=zeros))
    assert str(error.value) == "LlamaForCausalLM has no encoder: it has none of text_encoder, encoder"
    with pytest.raises(TypeError) as error:
        model.set_decoder("decoder")
    assert str(error.value) == "set_decoder: expected a module, got str"
    for use in (lambda: model.get_encoder("text"), lambda: model.set_encoder(model.model, "text")):
        with pytest.raises(FlaxModelsError) as error:
            use()
        assert str(error.value) == "modality='text': expected 'image', 'video', 'audio', or None for text"

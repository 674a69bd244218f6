"""Names: the `Auto...` classes, the registry, and what scripts for the retired classes call things."""

from __future__ import annotations

import json
import re

import pytest

import flaxmodels
from flaxmodels.errors import ConfigError
from flaxmodels.models.bert import BertConfig, BertForMaskedLM, BertLMHeadModel, BertModel
from flaxmodels.models.llama import LlamaConfig, LlamaForCausalLM
from flaxmodels.registry import ARCHITECTURES, AUTO_CLASSES

TINY_BERT = {
    "model_type": "bert",
    "vocab_size": 13,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
}


def test_every_public_name_resolves_with_and_without_flax():
    names = [name for architecture in ARCHITECTURES.values() for name in architecture.names] + list(AUTO_CLASSES)
    for name in names:
        assert getattr(flaxmodels, name) is getattr(flaxmodels, f"Flax{name}")
        assert name in dir(flaxmodels)
    assert flaxmodels.FlaxPreTrainedModel is flaxmodels.PreTrainedModel
    assert flaxmodels.FlaxBertForCausalLM is BertLMHeadModel


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'flaxmodels' has no attribute 'FlaxNothing'$"):
        flaxmodels.FlaxNothing  # noqa: B018


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_task_has_an_auto_class_and_a_class_of_its_own_config(model_type):
    architecture = ARCHITECTURES[model_type]
    for auto, name in architecture.tasks.items():
        assert AUTO_CLASSES[auto]._class({"model_type": model_type}) is architecture.load(name)
        assert architecture.load(name).config_class is architecture.load(architecture.config)


def test_auto_classes_choose_by_model_type(tmp_path):
    model = BertForMaskedLM(BertConfig(**{key: value for key, value in TINY_BERT.items() if key != "model_type"}))
    model.save_pretrained(tmp_path)
    assert type(flaxmodels.AutoConfig.from_pretrained(tmp_path)) is BertConfig
    assert type(flaxmodels.AutoModel.from_pretrained(tmp_path)) is BertModel
    assert type(flaxmodels.FlaxAutoModelForMaskedLM.from_pretrained(tmp_path)) is BertForMaskedLM
    assert type(flaxmodels.AutoModelForMaskedLM.from_config(model.config)) is BertForMaskedLM


def test_an_unknown_model_type_is_refused_with_those_that_exist(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clippy"}))
    known = ", ".join(sorted(ARCHITECTURES))
    with pytest.raises(ConfigError, match=f"^model_type 'clippy' is not known: expected one of {known}$"):
        flaxmodels.AutoModel.from_pretrained(tmp_path)


def test_a_task_that_a_model_type_lacks_is_refused_with_those_that_it_has():
    message = (
        "model_type 'llama' has no class for AutoModelForMaskedLM: "
        "it has AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification, "
        "AutoModelForQuestionAnswering"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        flaxmodels.AutoModelForMaskedLM.from_config(LlamaConfig())


def test_a_class_for_another_model_type_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY_BERT))
    message = (
        f"{tmp_path} is a model of type 'bert', but LlamaForCausalLM loads 'llama': "
        "use the class of its type, or AutoModel"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        LlamaForCausalLM.from_pretrained(tmp_path)


def test_custom_classes_can_be_registered_once(monkeypatch):
    monkeypatch.setattr("flaxmodels.registry._CUSTOM", {})

    class OtterConfig(BertConfig):
        model_type = "otter"

    class OtterModel(BertModel):
        config_class = OtterConfig

    flaxmodels.AutoConfig.register("otter", OtterConfig)
    flaxmodels.AutoModel.register(OtterConfig, OtterModel)
    assert flaxmodels.AutoModel._class({"model_type": "otter"}) is OtterModel
    message = "AutoModel has a class for model_type 'otter' already: choose another model_type"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        flaxmodels.AutoModel.register(OtterConfig, OtterModel)

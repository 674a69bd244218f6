"""Names: the `Auto...` classes, the registry, and what scripts for the retired classes call things."""

from __future__ import annotations

import json
import re
import sys
from types import ModuleType

import pytest

import flaxmodels
from flaxmodels.architectures import Architecture
from flaxmodels.checkpoint import pretrained
from flaxmodels.errors import CheckpointError, ConfigError, FlaxModelsError
from flaxmodels.files import location as files
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


def test_a_family_that_defines_no_base_has_the_nearest_that_its_models_share(monkeypatch):
    class OtterModel(BertModel):
        pass

    class OtterForMaskedLM(BertForMaskedLM):
        pass

    module = ModuleType("otters")
    vars(module).update(OtterModel=OtterModel, OtterForMaskedLM=OtterForMaskedLM)
    monkeypatch.setitem(sys.modules, "otters", module)
    tasks = {"AutoModel": "OtterModel", "AutoModelForMaskedLM": "OtterForMaskedLM"}
    architecture = Architecture("otters", "OtterConfig", tasks, ("OtterPreTrainedModel",))
    monkeypatch.setitem(ARCHITECTURES, "otter", architecture)
    shared = next(base for base in BertModel.__mro__ if issubclass(BertForMaskedLM, base))
    assert architecture.load("OtterPreTrainedModel") is shared
    assert issubclass(shared, flaxmodels.PreTrainedModel)
    vars(module)["OtterPreTrainedModel"] = OtterModel
    assert architecture.load("OtterPreTrainedModel") is OtterModel


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'flaxmodels' has no attribute 'FlaxNothing'$"):
        flaxmodels.FlaxNothing  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]  # refused


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


@pytest.mark.parametrize("auto", [flaxmodels.AutoModel, BertModel], ids=lambda each: each.__name__)
def test_files_are_looked_for_and_the_configuration_is_read_once(tmp_path, monkeypatch, auto):
    BertModel(BertConfig.from_dict(TINY_BERT)).save_pretrained(tmp_path)
    reads = []
    for name in ("resolve", "read_json"):
        original = getattr(files, name)
        counted = lambda *args, name=name, original=original, **kwargs: reads.append(name) or original(*args, **kwargs)  # noqa: E731
        monkeypatch.setattr(files, name, counted)
    monkeypatch.setattr(pretrained, "resolve", files.resolve)
    auto.from_pretrained(tmp_path)
    assert sorted(reads) == ["read_json", "resolve"]


def test_an_unknown_model_type_is_refused_with_those_that_exist(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clippy"}))
    known = ", ".join(sorted(ARCHITECTURES))
    with pytest.raises(ConfigError, match=f"^model_type 'clippy' is not known: expected one of {known}$"):
        flaxmodels.AutoModel.from_pretrained(tmp_path)


KNOWN = ", ".join(sorted(ARCHITECTURES))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", f"the configuration lacks model_type: add it, as one of {KNOWN}"),
        (b'{"model_type": null}', f"the configuration lacks model_type: add it, as one of {KNOWN}"),
        (b'{"model_type": ["bert"]}', f"model_type ['bert'] is not known: expected one of {KNOWN}"),
        (b'{"model_type": {"bert": 1}}', f"model_type {{'bert': 1}} is not known: expected one of {KNOWN}"),
        (b'{"model_type": 5}', f"model_type 5 is not known: expected one of {KNOWN}"),
        (b'{"model_type": ""}', f"model_type '' is not known: expected one of {KNOWN}"),
        (
            b'{"model_type": "clip", "text_config": [1], "vision_config": "x"}',
            "CLIPConfig cannot be computed:\n"
            "  - text_config: expected a CLIPTextConfig, got list\n"
            "  - vision_config: expected a CLIPVisionConfig, got str",
        ),
        (
            b'{"model_type": "siglip", "text_config": {"model_type": ["x"], "hidden_size": 5}}',
            "SiglipConfig cannot be computed:\n"
            "  - text_config: expected a configuration of model_type 'siglip_text_model', got ['x']",
        ),
        (
            b'{"model_type": "bert", "hidden_size": 1e400}',
            "BertConfig cannot be computed:\n  - hidden_size=inf: expected an integer from 1 to 1048576",
        ),
        (b"", "config.json: invalid JSON (Expecting value: line 1 column 1 (char 0)). Download or copy it again."),
        (b"[]", "config.json: invalid JSON (not an object). Download or copy it again."),
        (b'"bert"', "config.json: invalid JSON (not an object). Download or copy it again."),
    ],
)
@pytest.mark.parametrize("auto", [flaxmodels.AutoConfig, flaxmodels.AutoModel])
def test_files_that_say_no_model(tmp_path, auto, content, message):
    (tmp_path / "config.json").write_bytes(content)
    (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(FlaxModelsError) as error:
        auto.from_pretrained(tmp_path)
    assert str(error.value) == message


def test_a_folder_in_place_of_the_file(tmp_path):
    (tmp_path / "config.json").mkdir()
    message = f"{tmp_path}/config.json is a folder, expected a file: move it away, or copy it again"
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        flaxmodels.AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("config", [None, "bert", 5, [1]])
def test_something_else_is_no_configuration(config):
    with pytest.raises(ConfigError) as error:
        flaxmodels.AutoModel.from_config(config)
    assert str(error.value) == f"expected a configuration, got {config!r}"


def test_keywords_are_those_of_the_class(tmp_path):
    with pytest.raises(ConfigError) as error:
        flaxmodels.AutoConfig.for_model("bert", hiden_size=5)
    assert str(error.value) == "BertConfig has no field 'hiden_size': did you mean 'hidden_size'?"
    (tmp_path / "config.json").write_text(json.dumps(TINY_BERT | {"tokens": 5}))
    with pytest.raises(ConfigError) as error:
        flaxmodels.AutoConfig.from_pretrained(tmp_path, tokens=6, vocabsize=7)
    assert str(error.value) == (
        "BertConfig has no field 'tokens': check the spelling\n"
        "BertConfig has no field 'vocabsize': did you mean 'vocab_size'?"
    )


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
    with pytest.raises(ConfigError, match=r"^model_type 'otter' has no class for AutoModel: register one$"):
        flaxmodels.AutoModel._class({"model_type": "otter"})
    flaxmodels.AutoModel.register(OtterConfig, OtterModel)
    assert flaxmodels.AutoModel._class({"model_type": "otter"}) is OtterModel
    message = "AutoModel has a class for model_type 'otter' already: choose another model_type"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        flaxmodels.AutoModel.register(OtterConfig, OtterModel)

"""Classes of a user's own: their source is saved beside the weights, and run again only where that is asked for."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxmodels import AutoConfig, AutoModel, AutoModelForMaskedLM
from flaxmodels.errors import CheckpointError, ConfigError, FlaxModelsError
from flaxmodels.models.bert import BertConfig, BertModel

SIZES: dict[str, Any] = {
    "vocab_size": 13,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
}
IDS = np.arange(6).reshape(2, 3)
FACTORS = """FACTOR = 3.0
"""
OTTERS = '''"""Otters."""

from __future__ import annotations

from flaxmodels.fields import Scale
from flaxmodels.models.bert import BertConfig, BertModel

from .factors import FACTOR


class OtterConfig(BertConfig):
    """A BERT that is scaled."""

    model_type = "otter"

    factor: Scale = FACTOR


class OtterModel(BertModel):
    """A BERT that is scaled."""

    config_class = OtterConfig

    def forward(self, input_ids, *, output_attentions=False, output_hidden_states=False, dropout_rng=None):
        outputs = super().forward(input_ids, dropout_rng=dropout_rng)
        return outputs.to(type(outputs), last_hidden_state=self.config.factor * outputs.last_hidden_state)
'''


@pytest.fixture
def otters(tmp_path, monkeypatch):
    """A user's package, whose classes are registered."""
    package = tmp_path / "zoo"
    package.mkdir()
    for name, text in {"__init__": "", "factors": FACTORS, "otters": OTTERS}.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "zoo"]:
        monkeypatch.delitem(sys.modules, name)
    module = importlib.import_module("zoo.otters")
    module.OtterConfig.register_for_auto_class()
    module.OtterModel.register_for_auto_class("FlaxAutoModel")
    yield module
    for name in [name for name in sys.modules if name.split(".")[0] == "zoo"]:
        del sys.modules[name]


@pytest.fixture
def saved(otters, tmp_path):
    """A model of them, and the folder that it was saved to."""
    model, folder = otters.OtterModel(otters.OtterConfig(**SIZES, factor=5.0)), tmp_path / "saved"
    model.save_pretrained(folder)
    return model, folder


def test_the_source_is_saved_beside_the_weights(saved):
    _, folder = saved
    names = ["config.json", "factors.py", "model.safetensors", "otters.py"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (folder / "otters.py").read_text() == OTTERS
    values = json.loads((folder / "config.json").read_text())
    assert values["auto_map"] == {"AutoConfig": "otters.OtterConfig", "AutoModel": "otters.OtterModel"}


def test_the_class_is_found_again_where_it_is_trusted(saved, tmp_path):
    model, folder = saved
    found = AutoModel.from_pretrained(folder, trust_remote_code=True, output_attentions=True)
    assert (type(found).__name__, type(found) is type(model)) == ("OtterModel", False)
    assert (found.config.factor, found.config.output_attentions) == (5.0, True)
    np.testing.assert_allclose(found(IDS).last_hidden_state, model(IDS).last_hidden_state)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    made = AutoModel.from_config(config, trust_remote_code=True, seed=1)
    assert type(made) is type(found) is type(AutoModel.from_pretrained(folder, trust_remote_code=True))
    assert made.config is config
    found.save_pretrained(tmp_path / "again")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in (tmp_path / "again").iterdir()
    )
    assert (tmp_path / "again" / "otters.py").read_text() == OTTERS


def test_a_process_without_the_package_loads_it(saved):
    _, folder = saved
    code = f"""if True:
        from flaxmodels import AutoModel
        print(type(AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True)).__name__)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "OtterModel\n"


@pytest.mark.parametrize("trusted", [{}, {"trust_remote_code": False}, {"trust_remote_code": None}])
def test_code_that_is_not_trusted_is_not_run(saved, trusted):
    _, folder = saved
    (folder / "otters.py").write_text(OTTERS + "\nraise AssertionError\n")
    for cls, name in ((AutoConfig, "OtterConfig"), (AutoModel, "OtterModel")):
        with pytest.raises(ConfigError) as error:
            cls.from_pretrained(folder, **trusted)
        assert str(error.value) == (
            f"{folder}: its class for {cls.__name__} is in code beside it, otters.{name}: read that and, if you trust "
            "it, pass trust_remote_code=True, which runs it"
        )


def test_other_classes_are_not_in_the_code(saved):
    with pytest.raises(ConfigError) as error:
        AutoModelForMaskedLM.from_pretrained(saved[1], trust_remote_code=True)
    assert str(error.value).startswith("model_type 'otter' is not known")


@pytest.fixture
def bert(tmp_path) -> Path:
    """A BERT whose repository has code for torch too."""
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["auto_map"] = {"AutoModel": "modeling_bert.BertModel", "AutoTokenizer": ["tokens.Tokens", None]}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "modeling_bert.py").write_text("import torch\nfrom ..others import more\nraise AssertionError\n")
    return tmp_path


def test_code_for_torch_is_not_run(bert):
    assert type(AutoModel.from_pretrained(bert)) is BertModel
    assert type(BertModel.from_pretrained(bert, trust_remote_code=True)) is BertModel
    assert type(AutoConfig.from_pretrained(bert, trust_remote_code=True)) is BertConfig
    with pytest.raises(CheckpointError) as error:
        AutoModel.from_pretrained(bert, trust_remote_code=True)
    assert str(error.value) == (
        f"{bert}: AutoModel is 'modeling_bert.BertModel' in auto_map, and there is no file of that name that imports "
        "flaxmodels: it was not run. Leave trust_remote_code out to use a class of flaxmodels."
    )


@pytest.mark.parametrize(
    "source",
    [
        b"import flaxmodels\n\xff",
        b"import flaxmodels (",
        b"import flaxmodels\n\0",
        b"(" * 10**5,
        b"#" * 2**21,
        b"import os",
    ],
)
def test_code_that_cannot_be_read_is_not_run(bert, source):
    (bert / "modeling_bert.py").write_bytes(source)
    assert type(AutoModel.from_pretrained(bert)) is BertModel
    with pytest.raises(CheckpointError, match="there is no file of that name that imports flaxmodels: it was not run"):
        AutoModel.from_pretrained(bert, trust_remote_code=True)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import flaxmodels\n", "{}: modeling_bert.py has no class BertModel, which auto_map names"),
        (
            "import flaxmodels\nclass BertModel: ...\n",
            "{}: modeling_bert.BertModel is no class of flaxmodels' for AutoModel",
        ),
    ],
)
def test_code_without_the_class(bert, source, message):
    (bert / "modeling_bert.py").write_text(source)
    with pytest.raises(CheckpointError) as error:
        AutoModel.from_pretrained(bert, trust_remote_code=True)
    assert str(error.value) == message.format(bert)


def test_a_library_class_is_not_used_for_code_that_extends_it(bert):
    (bert / "modeling_bert.py").write_text("import flaxmodels\n")
    with pytest.raises(ConfigError, match="is in code beside it, modeling_bert"):
        AutoModel.from_pretrained(bert)


def test_trust_asks_for_nothing_where_there_is_no_code(bert):
    (bert / "config.json").write_text(BertConfig(**SIZES).to_json_string())
    assert type(AutoModel.from_pretrained(bert, trust_remote_code=True)) is BertModel


@pytest.mark.parametrize(
    ("auto", "message"),
    [
        (
            "AutoModelForOtters",
            "AutoModelForOtters cannot choose OtterModel: expected one of AutoModel, AutoModelForPre",
        ),
        (AutoConfig, "AutoConfig cannot choose OtterModel: expected one of AutoModel, AutoModelForPre"),
    ],
)
def test_classes_that_choose_others(otters, auto, message):
    with pytest.raises(FlaxModelsError) as error:
        otters.OtterModel.register_for_auto_class(auto)
    assert str(error.value).startswith(message)


def test_classes_of_the_library_are_known():
    for cls in (BertModel, BertConfig):
        with pytest.raises(FlaxModelsError) as error:
            cls.register_for_auto_class()
        assert str(error.value) == (
            f"{cls.__name__} is of this library, whose Auto classes know it: nothing to register"
        )


def test_classes_without_a_file(otters, tmp_path):
    made = type("Made", (otters.OtterModel,), {"__module__": "__main__"})
    made.register_for_auto_class()
    with pytest.raises(FlaxModelsError) as error:
        made(otters.OtterConfig(**SIZES)).save_pretrained(tmp_path / "x")
    assert str(error.value) == (
        "Made is registered for AutoModel, but is not defined in a module with a file, which could be saved: move it "
        "there"
    )
    assert not (tmp_path / "x").exists()

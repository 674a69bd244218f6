"""`GenerationConfig`: its files, its precedence, and the settings that are refused."""

from __future__ import annotations

import json

import pytest
import transformers
from models.tiny_configs import HEADS
from models.torch_reference import torch_model

from flaxmodels.errors import CheckpointError, ConfigError
from flaxmodels.generation.config import NOT_IMPLEMENTED, WITHOUT_EFFECT, GenerationConfig, settle
from flaxmodels.models.llama import LlamaConfig, LlamaForCausalLM

LLAMA = next(case for case in HEADS if case.head == "LlamaForCausalLM")
IMPLEMENTED = set(GenerationConfig.__annotations__)
OF_A_FILE = {
    "_from_model_config": True,
    "bos_token_id": 1,
    "eos_token_id": [2, 32],
    "of_the_future": {"nested": [1, None]},
    "temperature": 0.6,
    "top_k": None,
    "transformers_version": "5.0.0",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps(OF_A_FILE))
    return tmp_path


def settled(model: dict | None = None, config=None, **call) -> GenerationConfig:
    return settle(GenerationConfig(**(model or {})), config, call)


def complaint(model: dict | None = None, config=None, **call) -> str:
    with pytest.raises(ConfigError) as caught:
        settled(model, config, **call)
    return str(caught.value)


# ---- files


def test_a_file_comes_back_as_it_was(folder, tmp_path):
    config = GenerationConfig.from_pretrained(folder)
    assert (config.temperature, config.top_p, config.eos_token_ids) == (0.6, 1.0, [2, 32])
    config.save_pretrained(tmp_path / "again")
    again = tmp_path / "again" / "generation_config.json"
    assert list(json.loads(again.read_text()).items()) == list(OF_A_FILE.items())
    assert transformers.GenerationConfig.from_pretrained(tmp_path / "again").temperature == 0.6


def test_a_folder_without_the_file(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        GenerationConfig.from_pretrained(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} has no generation_config.json: use GenerationConfig.from_model_config(config)"
    )


def test_old_model_configurations_hold_settings():
    config = LlamaConfig(eos_token_id=[5, 6], pad_token_id=0, max_length=30, num_beams=4, repetition_penalty=1.0)
    expected = {"bos_token_id": 1, "eos_token_id": [5, 6], "pad_token_id": 0, "max_length": 30, "num_beams": 4}
    assert GenerationConfig.from_model_config(config).to_dict() == expected


def test_a_model_loads_and_saves_its_settings(tmp_path):
    reference = torch_model(LLAMA)
    reference.generation_config = transformers.GenerationConfig(do_sample=True, top_p=0.4, eos_token_id=[7, 8])
    reference.save_pretrained(tmp_path / "torch")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "torch")
    assert (model.generation_config.top_p, model.generation_config.eos_token_id) == (0.4, [7, 8])
    model.save_pretrained(tmp_path / "ours")
    assert transformers.GenerationConfig.from_pretrained(tmp_path / "ours").eos_token_id == [7, 8]


def test_settings_that_the_model_configuration_has_are_not_saved_again(tmp_path):
    LlamaForCausalLM(dict(LLAMA.values)).save_pretrained(tmp_path)
    assert not (tmp_path / "generation_config.json").exists()


# ---- precedence


def test_a_call_comes_before_its_configuration_and_that_before_the_model():
    found = settled({"top_k": 1, "top_p": 0.1, "temperature": 0.1}, {"top_k": 2, "top_p": 0.2}, top_k=3, do_sample=True)
    assert (found.top_k, found.top_p, found.temperature, found.bos_token_id) == (3, 0.2, 0.1, None)


def test_none_is_unset_in_configurations_and_off_in_a_call():
    assert settled({"top_k": None, "eos_token_id": 3}, {"eos_token_id": None}).top_k == 50
    assert settled({"eos_token_id": 3}, {"eos_token_id": None}).eos_token_ids == [3]
    found = settled({"eos_token_id": 3, "top_k": 4}, eos_token_id=None, top_k=None)
    assert (found.eos_token_ids, found.top_k) == ([], None)


@pytest.mark.parametrize("name", ["max_length", "max_new_tokens"])
def test_a_length_replaces_both_lengths_below_it(name):
    found = settled({"max_length": 5, "max_new_tokens": 6}, **{name: 7})
    assert {"max_length": found.max_length, "max_new_tokens": found.max_new_tokens} == (
        {"max_length": None, "max_new_tokens": None} | {name: 7}
    )


@pytest.mark.parametrize("kind", [dict, GenerationConfig, transformers.GenerationConfig])
def test_configurations_of_any_kind(kind):
    assert settled({"top_k": 9}, kind(do_sample=True, top_p=0.3)).to_dict().items() >= {
        ("top_k", 9),
        ("do_sample", True),
        ("top_p", 0.3),
    }


def test_something_else_is_no_configuration():
    with pytest.raises(ConfigError, match=r"^expected a GenerationConfig, got int$"):
        settled({}, 3)


# ---- refused settings


def test_every_setting_of_transformers_has_its_place():
    theirs = {name for name in vars(transformers.GenerationConfig()) if not name.startswith("_")}
    places = [IMPLEMENTED, set(NOT_IMPLEMENTED), WITHOUT_EFFECT]
    ours = {"frequency_penalty", "presence_penalty", "logit_bias", "forced_decoder_ids"}
    assert set.union(*places) == theirs | ours
    assert sum(map(len, places)) == len(theirs | ours)


@pytest.mark.parametrize("name", NOT_IMPLEMENTED)
def test_what_is_not_implemented_is_refused_wherever_it_is_set(name):
    harmless = (*NOT_IMPLEMENTED[name], None)[0]
    expected = (
        f"generate() cannot use these settings:\n  - {name}='anything' is not implemented; pass {name}={harmless!r}"
    )
    assert complaint(**{name: "anything"}) == expected
    assert complaint({name: "anything"}) == expected
    assert complaint({}, {name: "anything"}) == expected
    settled({name: "anything"}, **{name: harmless})


def test_the_defaults_of_transformers_are_accepted():
    defaults = transformers.GenerationConfig._get_default_generation_params()
    settled(defaults)
    settled({}, **{name: value for name, value in defaults.items() if name != "max_length"})


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ({"temprature": 0.5}, "temprature: there is no such setting; check the spelling"),
        ({"token_type_ids": [[0]]}, "token_type_ids: there is no such setting; check the spelling"),
        ({"max_length": 5, "max_new_tokens": 6}, "max_length and max_new_tokens are both given; give one"),
        ({"temperature": 0.5}, "temperature=0.5 has no effect without sampling; add do_sample=True"),
        ({"top_k": 5}, "top_k=5 has no effect without sampling; add do_sample=True"),
        ({"top_p": 0.5, "do_sample": False}, "top_p=0.5 has no effect without sampling; add do_sample=True"),
        ({"max_length": 0}, "max_length=0: expected an integer above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: expected an integer above 0"),
        ({"max_new_tokens": -3}, "max_new_tokens=-3: expected an integer above 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens=2.5: expected an integer above 0"),
        ({"max_new_tokens": True}, "max_new_tokens=True: expected an integer above 0"),
        ({"do_sample": "yes"}, "do_sample='yes': expected True or False"),
        (
            {"temperature": 0.0, "do_sample": True},
            "temperature=0.0: expected a number above 0; do_sample=False is the limit of 0",
        ),
        (
            {"temperature": -1, "do_sample": True},
            "temperature=-1: expected a number above 0; do_sample=False is the limit of 0",
        ),
        (
            {"temperature": "hot", "do_sample": True},
            "temperature='hot': expected a number above 0; do_sample=False is the limit of 0",
        ),
        (
            {"top_k": -1, "do_sample": True},
            "top_k=-1: expected an integer of at least 0, which keeps all tokens",
        ),
        ({"top_p": 0.0, "do_sample": True}, "top_p=0.0: expected a number above 0 and at most 1"),
        ({"top_p": 1.2, "do_sample": True}, "top_p=1.2: expected a number above 0 and at most 1"),
        (
            {"eos_token_id": -1},
            "eos_token_id=-1: expected a token id or a list of them, which are integers of at least 0",
        ),
        (
            {"eos_token_id": [2, None]},
            "eos_token_id=[2, None]: expected a token id or a list of them, which are integers of at least 0",
        ),
        ({"pad_token_id": -1}, "pad_token_id=-1: expected a token id, which is an integer of at least 0"),
        ({"bos_token_id": [1]}, "bos_token_id=[1]: expected a token id, which is an integer of at least 0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_named_with_what_was_expected(call, line):
    assert complaint(**call) == f"generate() cannot use these settings:\n  - {line}"


def test_everything_wrong_is_said_at_once():
    assert complaint({"penalty_alpha": 0.6}, top_q=1, max_new_tokens=0, top_p=0.5) == (
        "generate() cannot use these settings:\n"
        "  - top_q: there is no such setting; check the spelling\n"
        "  - top_p=0.5 has no effect without sampling; add do_sample=True\n"
        "  - max_new_tokens=0: expected an integer above 0\n"
        "  - penalty_alpha=0.6 is not implemented; pass penalty_alpha=0"
    )

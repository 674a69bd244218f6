"""`GenerationConfig`: its files, its precedence, and the settings that are refused."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import transformers
from models.tiny_configs import HEADS
from models.torch_reference import torch_model

from flaxmodels.errors import CheckpointError, ConfigError
from flaxmodels.fields import brief
from flaxmodels.generation.config import NOT_IMPLEMENTED, WITHOUT_EFFECT, GenerationConfig
from flaxmodels.generation.merge_settings import merge_settings
from flaxmodels.generation.processing import processor_values
from flaxmodels.models.llama import LlamaConfig, LlamaForCausalLM

LLAMA = next(case for case in HEADS if case.head == "LlamaForCausalLM")
IMPLEMENTED = set(GenerationConfig.__annotations__)
ID = "an integer from 0 to 2147483647"
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


def merged(model: dict | None = None, config=None, **call) -> GenerationConfig:
    return merge_settings(GenerationConfig(**(model or {})), config, call)


def complaint(model: dict | None = None, config=None, **call) -> str:
    with pytest.raises(ConfigError) as caught:
        merged(model, config, **call)
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


def test_settings_that_json_has_no_form_for_come_back(tmp_path):
    """Sequences as keys, and numbers and arrays of numpy."""
    given = GenerationConfig(
        sequence_bias={(1, 2): -3.0, (4,): np.float32(0.5)},
        logit_bias={np.int64(5): np.float32(1.5), 6: 2.0},
        eos_token_id=np.int64(7),
        suppress_tokens=np.array([8, 9]),
    )
    given.save_pretrained(tmp_path)
    again = GenerationConfig.from_pretrained(tmp_path)
    assert again.to_dict() == {
        "sequence_bias": [[[1, 2], -3.0], [[4], 0.5]],
        "logit_bias": {"5": 1.5, "6": 2.0},
        "eos_token_id": 7,
        "suppress_tokens": [8, 9],
    }
    assert repr(given) == repr(again) == f"GenerationConfig {(tmp_path / 'generation_config.json').read_text()}"
    (ours, theirs) = (processor_values(config, 20, 3, False) for config in (merged({}, again), given))
    assert jax.tree.map(np.ndarray.tolist, ours) == jax.tree.map(np.ndarray.tolist, theirs)
    assert ours.keys() == {"sequence_bias", "logit_bias", "suppress_tokens"}


def test_what_json_cannot_hold_is_named():
    with pytest.raises(TypeError, match=r"^generation_config\.json cannot hold values of type object$"):
        GenerationConfig(task=object()).to_json_string()


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


FILES = [
    (
        b'{"temperature": [1], "do_sample": true}',
        "temperature=[1]: expected None or a number above 0; do_sample=False is the limit of 0",
    ),
    (
        b'{"temperature": NaN, "do_sample": true}',
        "temperature=nan: expected None or a number above 0; do_sample=False is the limit of 0",
    ),
    (b'{"top_p": {"a": 1}, "do_sample": true}', "top_p={'a': 1}: expected None or a number above 0 and at most 1"),
    (
        b'{"top_k": 1e9}',
        "top_k=1000000000.0: expected None or an integer from 0, which keeps all tokens, to 2147483647",
    ),
    (b'{"min_p": "0.1"}', "min_p='0.1': expected None or a number from 0 to 1"),
    (b'{"repetition_penalty": Infinity}', "repetition_penalty=inf: expected None or a number above 0"),
    (
        b'{"repetition_penalty": 1' + b"0" * 400 + b"}",
        "repetition_penalty=<an integer of 1329 bits>: expected None or a number above 0",
    ),
    (b'{"length_penalty": [[]]}', "length_penalty=[[]]: expected a finite number"),
    (
        b'{"max_new_tokens": 1' + b"0" * 400 + b"}",
        "max_new_tokens=<an integer of 1329 bits>: expected None or an integer from 1 to 16777216",
    ),
    (b'{"max_length": 1000000000}', "max_length=1000000000: expected None or an integer from 1 to 16777216"),
    (b'{"max_length": "20"}', "max_length='20': expected None or an integer from 1 to 16777216"),
    (b'{"min_length": -1}', "min_length=-1: expected None or an integer from 0 to 16777216"),
    (b'{"num_beams": [4]}', "num_beams=[4]: expected an integer from 1 to 16384"),
    (b'{"num_beams": 1000000}', "num_beams=1000000: expected an integer from 1 to 16384"),
    (b'{"num_return_sequences": 0}', "num_return_sequences=0: expected an integer from 1 to 16384"),
    (
        b'{"no_repeat_ngram_size": 1000000000}',
        "no_repeat_ngram_size=1000000000: expected None or an integer from 0 to 4096",
    ),
    (b'{"do_sample": "true"}', "do_sample='true': expected True or False"),
    (b'{"early_stopping": "always"}', "early_stopping='always': expected True, False or \"never\""),
    (b'{"eos_token_id": [2, "x"]}', f"eos_token_id=[2, 'x']: expected None or a token id or a list of them, each {ID}"),
    (b'{"pad_token_id": 4294967296}', f"pad_token_id=4294967296: expected None or a token id, which is {ID}"),
    (b'{"suppress_tokens": "[1]"}', f"suppress_tokens='[1]': expected None or a list of token ids, each {ID}"),
    (
        b'{"bad_words_ids": [[1], []]}',
        "bad_words_ids=[[1], []]: expected None or a list of lists of token ids, none of them empty",
    ),
    (
        b'{"forced_decoder_ids": [[1, 2, 3]]}',
        "forced_decoder_ids=[[1, 2, 3]]: expected None or a list of pairs of a position and a token id",
    ),
    (b'{"logit_bias": {"x": 1}}', "logit_bias={'x': 1}: expected None or a dict from token ids to numbers"),
    (
        b'{"sequence_bias": [1]}',
        "sequence_bias=[1]: expected None or tuples of token ids and the number that each adds to the score",
    ),
    (b'{"lang_to_id": ["en"]}', "lang_to_id=['en']: expected a dict from strings to token ids"),
    (b'{"guidance_scale": [1]}', "guidance_scale=[1] is not implemented; pass guidance_scale=1"),
    (
        b'{"watermarking_config": {"a": 1}}',
        "watermarking_config={'a': 1} is not implemented; pass watermarking_config=None",
    ),
]


@pytest.mark.parametrize(("content", "line"), FILES, ids=[line.split("=")[0] for _, line in FILES])
def test_what_a_file_says_is_refused_by_name(tmp_path, content, line):
    (tmp_path / "generation_config.json").write_bytes(content)
    config = GenerationConfig.from_pretrained(tmp_path)
    with pytest.raises(ConfigError) as caught:
        merge_settings(config, None, {})
    assert str(caught.value) == f"generate() cannot use these settings:\n  - {line}"
    assert json.loads(config.to_json_string()).keys() == json.loads(content).keys()


@pytest.mark.parametrize("key", ["to_dict", "__class__", "from_any", "eos_token_ids", "__init__", "self", ""])
def test_a_file_cannot_replace_a_method(tmp_path, key):
    (tmp_path / "generation_config.json").write_text(json.dumps({key: "x", "top_k": 3}))
    if not hasattr(GenerationConfig, key):
        assert GenerationConfig.from_pretrained(tmp_path).to_dict() == {key: "x", "top_k": 3}
        return
    with pytest.raises(ConfigError) as caught:
        GenerationConfig.from_pretrained(tmp_path)
    assert str(caught.value) == f"settings of generation cannot be called {key!r}: remove them"


def test_settings_that_do_not_exist_are_refused_in_code():
    with pytest.raises(ConfigError) as caught:
        GenerationConfig(temprature=0.5, self=1, to_dict=2, _from_model_config=True, use_cache=True)
    assert str(caught.value) == (
        "GenerationConfig has no setting 'temprature': did you mean 'temperature'?\n"
        "GenerationConfig has no setting 'self': check the spelling\n"
        "GenerationConfig has no setting 'to_dict': check the spelling"
    )
    assert GenerationConfig.from_dict({"temprature": 0.5}).to_dict() == {"temprature": 0.5}
    with pytest.raises(ConfigError, match=r"^deep: nested more than 64 deep$"):
        GenerationConfig.from_dict({"deep": json.loads("[" * 80 + "]" * 80)})


def test_a_model_keeps_what_its_file_holds_beside_known_settings(tmp_path):
    LlamaForCausalLM(dict(LLAMA.values)).save_pretrained(tmp_path / "first")
    (tmp_path / "first" / "generation_config.json").write_text(json.dumps(OF_A_FILE))
    LlamaForCausalLM.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert json.loads((tmp_path / "second" / "generation_config.json").read_text()) == OF_A_FILE


def test_no_token_of_early_configurations_is_no_setting():
    assert "pad_token_id" not in GenerationConfig.from_model_config(LlamaConfig(pad_token_id=-1)).to_dict()


def test_settings_that_the_model_configuration_has_are_not_saved_again(tmp_path):
    LlamaForCausalLM(dict(LLAMA.values)).save_pretrained(tmp_path)
    assert not (tmp_path / "generation_config.json").exists()


# ---- precedence


def test_a_call_comes_before_its_configuration_and_that_before_the_model():
    found = merged({"top_k": 1, "top_p": 0.1, "temperature": 0.1}, {"top_k": 2, "top_p": 0.2}, top_k=3, do_sample=True)
    assert (found.top_k, found.top_p, found.temperature, found.bos_token_id) == (3, 0.2, 0.1, None)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("num_beams", (2, 3, 4)),
        ("repetition_penalty", (1.2, 1.3, 1.4)),
        ("bad_words_ids", ([[1]], [[2]], [[3]])),
        ("forced_eos_token_id", (1, [2], 0)),
    ],
)
def test_each_layer_replaces_the_setting_of_the_one_below(name, values):
    model, config, call = ({name: value} for value in values)
    assert getattr(merged(model), name) == values[0]
    assert getattr(merged(model, config), name) == values[1]
    assert getattr(merged(model, config, **call), name) == values[2]
    assert getattr(merged(model, {}, **call), name) == values[2]
    assert getattr(merged(model, config, **{name: None}), name) is None


def test_none_is_unset_in_configurations_and_off_in_a_call():
    assert merged({"top_k": None, "eos_token_id": 3}, {"eos_token_id": None}).top_k == 50
    assert merged({"eos_token_id": 3}, {"eos_token_id": None}).eos_token_ids == [3]
    found = merged({"eos_token_id": 3, "top_k": 4}, eos_token_id=None, top_k=None)
    assert (found.eos_token_ids, found.top_k) == ([], None)


@pytest.mark.parametrize("name", ["max_length", "max_new_tokens"])
def test_a_length_replaces_both_lengths_below_it(name):
    found = merged({"max_length": 5, "max_new_tokens": 6}, **{name: 7})
    assert {"max_length": found.max_length, "max_new_tokens": found.max_new_tokens} == (
        {"max_length": None, "max_new_tokens": None} | {name: 7}
    )


@pytest.mark.parametrize("kind", [dict, GenerationConfig, transformers.GenerationConfig])
def test_configurations_of_any_kind(kind):
    assert merged({"top_k": 9}, kind(do_sample=True, top_p=0.3)).to_dict().items() >= {
        ("top_k", 9),
        ("do_sample", True),
        ("top_p", 0.3),
    }


def test_something_else_is_no_configuration():
    with pytest.raises(ConfigError, match=r"^generation_config: expected a GenerationConfig, got int$"):
        merged({}, 3)


# ---- refused settings


OF_SPEECH = {
    *("language", "task", "is_multilingual", "lang_to_id", "task_to_id", "prompt_ids", "prev_sot_token_id"),
    *("return_timestamps", "no_timestamps_token_id", "max_initial_timestamp_index", "return_token_timestamps"),
    *("return_segments", "condition_on_prev_tokens", "prompt_condition_type", "compression_ratio_threshold"),
    *("logprob_threshold", "no_speech_threshold", "alignment_heads", "force_unique_generate_call"),
    "median_filter_width",
}
"""What transformers reads of Whisper's files and calls, though its own class does not name it."""


def test_every_setting_of_transformers_has_its_place():
    theirs = {name for name in vars(transformers.GenerationConfig()) if not name.startswith("_")}
    known = [IMPLEMENTED, set(NOT_IMPLEMENTED), WITHOUT_EFFECT]
    ours = {"frequency_penalty", "presence_penalty", "logit_bias", "forced_decoder_ids"} | OF_SPEECH
    assert set.union(*known) == theirs | ours
    assert sum(map(len, known)) == len(theirs | ours)


@pytest.mark.parametrize("name", NOT_IMPLEMENTED)
def test_what_is_not_implemented_is_refused_wherever_it_is_set(name):
    harmless = (*NOT_IMPLEMENTED[name], None)[0]
    expected = (
        f"generate() cannot use these settings:\n  - {name}='anything' is not implemented; pass {name}={harmless!r}"
    )
    assert complaint(**{name: "anything"}) == expected
    assert complaint({name: "anything"}) == expected
    assert complaint({}, {name: "anything"}) == expected
    merged({name: "anything"}, **{name: harmless})


def test_the_defaults_of_transformers_are_accepted():
    defaults = transformers.GenerationConfig._get_default_generation_params()
    merged(defaults)
    merged({}, **{name: value for name, value in defaults.items() if name != "max_length"})


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ({"temprature": 0.5}, "temprature: there is no such setting; check the spelling"),
        ({"token_type_ids": [[0]]}, "token_type_ids: there is no such setting; check the spelling"),
        ({"max_length": 5, "max_new_tokens": 6}, "max_length and max_new_tokens are both given; give one"),
        ({"temperature": 0.5}, "temperature=0.5 has no effect without sampling; add do_sample=True"),
        ({"top_k": 5}, "top_k=5 has no effect without sampling; add do_sample=True"),
        ({"top_p": 0.5, "do_sample": False}, "top_p=0.5 has no effect without sampling; add do_sample=True"),
        ({"max_length": 0}, "max_length=0: expected None or an integer from 1 to 16777216"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: expected None or an integer from 1 to 16777216"),
        ({"max_new_tokens": -3}, "max_new_tokens=-3: expected None or an integer from 1 to 16777216"),
        ({"max_new_tokens": 2.5}, "max_new_tokens=2.5: expected None or an integer from 1 to 16777216"),
        ({"max_new_tokens": True}, "max_new_tokens=True: expected None or an integer from 1 to 16777216"),
        ({"do_sample": "yes"}, "do_sample='yes': expected True or False"),
        (
            {"temperature": 0.0, "do_sample": True},
            "temperature=0.0: expected None or a number above 0; do_sample=False is the limit of 0",
        ),
        (
            {"temperature": -1, "do_sample": True},
            "temperature=-1: expected None or a number above 0; do_sample=False is the limit of 0",
        ),
        (
            {"temperature": "hot", "do_sample": True},
            "temperature='hot': expected None or a number above 0; do_sample=False is the limit of 0",
        ),
        (
            {"top_k": -1, "do_sample": True},
            "top_k=-1: expected None or an integer from 0, which keeps all tokens, to 2147483647",
        ),
        ({"top_p": 0.0, "do_sample": True}, "top_p=0.0: expected None or a number above 0 and at most 1"),
        ({"top_p": 1.2, "do_sample": True}, "top_p=1.2: expected None or a number above 0 and at most 1"),
        (
            {"eos_token_id": -1},
            "eos_token_id=-1: expected None or a token id or a list of them, each an integer from 0 to 2147483647",
        ),
        (
            {"eos_token_id": [2, None]},
            "eos_token_id=[2, None]: "
            "expected None or a token id or a list of them, each an integer from 0 to 2147483647",
        ),
        (
            {"pad_token_id": -1},
            "pad_token_id=-1: expected None or a token id, which is an integer from 0 to 2147483647",
        ),
        (
            {"bos_token_id": [1]},
            "bos_token_id=[1]: expected None or a token id, which is an integer from 0 to 2147483647",
        ),
        (
            {"num_beams": 2, "num_return_sequences": 3},
            "num_return_sequences=3 is more than num_beams=2",
        ),
        (
            {"num_beams": 2, "num_return_sequences": 3, "do_sample": True},
            "num_return_sequences=3 is more than num_beams=2",
        ),
        (
            {"num_return_sequences": 3},
            "num_return_sequences=3 would be the same completion; add do_sample=True or num_beams",
        ),
        ({"length_penalty": 2.0}, "length_penalty=2.0 has no effect without beams; add num_beams=2 or more"),
        ({"early_stopping": True}, "early_stopping=True has no effect without beams; add num_beams=2 or more"),
        (
            {"early_stopping": "never", "num_beams": 1},
            "early_stopping='never' has no effect without beams; add num_beams=2 or more",
        ),
        ({"min_p": 0.5}, "min_p=0.5 has no effect without sampling; add do_sample=True"),
        ({"typical_p": 0.5}, "typical_p=0.5 has no effect without sampling; add do_sample=True"),
        ({"epsilon_cutoff": 0.5}, "epsilon_cutoff=0.5 has no effect without sampling; add do_sample=True"),
        ({"eta_cutoff": 0.5}, "eta_cutoff=0.5 has no effect without sampling; add do_sample=True"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_named_with_what_was_expected(call, line):
    assert complaint(**call) == f"generate() cannot use these settings:\n  - {line}"


KINDS = {
    "an integer from 1 to 16384": (("num_return_sequences", "num_beams"), [0, -1, 1.5, True, "2", 10**6, 10**400]),
    "None or an integer from 1 to 4096": (
        ("prompt_lookup_num_tokens", "max_matching_ngram_size", "num_assistant_tokens"),
        [0, -1, 1.5, True, "2", 10**9],
    ),
    "None or an integer from 1 to 16777216": (("max_length", "max_new_tokens"), [0, "2", 10**9, [5], float("nan")]),
    "None or an integer from 0 to 16777216": (
        ("min_length", "min_new_tokens", "max_initial_timestamp_index"),
        [-1, 1.5, True, "2", 10**9],
    ),
    "None or an integer from 0 to 4096": (
        ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
        [-1, 1.5, True, "2", 10**9],
    ),
    "True or False": (
        ("remove_invalid_values", "renormalize_logits", "output_scores", "output_logits", "return_dict_in_generate"),
        [0, 1, "yes"],
    ),
    "a finite number": (("length_penalty",), ["1", True, float("nan"), float("inf"), [1.0], 10**400]),
    "None or a finite number": (
        ("frequency_penalty", "presence_penalty"),
        ["1", True, float("nan"), float("inf"), [1.0], 10**400],
    ),
    "None or a number above 0": (
        ("max_time", "repetition_penalty", "encoder_repetition_penalty"),
        [0, -0.5, "1", True, float("nan"), float("inf"), 10**400],
    ),
    "None or a number from 0 to 1": (
        ("min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
        [-0.1, 1.1, "0.5", False, float("nan"), 10**400],
    ),
    "None or a token id, which is an integer from 0 to 2147483647": (
        ("decoder_start_token_id", "forced_bos_token_id", "no_timestamps_token_id"),
        [-1, 1.0, "1", True, [1], 2**31],
    ),
    "None or a token id or a list of them, each an integer from 0 to 2147483647": (
        ("forced_eos_token_id", "eos_token_id"),
        [-1, 1.0, "1", [1, -1], [[1]], [2**31]],
    ),
    "None or a list of token ids, each an integer from 0 to 2147483647": (
        ("suppress_tokens", "begin_suppress_tokens", "prompt_ids"),
        [1, [-1], [1.0], ["1"], [[1]], "text"],
    ),
    'True, False or "never"': (("early_stopping",), [0, 1, "always", "True", ["never"]]),
    "None or a string": (("task",), [1, ["translate"]]),
    "None or a string or a list of strings, none of them empty": (
        ("stop_strings", "language"),
        ["", [], [""], 1, [1, "a"], [["a"], ["b", "c"]]],
    ),
    "None or a list of lists of token ids, none of them empty": (
        ("bad_words_ids",),
        [1, [1], [[]], [[1], []], [[1, -1]], [[1.0]], [["a"]]],
    ),
    "None or tuples of token ids and the number that each adds to the score": (
        ("sequence_bias",),
        [1, "text", {1: 2.0}, {(): 2.0}, {(1,): "2"}, {(-1,): 2.0}, {(1,): float("nan")}, [[[1], 2, 3]], [[1, 2.0]]],
    ),
    "None or a dict from token ids to numbers": (
        ("logit_bias",),
        [1, [(1, 2.0)], {-1: 2.0}, {1.5: 2.0}, {"a": 2.0}, {"-1": 2.0}, {1: "2"}, {1: float("nan")}, {"9" * 99: 2.0}],
    ),
    "a dict from strings to token ids": (("lang_to_id", "task_to_id"), [1, ["en"], {"<|en|>": -1}, {1: 1}]),
    "None or a list of pairs of a position and a token id": (
        ("forced_decoder_ids",),
        [1, [1], [[1]], [[1, 2, 3]], [[None, 1]], [[1, -2]], {1: 2}],
    ),
    "None or an integer of at least 0 and a number above 0": (
        ("exponential_decay_length_penalty",),
        [1.5, "12", [1], (-1, 1.5), (1.5, 1.5), (1, 0.0), (1, 1.5, 2)],
    ),
}
"""What is expected of settings: some of which it is, and values that are something else."""
NEEDS = {
    **{name: {"do_sample": True} for name in ("min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")},
    **{name: {"num_beams": 2} for name in ("length_penalty", "early_stopping")},
}
"""Without which a setting has no effect."""


@pytest.mark.parametrize("where", ["model", "config", "call"])
@pytest.mark.parametrize(
    ("name", "expected"), [(name, expected) for expected, (names, _) in KINDS.items() for name in names]
)
def test_a_value_of_another_kind_is_refused_wherever_it_is_set(name, expected, where):
    for value in [*KINDS[expected][1], np.array([0.5, 0.6]), object()]:
        layers = {"model": {}, "config": {}, "call": NEEDS.get(name, {})}
        layers[where] = layers[where] | {name: value}
        assert complaint(layers["model"], layers["config"], **layers["call"]) == (
            f"generate() cannot use these settings:\n  - {name}={brief(value)}: expected {expected}"
        )


def test_a_value_of_another_kind_contradicts_nothing_else():
    """Whether `length_penalty` has an effect is not known then; that `top_p` has none is."""
    assert complaint(num_beams="4", num_return_sequences=9, length_penalty=2.0, top_p=0.5) == (
        "generate() cannot use these settings:\n"
        "  - top_p=0.5 has no effect without sampling; add do_sample=True\n"
        "  - num_beams='4': expected an integer from 1 to 16384"
    )


@pytest.mark.parametrize("value", [np.array([0.5, 0.6]), np.array([])], ids=str)
def test_arrays_in_the_place_of_numbers_are_refused(value):
    """Also by what would compare them."""
    assert complaint(temperature=value, penalty_alpha=value) == (
        "generate() cannot use these settings:\n"
        f"  - temperature={value!r} has no effect without sampling; add do_sample=True\n"
        f"  - temperature={value!r}: expected None or a number above 0; do_sample=False is the limit of 0\n"
        f"  - penalty_alpha={value!r} is not implemented; pass penalty_alpha=0"
    )


@pytest.mark.parametrize(
    "given",
    [
        {"length_penalty": -1.5, "early_stopping": "never", "num_beams": 2, "num_return_sequences": 2},
        {"length_penalty": 1, "early_stopping": False},
        {"length_penalty": None, "early_stopping": None, "num_beams": None, "num_return_sequences": None},
        {"num_return_sequences": 3, "do_sample": True},
        {"frequency_penalty": -1.0, "presence_penalty": np.float32(0.5), "repetition_penalty": np.float64(1.5)},
        {"suppress_tokens": np.array([1, 2]), "begin_suppress_tokens": (), "forced_eos_token_id": np.array([1])},
        {"stop_strings": "a"},
        {"stop_strings": ("a", "b")},
        {"sequence_bias": {(1,): 2, (1, 2): -1.0}, "logit_bias": {1: 2, np.int64(3): -1.0, "4": 0.5}},
        {"sequence_bias": [[[1], 2], ((1, 2), -1.0)], "bad_words_ids": ((1,), [2, 3])},
        {"forced_decoder_ids": [[1, 2], (3, 4)], "exponential_decay_length_penalty": [0, 0.5]},
        {"min_p": 0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": None},
    ],
    ids=str,
)
def test_right_values_are_taken_as_they_are(given):
    assert repr(merged(**given).to_dict()) == repr(given)


def test_everything_wrong_is_said_at_once():
    assert complaint({"penalty_alpha": 0.6}, top_q=1, max_new_tokens=0, top_p=0.5) == (
        "generate() cannot use these settings:\n"
        "  - top_q: there is no such setting; check the spelling\n"
        "  - top_p=0.5 has no effect without sampling; add do_sample=True\n"
        "  - max_new_tokens=0: expected None or an integer from 1 to 16777216\n"
        "  - penalty_alpha=0.6 is not implemented; pass penalty_alpha=0"
    )

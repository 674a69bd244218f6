"""Configurations: files of transformers v4 and v5 in, the same out; what is refused, and how."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
import transformers
from models.tiny_configs import CASES, HEADS

from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import CheckpointError, ConfigError
from flaxmodels.files.reading import read_json
from flaxmodels.models.bert import BertConfig
from flaxmodels.models.bloom import BloomConfig
from flaxmodels.models.clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from flaxmodels.models.gpt2 import GPT2Config
from flaxmodels.models.gpt_neox import GPTNeoXConfig
from flaxmodels.models.gptj import GPTJConfig
from flaxmodels.models.llama import LlamaConfig
from flaxmodels.models.opt import OPTConfig
from flaxmodels.nn.activations import ACTIVATIONS

BERT_V4 = {
    "_name_or_path": "google-bert/bert-base-uncased",
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "id2label": {"0": "negative", "1": "neutral", "2": "positive"},
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "label2id": {"negative": 0, "neutral": 1, "positive": 2},
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "task_specific_params": {"summarization": {"beams": [1, 2]}},
    "torch_dtype": "float32",
    "transformers_version": "4.46.2",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}
LLAMA_V4 = {
    "_name_or_path": "meta-llama/Llama-3.2-1B",
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
FAMILIES = [
    (ours, getattr(transformers, ours.__name__))
    for ours in (BertConfig, LlamaConfig, GPT2Config, GPTJConfig, GPTNeoXConfig, BloomConfig, OPTConfig)
]
UNSTATED = {"head_dim", "num_key_value_heads", "rope_parameters", "word_embed_proj_dim"}
"""Fields of which transformers makes the default out of others."""
ACTIVATION_NAMES = ", ".join(sorted(ACTIVATIONS))


@pytest.mark.parametrize(("kind", "content"), [(BertConfig, BERT_V4), (LlamaConfig, LLAMA_V4)])
def test_a_file_of_v4_comes_out_as_it_went_in(tmp_path, kind, content):
    (tmp_path / "config.json").write_text(json.dumps(content))
    config = kind.from_pretrained(tmp_path)
    config.save_pretrained(tmp_path / "new")
    written = json.loads((tmp_path / "new" / "config.json").read_text())
    assert written == content
    assert kind.from_json_file(tmp_path / "new" / "config.json").to_dict() == config.to_dict()


def contains(values, content) -> bool:
    """Whether a dict has all that is in another, in the dicts within it too."""
    if not (isinstance(values, dict) and isinstance(content, dict)):
        return values == content
    return all(name in values and contains(values[name], value) for name, value in content.items())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_file_of_v5_comes_out_as_it_went_in(tmp_path, case):
    theirs = case.theirs.config_class(**case.values)
    theirs.save_pretrained(tmp_path)
    content = read_json(tmp_path / "config.json")
    ours = case.ours.config_class.from_pretrained(tmp_path)
    assert json.loads(ours.to_json_string()) == content
    assert contains(json.loads(case.ours.config_class.from_any(theirs).to_json_string()), content)


@pytest.mark.parametrize("case", HEADS, ids=str)
def test_transformers_reads_what_did_not_come_from_a_file(tmp_path, case):
    case.ours.config_class(**case.values).save_pretrained(tmp_path)
    theirs = case.theirs.config_class.from_pretrained(tmp_path)
    expected = case.theirs.config_class(**case.values).to_dict()
    assert {name: value for name, value in theirs.to_dict().items() if name in expected} == expected


@pytest.mark.parametrize(("ours", "theirs"), FAMILIES)
def test_defaults_are_those_of_transformers(ours, theirs):
    mine, reference = vars(ours()), theirs().to_dict()
    differing = {name for name in mine.keys() & reference.keys() if mine[name] != reference[name]}
    assert differing <= {"architectures", "id2label", "label2id", *UNSTATED}
    absent = {name for name in theirs.__annotations__ if not hasattr(ours, name)}
    assert absent <= {"pretraining_tp"}  # of Llama, where it changes nothing
    config = ours()
    if ours is LlamaConfig:
        assert (config.features_per_head, config.kv_heads) == (reference["head_dim"], reference["num_key_value_heads"])
        assert config.rope.theta == reference["rope_parameters"]["rope_theta"]
    assert config.num_labels == theirs().num_labels


def test_values_that_no_field_describes_are_attributes():
    config = BertConfig.from_dict(BERT_V4)
    assert config.task_specific_params == {"summarization": {"beams": [1, 2]}}
    assert config.id2label == {0: "negative", 1: "neutral", 2: "positive"}
    assert config.num_labels == 3
    with pytest.raises(AttributeError, match=r"^BertConfig has no value 'nothing'$"):
        config.nothing  # noqa: B018


def test_changes_are_written():
    config = LlamaConfig.from_dict(LLAMA_V4)
    config.hidden_act, config.new, config.attention_dropout = "relu", [1], 0.5
    changed = {"hidden_act": "relu", "new": [1], "attention_dropout": 0.5}
    assert config.to_dict() == LLAMA_V4 | changed
    config.update({"hidden_act": "silu", "mlp_bias": True})
    assert (config.hidden_act, config.mlp_bias) == ("silu", True)
    config.num_labels = 4
    assert config.to_dict()["label2id"] == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2, "LABEL_3": 3}


def test_overrides_win_and_must_be_known():
    config = BertConfig.from_dict(BERT_V4, hidden_dropout_prob=0.0, gradient_checkpointing=True, num_labels=3)
    assert (config.hidden_dropout_prob, config.gradient_checkpointing) == (0.0, True)
    assert config.id2label == {0: "negative", 1: "neutral", 2: "positive"}
    assert BertConfig.from_dict(BERT_V4, num_labels=2).id2label == {0: "LABEL_0", 1: "LABEL_1"}
    with pytest.raises(ConfigError) as error:
        BertConfig.from_dict(BERT_V4, hiden_size=3, layers=2)
    assert str(error.value) == (
        "BertConfig has no field 'hiden_size': did you mean 'hidden_size'?\n"
        "BertConfig has no field 'layers': check the spelling"
    )


def test_names_of_an_architectures_own():
    class OwnConfig(PreTrainedConfig):
        model_type = "own"
        attribute_map = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer"}
        n_embd: int = 8
        n_layer: int = 2

    content = {"model_type": "own", "n_embd": 12, "n_layer": 3}
    config = OwnConfig.from_dict(content)
    assert (config.hidden_size, config.num_hidden_layers) == (12, 3)
    assert config.to_dict() == content
    config.hidden_size = 5
    assert (config.n_embd, config.to_dict()["n_embd"]) == (5, 5)
    assert OwnConfig.from_dict(content, hidden_size=4).n_embd == 4
    assert OwnConfig(hidden_size=4).n_embd == 4
    common = {"model_type": "own", "num_hidden_layers": 3}
    config = OwnConfig.from_dict(common)
    assert config.to_dict() == common
    config.n_layer = 4
    assert config.to_dict() == {"model_type": "own", "num_hidden_layers": 4}


def test_gpt_neox_turns_as_files_of_v4_say():
    fields = {"rotary_pct": 0.5, "rotary_emb_base": 500, "hidden_size": 80, "num_attention_heads": 4}
    rope = GPTNeoXConfig(**fields).rope
    theirs: Any = transformers.GPTNeoXConfig(**fields).rope_parameters
    assert (rope.rotary_dim, rope.theta) == (10, 500)
    assert (theirs["partial_rotary_factor"], theirs["rope_theta"]) == (0.5, 500)
    scaled = GPTNeoXConfig(**fields, rope_scaling={"type": "linear", "factor": 2.0}).rope
    assert (scaled.rope_type, scaled.factor, scaled.rotary_dim, scaled.theta) == ("linear", 2.0, 10, 500)


@pytest.mark.parametrize(
    ("kind", "values", "problems"),
    [
        (
            GPT2Config,
            {"summary_type": "attn", "summary_activation": "swoosh", "n_embd": 10, "n_head": 3},
            [
                "summary_type='attn': expected one of cls_index, first, last, mean",
                f"summary_activation='swoosh': expected None or one of '', {ACTIVATION_NAMES}",
                "n_embd=10 is not a multiple of n_head=3",
            ],
        ),
        (
            GPTJConfig,
            {"activation_function": "swoosh", "n_embd": 10, "n_head": 3, "rotary_dim": None},
            [
                f"activation_function='swoosh': expected one of {ACTIVATION_NAMES}",
                "n_embd=10 is not a multiple of n_head=3",
                "rotary_dim=None: expected an even number up to n_embd / n_head = 3",
            ],
        ),
        (
            GPTNeoXConfig,
            {"hidden_act": "swoosh", "hidden_size": 10, "num_attention_heads": 3, "rope_scaling": {"type": "spiral"}},
            [
                f"hidden_act='swoosh': expected one of {ACTIVATION_NAMES}",
                "hidden_size=10 is not a multiple of num_attention_heads=3",
                "unknown rope_type 'spiral'. Known: default, dynamic, linear, llama3, longrope, yarn.",
            ],
        ),
        (
            BloomConfig,
            {"slow_but_exact": True, "pretraining_tp": 4, "n_head": 3},
            [
                "hidden_size=64 is not a multiple of n_head=3",
                "slow_but_exact=True with pretraining_tp=4 is not implemented",
            ],
        ),
        (
            OPTConfig,
            {"activation_function": "swoosh", "hidden_size": 10, "num_attention_heads": 3},
            [
                f"activation_function='swoosh': expected one of {ACTIVATION_NAMES}",
                "hidden_size=10 is not a multiple of num_attention_heads=3",
            ],
        ),
    ],
)
def test_decoders_that_cannot_be_computed(kind, values, problems):
    with pytest.raises(ConfigError) as error:
        kind(**values)
    assert str(error.value) == "\n  - ".join([f"{kind.__name__} cannot be computed:", *problems])


CLIP_V4 = {
    "logit_scale_init_value": 2.5,
    "model_type": "clip",
    "text_config": {"hidden_size": 16, "new": [1], "model_type": "clip_text_model", "id2label": {"0": "A", "1": "B"}},
    "text_config_dict": None,
    "torch_dtype": "float32",
    "vision_config": {"hidden_size": 24},
}


def test_configurations_within_a_configuration(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CLIP_V4))
    config = CLIPConfig.from_pretrained(tmp_path)
    assert (config.text_config.hidden_size, config.text_config.new, config.vision_config.hidden_size) == (16, [1], 24)
    assert json.loads(config.to_json_string()) == CLIP_V4
    assert copy.deepcopy(config).to_dict() == pickle.loads(pickle.dumps(config)).to_dict() == config.to_dict()
    text = CLIPTextConfig.from_pretrained(tmp_path)
    assert json.loads(text.to_json_string()) == CLIP_V4["text_config"]
    assert CLIPTextConfig.from_any(config).to_dict() == text.to_dict()
    other = CLIPConfig.from_dict(CLIP_V4, text_config={"vocab_size": 7}, vision_config=CLIPVisionConfig(hidden_size=36))
    assert (other.text_config.hidden_size, other.text_config.vocab_size) == (16, 7)
    assert (other.vision_config.hidden_size, config.vision_config.hidden_size) == (36, 24)
    config.vision_config.hidden_act = "gelu"
    assert config.to_dict()["vision_config"] == {"hidden_size": 24, "hidden_act": "gelu"}
    assert CLIPConfig().to_dict()["text_config"] == CLIPTextConfig().to_dict()
    with pytest.raises(ConfigError) as error:
        CLIPConfig(vision_config=CLIPTextConfig())
    assert str(error.value) == (
        "CLIPConfig cannot be computed:\n"
        "  - vision_config: expected a configuration of model_type 'clip_vision_model', got 'clip_text_model'"
    )


def test_early_configurations_of_clip_repeat_the_towers():
    content = CLIP_V4 | {"text_config_dict": {"hidden_size": 8, "num_attention_heads": 2}}
    ours, theirs = CLIPConfig.from_dict(content), transformers.CLIPConfig.from_dict(copy.deepcopy(content))
    for name in ("hidden_size", "num_attention_heads", "eos_token_id", "new"):
        assert getattr(ours.text_config, name) == getattr(theirs.text_config, name), name
    assert ours.vision_config.hidden_size == 24
    assert "text_config_dict" not in ours.to_dict()


def test_copies_share_nothing():
    config = LlamaConfig.from_dict(LLAMA_V4)
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), LlamaConfig.from_dict(config.to_dict())):
        assert config.rope_scaling is not None
        twin.rope_scaling = {**config.rope_scaling, "factor": 2.0}
        assert config.rope_scaling["factor"] == 32.0
        assert twin.to_dict() == LLAMA_V4 | {"rope_scaling": LLAMA_V4["rope_scaling"] | {"factor": 2.0}}


def test_bert_that_cannot_be_computed():
    with pytest.raises(ConfigError) as error:
        BertConfig(
            hidden_act="swoosh",
            position_embedding_type="relative_key",
            hidden_size=10,
            num_attention_heads=3,
            add_cross_attention=True,
        )
    assert str(error.value) == (
        "BertConfig cannot be computed:\n"
        f"  - hidden_act='swoosh': expected one of {ACTIVATION_NAMES}\n"
        "  - position_embedding_type='relative_key': expected absolute, the only one that is implemented\n"
        "  - hidden_size=10 is not a multiple of num_attention_heads=3\n"
        "  - add_cross_attention=True needs is_decoder=True"
    )


def test_llama_that_cannot_be_computed():
    with pytest.raises(ConfigError) as error:
        LlamaConfig(hidden_act="swoosh", hidden_size=10, num_attention_heads=3, num_key_value_heads=2, head_dim=None)
    assert str(error.value) == (
        "LlamaConfig cannot be computed:\n"
        f"  - hidden_act='swoosh': expected one of {ACTIVATION_NAMES}\n"
        "  - hidden_size=10 is not a multiple of num_attention_heads=3\n"
        "  - num_attention_heads=3 is not a multiple of num_key_value_heads=2\n"
        "  - rope_parameters do not describe rope_type 'default':\n"
        "      - rotary_dim=3: expected an even number from 2 to head_dim=3\n"
        "    'default' takes partial_rotary_factor, rope_theta, rope_type. Correct them in the config."
    )
    with pytest.raises(ConfigError) as error:
        LlamaConfig(rope_scaling={"type": "spiral", "factor": 2.0})
    assert str(error.value) == (
        "LlamaConfig cannot be computed:\n"
        "  - unknown rope_type 'spiral'. Known: default, dynamic, linear, llama3, longrope, yarn."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "invalid JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        (b"\xff", "invalid JSON ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte)"),
        (b"[1]", "invalid JSON (not an object)"),
        (b'{"vocab_size": 1, "vocab_size": 2}', "invalid JSON (duplicate keys)"),
    ],
)
def test_files_that_hold_no_configuration(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        BertConfig.from_pretrained(tmp_path)
    assert str(error.value) == f"config.json: {message}. Download or copy it again."

"""Configurations that nobody should load: what is refused by name, and that nothing else happens."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from flaxmodels import fields
from flaxmodels.architectures import ARCHITECTURES
from flaxmodels.config import GENERATION_SETTINGS, METADATA, PreTrainedConfig
from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.fields import fields_of
from flaxmodels.models.bert import BertConfig, BertModel
from flaxmodels.models.clip import CLIPConfig
from flaxmodels.models.gpt2 import GPT2Config
from flaxmodels.models.llama import LlamaConfig, LlamaModel
from flaxmodels.models.qwen3_moe import Qwen3MoeConfig
from flaxmodels.nn import activations

FIXTURES = sorted((Path(__file__).parent / "fixtures" / "configs").glob("*.json"))
NAN, INF = float("nan"), float("inf")
SIZE, LAYERS = f"an integer from 1 to {fields.MAX_SIZE}", f"an integer from 1 to {fields.MAX_LAYERS}"
TOKEN, SPECIAL = f"an integer from 0 to {fields.MAX_INT}", f"an integer from -1 to {fields.MAX_INT}"
LENGTH, PIXELS = f"an integer from 1 to {fields.MAX_INT}", f"an integer from 1 to {fields.MAX_IMAGE_SIZE}"
EPSILON = "a number above 0 and at most 1"
DEPTHS = "a list with the number of layers of each stage, at least 1 each and at most 512 together"
ORIGINAL = "original_max_position_embeddings"
OF_ALL_ROPES = ("partial_rotary_factor", "rope_theta", "rope_type")
ACTIVATIONS = ", ".join(sorted(activations.ACTIVATIONS))
ROPES = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", ORIGINAL),
    "yarn": ("factor", "attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow", "truncate", ORIGINAL),
    "longrope": ("factor", "attention_factor", "short_factor", "long_factor", ORIGINAL),
}
"""The parameters of each type, beside those of all."""


def of_rope(rope_type: str, *problems: str) -> str:
    takes = ", ".join(sorted({*OF_ALL_ROPES, *ROPES[rope_type]}))
    lines = [*(f"  - {problem}" for problem in problems), f"{rope_type!r} takes {takes}. Correct them in the config."]
    return "\n    ".join([f"rope_parameters do not describe rope_type {rope_type!r}:", *lines])


def config_class(model_type: str) -> Any:
    architecture = ARCHITECTURES[model_type]
    return architecture.load(architecture.config)


def message_of(kind, function, *args, **kwargs) -> str:
    with pytest.raises(kind) as caught:
        function(*args, **kwargs)
    return str(caught.value)


def nested(depth: int) -> list:
    return [nested(depth - 1)] if depth else []


ATTACKS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("bert", {"hidden_size": "2"}, [f"hidden_size='2': expected {SIZE}"]),
    ("bert", {"hidden_size": 0}, [f"hidden_size=0: expected {SIZE}"]),
    ("bert", {"hidden_size": 768.0}, [f"hidden_size=768.0: expected {SIZE}"]),
    ("bert", {"hidden_size": True}, [f"hidden_size=True: expected {SIZE}"]),
    ("bert", {"hidden_size": None}, [f"hidden_size=None: expected {SIZE}"]),
    ("bert", {"hidden_size": [768]}, [f"hidden_size=[768]: expected {SIZE}"]),
    ("bert", {"hidden_size": 2**21}, [f"hidden_size=2097152: expected {SIZE}"]),
    ("bert", {"num_attention_heads": 0}, [f"num_attention_heads=0: expected {SIZE}"]),
    ("bert", {"num_attention_heads": 7}, ["hidden_size=768 is not a multiple of num_attention_heads=7"]),
    ("bert", {"num_hidden_layers": -1}, [f"num_hidden_layers=-1: expected {LAYERS}"]),
    ("bert", {"num_hidden_layers": 10**9}, [f"num_hidden_layers=1000000000: expected {LAYERS}"]),
    ("bert", {"num_hidden_layers": 10**400}, [f"num_hidden_layers=<an integer of 1329 bits>: expected {LAYERS}"]),
    ("bert", {"layer_norm_eps": "x"}, [f"layer_norm_eps='x': expected {EPSILON}"]),
    ("bert", {"layer_norm_eps": 0}, [f"layer_norm_eps=0: expected {EPSILON}"]),
    ("bert", {"layer_norm_eps": NAN}, [f"layer_norm_eps=nan: expected {EPSILON}"]),
    ("bert", {"hidden_dropout_prob": 1.5}, ["hidden_dropout_prob=1.5: expected a number from 0 to 1"]),
    ("bert", {"hidden_dropout_prob": -0.1}, ["hidden_dropout_prob=-0.1: expected a number from 0 to 1"]),
    ("bert", {"initializer_range": INF}, ["initializer_range=inf: expected a number of at least 0"]),
    ("bert", {"hidden_act": "swoosh"}, [f"hidden_act='swoosh': expected one of {ACTIVATIONS}"]),
    ("bert", {"hidden_act": None}, [f"hidden_act=None: expected one of {ACTIVATIONS}"]),
    ("bert", {"hidden_act": ["gelu"]}, [f"hidden_act=['gelu']: expected one of {ACTIVATIONS}"]),
    ("bert", {"vocab_size": 2**31}, ["vocab_size=2147483648: expected an integer from 1 to 16777216"]),
    ("bert", {"type_vocab_size": 0}, [f"type_vocab_size=0: expected {SIZE}"]),
    ("bert", {"max_position_embeddings": 2**31}, [f"max_position_embeddings=2147483648: expected {LENGTH}"]),
    (
        "bert",
        {"id2label": [1]},
        [f"id2label=[1]: expected None or a dict from {TOKEN} to a string or an integer of 32 bits"],
    ),
    (
        "bert",
        {"id2label": {"x": "a", "1": "b"}},
        [f"a key of id2label='x': expected {TOKEN}", f"a key of id2label='1': expected {TOKEN}"],
    ),
    ("bert", {"id2label": {"0": ["a"]}}, ["id2label[0]=['a']: expected a string or an integer of 32 bits"]),
    (
        "bert",
        {"id2label": {"1": "a", "01": "b"}},
        [f"a key of id2label='1': expected {TOKEN}", f"a key of id2label='01': expected {TOKEN}"],
    ),
    (
        "bert",
        {"label2id": "a"},
        [
            "label2id='a': expected None or a dict from a string or an integer of 32 bits to a string "
            "or an integer of 32 bits"
        ],
    ),
    ("bert", {"num_labels": 10**9}, ["num_labels=1000000000: expected an integer from 0 to 1048576"]),
    ("bert", {"num_labels": "2"}, ["num_labels='2': expected an integer from 0 to 1048576"]),
    ("bert", {"num_labels": -1}, ["num_labels=-1: expected an integer from 0 to 1048576"]),
    (
        "bert",
        {"problem_type": "guess"},
        [
            "problem_type='guess': expected None or one of regression, single_label_classification, "
            "multi_label_classification"
        ],
    ),
    (
        "bert",
        {"architectures": "BertModel"},
        ["architectures='BertModel': expected None or a list, each item a string"],
    ),
    ("bert", {"architectures": [1]}, ["architectures[0]=1: expected a string"]),
    ("bert", {"is_decoder": "yes"}, ["is_decoder='yes': expected True or False"]),
    ("bert", {"use_cache": 1}, ["use_cache=1: expected True or False"]),
    ("bert", {"pad_token_id": -2}, [f"pad_token_id=-2: expected None or {SPECIAL}"]),
    ("bert", {"eos_token_id": [1, "2"]}, [f"eos_token_id[1]='2': expected {SPECIAL}"]),
    (
        "bert",
        {"position_embedding_type": "relative_key"},
        ["position_embedding_type='relative_key': expected absolute, the only one that is implemented"],
    ),
    ("bert", {"return_dict": 2}, ["return_dict=2: expected None or True or False"]),
    ("bert", {"custom": nested(80)}, ["custom: nested more than 64 deep"]),
    (
        "bert",
        {"per_layer_config": {"3": {"num_attention_heads": 4}}},
        [
            "per_layer_config={'3': {'num_attention_heads': 4}}: "
            "expected None, as layers that differ are not implemented"
        ],
    ),
    ("roberta", {"pad_token_id": None}, [f"pad_token_id=None: expected {TOKEN}"]),
    (
        "roberta",
        {"max_position_embeddings": 2},
        ["max_position_embeddings=2: positions begin after pad_token_id=1, expected more"],
    ),
    ("albert", {"num_hidden_groups": 0}, [f"num_hidden_groups=0: expected {LAYERS}"]),
    ("albert", {"inner_group_num": 2}, ["inner_group_num=2: only 1 is implemented"]),
    ("albert", {"classifier_dropout": 7}, ["classifier_dropout_prob=7: expected a number from 0 to 1"]),
    (
        "electra",
        {"summary_type": "attn", "summary_activation": "swoosh"},
        [
            "summary_type='attn': expected one of cls_index, first, last, mean",
            f"summary_activation='swoosh': expected None or one of '', {ACTIVATIONS}",
        ],
    ),
    (
        "gpt2",
        {"n_embd": 12, "hidden_size": 24},
        ["n_embd=12 and hidden_size=24 are names of one field: give it one value"],
    ),
    ("gpt2", {"n_inner": 0}, [f"n_inner=0: expected None or {SIZE}"]),
    ("gpt2", {"n_embd": 10, "n_head": 3}, ["n_embd=10 is not a multiple of n_head=3"]),
    ("gptj", {"rotary_dim": 63}, ["rotary_dim=63: expected an even number up to n_embd / n_head = 256"]),
    ("gptj", {"rotary_dim": 0}, [f"rotary_dim=0: expected None or {SIZE}"]),
    ("bloom", {"n_head": 0, "n_layer": "two"}, [f"n_layer='two': expected {LAYERS}", f"n_head=0: expected {SIZE}"]),
    ("llama", {"head_dim": 0}, [f"head_dim=0: expected None or {SIZE}"]),
    ("llama", {"num_key_value_heads": 0}, [f"num_key_value_heads=0: expected None or {SIZE}"]),
    ("llama", {"num_key_value_heads": 5}, ["num_attention_heads=32 is not a multiple of num_key_value_heads=5"]),
    ("llama", {"rope_scaling": "linear"}, ["rope_scaling='linear': expected None or a dict"]),
    ("llama", {"rope_scaling": {"type": "linear"}}, [of_rope("linear", "missing: factor")]),
    (
        "llama",
        {"rope_scaling": {"type": ["linear"]}},
        ["unknown rope_type ['linear']. Known: default, dynamic, linear, llama3, longrope, yarn."],
    ),
    (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": "8"}},
        [of_rope("linear", "factor='8': expected a number above 0")],
    ),
    (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 0}},
        [of_rope("linear", "factor=0: expected a number above 0")],
    ),
    (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": INF}},
        [of_rope("linear", "factor=inf: expected a number above 0")],
    ),
    (
        "llama",
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1}},
        [of_rope("yarn", "original_max_position_embeddings=1: expected a number above 1")],
    ),
    (
        "llama",
        {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 99999, "long_factor": "x"}},
        [
            of_rope(
                "longrope",
                "long_factor='x': expected a list, each item a number above 0",
                "len(short_factor)=99999: expected rotary_dim / 2 = 64",
            )
        ],
    ),
    (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": -1}},
        [of_rope("default", "rope_theta=-1: expected a number above 0")],
    ),
    (
        "llama",
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        [of_rope("default", "unknown: 'full_attention'={'rope_type': 'default'}")],
    ),
    ("llama", {"rope_theta": "x"}, ["rope_theta='x': expected None or a number above 0"]),
    ("llama", {"partial_rotary_factor": 0}, ["partial_rotary_factor=0: expected None or a number above 0"]),
    (
        "llama",
        {"hidden_size": 8, "num_attention_heads": 4, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        [of_rope("dynamic", "rotary_dim=2: expected an even number from 4 to head_dim=2")],
    ),
    ("qwen2", {"layer_types": ["x"]}, ["layer_types[0]='x': expected one of full_attention, sliding_attention"]),
    (
        "qwen2",
        {"layer_types": "full_attention"},
        ["layer_types='full_attention': expected None or a list, each item one of full_attention, sliding_attention"],
    ),
    ("qwen2", {"sliding_window": 0}, [f"sliding_window=0: expected None or {LENGTH}"]),
    (
        "gemma2",
        {"num_hidden_layers": 2, "layer_types": ["full_attention", "full_attention", "full_attention"]},
        ["len(layer_types)=3: expected num_hidden_layers=2"],
    ),
    ("gemma2", {"attn_logit_softcapping": 0}, ["attn_logit_softcapping=0: expected None or a number above 0"]),
    ("gemma2", {"query_pre_attn_scalar": -1}, ["query_pre_attn_scalar=-1: expected a number above 0"]),
    ("gemma3_text", {"sliding_window_pattern": 0}, [f"sliding_window_pattern=0: expected {SIZE}"]),
    (
        "gemma3_text",
        {"rope_parameters": {"rope_type": "linear", "factor": 8.0}},
        [
            "a key of rope_parameters='rope_type': expected one of full_attention, sliding_attention",
            "rope_parameters['rope_type']='linear': expected None or a dict",
            "a key of rope_parameters='factor': expected one of full_attention, sliding_attention",
            "rope_parameters['factor']=8.0: expected None or a dict",
        ],
    ),
    (
        "gemma3_text",
        {"rope_parameters": {"full_attention": [1]}},
        ["rope_parameters['full_attention']=[1]: expected None or a dict"],
    ),
    ("smollm3", {"no_rope_layers": [1, 0]}, ["len(no_rope_layers)=2: expected num_hidden_layers=36"]),
    (
        "smollm3",
        {"no_rope_layers": [2] * 36},
        [
            "no_rope_layers[0]=2: expected an integer from 0 to 1",
            "no_rope_layers[1]=2: expected an integer from 0 to 1",
            "no_rope_layers[2]=2: expected an integer from 0 to 1",
            "no_rope_layers[3]=2: expected an integer from 0 to 1",
            "no_rope_layers[4]=2: expected an integer from 0 to 1",
            "no_rope_layers[5]=2: expected an integer from 0 to 1",
            "no_rope_layers[6]=2: expected an integer from 0 to 1",
            "no_rope_layers[7]=2: expected an integer from 0 to 1",
            "no_rope_layers: more of its items are wrong",
        ],
    ),
    ("smollm3", {"no_rope_layer_interval": 0}, [f"no_rope_layer_interval=0: expected {SIZE}"]),
    ("mixtral", {"num_experts_per_tok": 9}, ["num_experts_per_tok=9: expected 1 to 8 experts"]),
    ("mixtral", {"num_local_experts": 10**6}, ["num_local_experts=1000000: expected an integer from 0 to 4096"]),
    (
        "mixtral",
        {"num_hidden_layers": 512, "num_local_experts": 4096},
        ["2097152 experts in all layers: expected at most 131072"],
    ),
    ("qwen3_moe", {"decoder_sparse_step": 0}, [f"decoder_sparse_step=0: expected {SIZE}"]),
    ("qwen3_moe", {"mlp_only_layers": [-1]}, ["mlp_only_layers[0]=-1: expected an integer from 0 to 1048576"]),
    ("modernbert", {"global_attn_every_n_layers": 0}, [f"global_attn_every_n_layers=0: expected {SIZE}"]),
    ("modernbert", {"local_rope_theta": "x"}, ["local_rope_theta='x': expected None or a number above 0"]),
    ("modernbert", {"layer_types": []}, ["len(layer_types)=0: expected num_hidden_layers=22"]),
    (
        "t5",
        {"feed_forward_proj": "gated-swoosh"},
        [f"feed_forward_proj='gated-swoosh': expected one of {ACTIVATIONS}, or one with 'gated-' before it"],
    ),
    (
        "t5",
        {"relative_attention_num_buckets": 3},
        ["relative_attention_num_buckets=3: expected an integer from 4 to 1048576"],
    ),
    (
        "t5",
        {"relative_attention_max_distance": 8},
        ["relative_attention_max_distance=8: expected more than relative_attention_num_buckets / 2 = 16"],
    ),
    ("t5", {"dense_act_fn": 3}, [f"dense_act_fn=3: expected one of {ACTIVATIONS}"]),
    ("mbart", {"pad_token_id": None}, [f"pad_token_id=None: expected {TOKEN}"]),
    ("bart", {"decoder_layers": 0, "decoder_attention_heads": 5}, [f"decoder_layers=0: expected {LAYERS}"]),
    (
        "whisper",
        {"d_model": 383},
        [
            "d_model=383 is not a multiple of encoder_attention_heads=6",
            "d_model=383 is not a multiple of decoder_attention_heads=6",
            "d_model=383 is odd, but positions are pairs of sines and cosines",
        ],
    ),
    ("whisper", {"suppress_tokens": "[1]"}, [f"suppress_tokens='[1]': expected None or a list, each item {SPECIAL}"]),
    ("wav2vec2", {"conv_stride": [0]}, [f"conv_stride[0]=0: expected {SIZE}"]),
    (
        "wav2vec2",
        {"conv_kernel": [10, 3]},
        ["conv_dim, conv_stride, conv_kernel: expected as many numbers in each, one for each layer"],
    ),
    ("wav2vec2", {"conv_dim": []}, [f"conv_dim=[]: expected a list of 1 to 512 items, each item {SIZE}"]),
    ("wav2vec2", {"tdnn_dim": 512}, [f"tdnn_dim=512: expected a list of 1 to 512 items, each item {SIZE}"]),
    ("wav2vec2", {"feat_extract_norm": "batch"}, ["feat_extract_norm='batch': expected one of group, layer"]),
    ("vit", {"image_size": [224]}, [f"image_size=[224]: expected {PIXELS} or a list of 2 items, each {PIXELS}"]),
    ("vit", {"image_size": 8}, ["image_size=8 is smaller than patch_size=16"]),
    ("vit", {"patch_size": 0}, [f"patch_size=0: expected {PIXELS} or a list of 2 items, each {PIXELS}"]),
    ("vit", {"image_size": 10**6}, [f"image_size=1000000: expected {PIXELS} or a list of 2 items, each {PIXELS}"]),
    ("clip_vision_model", {"image_size": 16}, ["image_size=16 is smaller than patch_size=32"]),
    ("clip", {"text_config": [1]}, ["text_config: expected a CLIPTextConfig, got list"]),
    (
        "clip",
        {"text_config": {"hidden_size": "x", "num_attention_heads": 0}, "vision_config": 3},
        [
            f"text_config: CLIPTextConfig cannot be computed:\n      - hidden_size='x': expected "
            f"{SIZE}\n      - num_attention_heads=0: expected {SIZE}",
            "vision_config: expected a CLIPVisionConfig, got int",
        ],
    ),
    ("clip", {"text_config_dict": [1]}, ["text_config_dict=[1]: expected None or a dict"]),
    (
        "siglip",
        {"vision_config": {"model_type": "vit"}},
        ["vision_config: expected a configuration of model_type 'siglip_vision_model', got 'vit'"],
    ),
    ("resnet", {"depths": []}, [f"depths=[]: expected {DEPTHS}"]),
    ("resnet", {"depths": [3, 4]}, ["depths=[3, 4] and hidden_sizes=[256, 512, 1024, 2048] differ in length"]),
    ("resnet", {"depths": [0, 1, 1, 1]}, [f"depths=[0, 1, 1, 1]: expected {DEPTHS}"]),
    ("convnext", {"depths": [500, 500, 1, 1]}, [f"depths=[500, 500, 1, 1]: expected {DEPTHS}"]),
    ("convnext", {"hidden_sizes": [1, 2]}, ["len(hidden_sizes)=2: expected num_stages=4"]),
    ("convnext", {"num_stages": 10**9}, [f"num_stages=1000000000: expected {LAYERS}"]),
    (
        "dinov2",
        {"out_features": ["x"]},
        [
            "out_features=['x']: expected names among ['stem', 'stage1', 'stage2', 'stage3', 'stage4', "
            "'stage5', 'stage6', 'stage7', 'stage8', 'stage9', 'stage10', 'stage11', 'stage12']"
        ],
    ),
    ("dinov2", {"out_indices": ["1"]}, ["out_indices[0]='1': expected an integer of 32 bits"]),
    ("dinov2", {"mlp_ratio": 1e-09}, ["mlp_ratio=1e-09 makes feed-forward networks of 0 features"]),
    ("beit", {"stage_names": ["stem"]}, ["len(stage_names)=1: expected a stem and 12 stages"]),
    ("gpt_neox", {"rotary_pct": 0, "rope_scaling": {"type": "spiral"}}, ["rotary_pct=0: expected a number above 0"]),
    ("distilbert", {"dim": 10, "n_heads": 3, "dropout": "x"}, ["dropout='x': expected a number from 0 to 1"]),
    (
        "opt",
        {"word_embed_proj_dim": 0, "_remove_final_layer_norm": "x"},
        ["_remove_final_layer_norm='x': expected True or False", f"word_embed_proj_dim=0: expected None or {SIZE}"],
    ),
    ("gpt_oss", {"swiglu_limit": 0}, ["swiglu_limit=0: expected a number above 0"]),
    ("phi3", {"original_max_position_embeddings": 0}, [f"original_max_position_embeddings=0: expected {LENGTH}"]),
    (
        "mpnet",
        {"relative_attention_num_buckets": 31},
        ["relative_attention_num_buckets=31: expected an integer from 32 to 1048576"],
    ),
    ("marian", {"decoder_vocab_size": 0}, ["decoder_vocab_size=0: expected None or an integer from 1 to 16777216"]),
    ("deit", {"qkv_bias": "yes"}, ["qkv_bias='yes': expected True or False"]),
    ("beit", {"pool_scales": [1, 0]}, [f"pool_scales[1]=0: expected {SIZE}"]),
    ("olmo2", {"rms_norm_eps": 2}, [f"rms_norm_eps=2: expected {EPSILON}"]),
    (
        "qwen3",
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        [of_rope("llama3", "missing: low_freq_factor", "missing: high_freq_factor")],
    ),
]
"""Of a model type, what a file says beside its `model_type`, and the lines of the error."""


@pytest.mark.parametrize(
    ("model_type", "values", "lines"), ATTACKS, ids=[f"{name}-{'-'.join(values)}" for name, values, _ in ATTACKS]
)
def test_a_file_is_refused_by_the_names_of_its_fields(tmp_path, model_type, values, lines):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type} | values))
    kind = config_class(model_type)
    expected = f"{kind.__name__} cannot be computed:\n  - " + "\n  - ".join(lines)
    assert message_of(ConfigError, kind.from_pretrained, tmp_path) == expected


AWKWARD = [
    *(0, 1, 2, 3, 7, -1, 513, 2**14, 2**20, 2**20 + 1, 2**24, 2**31 - 1, 2**31, 2**63, 10**400),
    *(0.0, 0.5, 1.0, 1.5, -0.5, 1e-300, 1e-12, 3e38, 1e308, NAN, INF, -INF, True, False, None),
    *("", "x", "2", "gelu", "full_attention", [], [1], [0], ["x"], [[1]], [1, 2], [NAN], [1] * 12, [2**20] * 4),
    *({}, {"x": 1}, {"0": "a"}, {"rope_type": "yarn"}, {"type": "linear", "factor": 2}, {"rope_type": [1]}),
    *({"rope_type": "dynamic", "factor": 1e38}, {"full_attention": 1}, [0, 1, 1, 0], ["full_attention"] * 2),
]
HANG = 60
"""Seconds of the processor after which a loop over a number of the file is to be blamed, on any machine."""
FEW_LAYERS = dict.fromkeys(("num_hidden_layers", "encoder_layers", "decoder_layers", "n_layer", "n_layers"), 2)


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_awkward_values_are_refused_by_name_or_describe_a_model(model_type, count):
    """Some values, chosen at random, of each field."""
    rng, kind = random.Random(model_type), config_class(model_type)
    models = [ARCHITECTURES[model_type].load(name) for name in ARCHITECTURES[model_type].tasks.values()]
    few = {name: count for name, count in FEW_LAYERS.items() if name in fields_of(kind)}
    for name in fields_of(kind):
        for value in rng.sample(AWKWARD, count):
            try:
                config = kind.from_dict(few | {name: value})
            except ConfigError:
                continue
            assert json.loads(config.to_json_string())["model_type"] == model_type
            if rng.random() < 0.3:
                describe(rng.choice(models), config)


def describe(model_class: Any, config: Any) -> None:
    """Raises nothing but errors of the library, and does not hang."""
    begun = time.process_time()
    with contextlib.suppress(FlaxModelsError):
        model_class.abstract(config)
    assert time.process_time() - begun < HANG, config


@pytest.mark.parametrize(("model_class", "kind"), [(BertModel, BertConfig), (LlamaModel, LlamaConfig)])
def test_the_deepest_model_is_described(model_class, kind):
    begun = time.process_time()
    model_class.abstract(kind(num_hidden_layers=fields.MAX_LAYERS))
    assert time.process_time() - begun < HANG


# ---- what is accepted


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_published_files_are_accepted(path):
    values = json.loads(path.read_text())
    config = config_class(values.get("model_type", "umt5")).from_json_file(path)
    written = json.loads(config.to_json_string())
    assert {name: written[name] for name in values if name != "num_labels"}.items() <= values.items()


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_defaults_are_accepted_ours_and_those_of_transformers(model_type):
    kind, theirs = config_class(model_type), CONFIG_MAPPING[model_type]()
    kind().validate()
    assert kind.from_any(theirs).model_type == model_type
    assert kind.from_dict(json.loads(theirs.to_json_string(use_diff=False))).model_type == model_type
    keywords = {name for base in type(theirs).__mro__ for name in vars(base).get("__annotations__", ())}
    kind(**{name: value for name, value in theirs.to_dict().items() if name in keywords})


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_scripts_say_of_any_configuration_is_accepted(model_type):
    kind = config_class(model_type)
    usual = {name: "x" for name in METADATA | GENERATION_SETTINGS if name not in fields_of(kind)}
    assert vars(kind(**usual)).items() >= usual.items()
    kind(_name_or_path="x", _commit_hash="y", model_type=model_type, architectures=["Z"])


def test_numbers_of_numpy_are_held_as_those_of_python():
    config: Any
    config = BertConfig(hidden_size=np.int64(24), hidden_dropout_prob=np.float32(0.5), num_attention_heads=np.int8(2))
    config.is_decoder, config.eos_token_id = np.bool_(True), np.array([1, 2])
    kinds = [type(config.to_dict()[name]) for name in ("hidden_size", "hidden_dropout_prob", "is_decoder")]
    assert kinds == [int, float, bool]
    assert (config.hidden_size, config.hidden_dropout_prob, config.eos_token_id) == (24, 0.5, [1, 2])
    config.further = {"steps": np.arange(2), "rate": np.float32(0.5)}
    assert json.loads(config.to_json_string())["further"] == {"steps": [0, 1], "rate": 0.5}


def test_an_absent_field_is_checked_where_it_is_given():
    assert not hasattr(LlamaConfig(), "classifier_dropout")
    assert "classifier_dropout" not in LlamaConfig().to_dict()
    config = LlamaConfig.from_dict({"classifier_dropout": 0.5})
    assert (config.classifier_dropout, config.to_dict()["classifier_dropout"]) == (0.5, 0.5)


# ---- keys


ODD_KEYS = [
    *(
        "self",
        "cls",
        "values",
        "validate",
        "to_dict",
        "validation_errors",
        "num_attention_headz",
        "kv_heads",
        "choices",
    ),
    *("__class__", "__init__", "__dict__", "__deepcopy__", "__getstate__", "_keys", "_aside", "_private", "mro"),
    *("", "1", "not an identifier", "ключ", "\x1b[1m"),
]


@pytest.mark.parametrize("model_type", ["bert", "llama", "vit", "beit", "albert", "t5"])
@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys_are_kept_and_harm_nothing(model_type, key):
    kind = config_class(model_type)
    content = {"model_type": model_type, key: "x"}
    config = kind.from_dict(content)
    for same in (config, copy.deepcopy(config), pickle.loads(pickle.dumps(config)), kind.from_any(config)):
        same.validate()
        assert type(same) is kind
        assert json.loads(same.to_json_string()) == content


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_no_key_takes_the_place_of_what_a_class_has(model_type):
    kind = config_class(model_type)
    taken = [name for name in dir(kind) if name not in fields_of(kind) and name != "model_type"]
    taken = [name for name in taken if getattr(getattr(kind, name), "fset", None) is None]
    config = kind.from_dict(dict.fromkeys(taken, "x"))
    assert not vars(config).keys() & set(taken) - {"_keys", "_aside", "_version", "_validated"}
    assert config.to_dict().items() >= dict.fromkeys(taken, "x").items()
    assert kind.from_dict(config.to_dict()).to_dict() == config.to_dict()
    for name in taken:
        assert f"{kind.__name__} has no field {name!r}: " in message_of(ConfigError, kind, **{name: "x"})


def test_a_keyword_that_is_no_field_is_refused_with_the_one_that_was_meant():
    assert message_of(ConfigError, BertConfig, hiden_size=5) == (
        "BertConfig has no field 'hiden_size': did you mean 'hidden_size'?"
    )
    assert message_of(ConfigError, GPT2Config, n_embed=5, num_layers=3, self=1) == (
        "GPT2Config has no field 'n_embed': did you mean 'n_embd'?\n"
        "GPT2Config has no field 'num_layers': did you mean 'n_layer'?\n"
        "GPT2Config has no field 'self': check the spelling"
    )
    assert message_of(ConfigError, BertConfig, model_type="gpt2") == (
        "expected a configuration of model_type 'bert', got 'gpt2'"
    )


def test_an_override_must_be_a_field_whatever_the_file_says():
    content = {"model_type": "bert", "tokens_per_day": 5, "num_beams": 4}
    assert BertConfig.from_dict(content).tokens_per_day == 5
    assert message_of(ConfigError, BertConfig.from_dict, content, tokens_per_day=6, num_beams=2, load_in_8bit=True) == (
        "BertConfig has no field 'tokens_per_day': check the spelling\n"
        "BertConfig has no field 'load_in_8bit': check the spelling\n"
        "BertConfig has no field 'num_beams': it is a setting of generate()"
    )
    assert BertConfig.from_dict(content, torch_dtype="float16", gradient_checkpointing=True).torch_dtype == "float16"


def test_one_field_has_one_value_whatever_its_names():
    content = {"model_type": "gpt2", "n_embd": 12, "hidden_size": 12, "n_head": 3}
    assert GPT2Config.from_dict(content).to_dict() == content
    changed = GPT2Config.from_dict(content | {"hidden_size": 24}, n_embd=36)
    assert changed.to_dict() == content | {"n_embd": 36, "hidden_size": 36}
    assert GPT2Config.from_dict(content, hidden_size=24).n_embd == 24
    assert Qwen3MoeConfig(num_experts=16).num_local_experts == 16


@pytest.mark.parametrize("values", [[1], None, "x", {1: 2}, 3])
def test_values_that_have_no_names_are_refused(values):
    assert message_of(ConfigError, BertConfig.from_dict, values) == (
        f"expected the values of a BertConfig by name, got {values!r}"
    )


def test_a_file_of_another_model_type_is_refused():
    assert message_of(ConfigError, BertConfig.from_dict, {"model_type": ["bert"]}) == (
        "expected a configuration of model_type 'bert', got ['bert']"
    )


# ---- what is set later


@pytest.mark.parametrize(
    ("kind", "name", "value", "line"),
    [
        (BertConfig, "hidden_size", "2", f"hidden_size='2': expected {SIZE}"),
        (GPT2Config, "hidden_size", 0, f"n_embd=0: expected {SIZE}"),
        (BertConfig, "num_labels", 10**9, "num_labels=1000000000: expected an integer from 0 to 1048576"),
        (BertConfig, "id2label", {"x": 1}, f"a key of id2label='x': expected {TOKEN}"),
        (CLIPConfig, "text_config", [1], "text_config: expected a CLIPTextConfig, got list"),
        (LlamaConfig, "classifier_dropout", 2, "classifier_dropout=2: expected None or a number from 0 to 1"),
    ],
)
def test_what_is_set_is_checked_at_once(kind, name, value, line):
    config = kind()
    before = config.to_dict()
    assert message_of(ConfigError, setattr, config, name, value) == f"{kind.__name__} cannot be computed:\n  - {line}"
    assert config.to_dict() == before


def test_anything_else_can_be_set_and_relations_are_checked_when_a_model_is_made():
    config: Any = BertConfig(hidden_size=12, num_hidden_layers=1)
    config.anything = object
    config.text_config = [1]
    config.id2label = {"0": "a", "1": "b", "2": "c"}
    assert (config.anything, config.text_config, config.num_labels) == (object, [1], 3)
    config.num_attention_heads = 5
    assert message_of(ConfigError, BertModel.abstract, config) == (
        "BertConfig cannot be computed:\n  - hidden_size=12 is not a multiple of num_attention_heads=5"
    )


def test_a_configuration_within_another_may_be_set_as_a_dict():
    config = CLIPConfig()
    config.text_config = {"hidden_size": 16, "num_attention_heads": 2}
    assert config.text_config.hidden_size == 16


def test_classes_of_users_are_checked_as_those_of_the_library():
    class OtterConfig(PreTrainedConfig):
        model_type = "otter"
        lengths = (("tails", "count"),)
        count: int = 2
        tails: list[str] | None = None

    assert message_of(ConfigError, OtterConfig, tails=["a"], count="2") == (
        "OtterConfig cannot be computed:\n  - count='2': expected an integer of 32 bits"
    )
    assert message_of(ConfigError, OtterConfig, tails=["a"]) == (
        "OtterConfig cannot be computed:\n  - len(tails)=1: expected count=2"
    )
    assert OtterConfig.from_dict({"model_type": "otter", "further": 1}).further == 1


def test_many_labels_are_refused_before_any_is_made():
    begun = time.process_time()
    for make in (BertConfig, lambda **values: BertConfig.from_dict(values)):
        assert message_of(ConfigError, make, num_labels=10**9, hidden_size=0) == (
            "BertConfig cannot be computed:\n"
            "  - num_labels=1000000000: expected an integer from 0 to 1048576\n"
            f"  - hidden_size=0: expected {SIZE}"
        )
    assert time.process_time() - begun < HANG


def test_transformers_reads_odd_keys_back(tmp_path):
    BertConfig.from_dict({"validate": 1, "not an identifier": 2}).save_pretrained(tmp_path)
    assert transformers.PreTrainedConfig.get_config_dict(tmp_path)[0].items() >= {"not an identifier": 2}.items()

"""The arguments of `from_pretrained`: which reach the configuration, which the constructor, and which choose files."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from models.comparisons import same_params
from models.tiny_configs import HEADS

from flaxmodels import AutoModel, load_sharded_checkpoint
from flaxmodels.errors import CheckpointError, ConfigError
from flaxmodels.models.bert import BertConfig, BertModel
from flaxmodels.models.clip import CLIPModel
from flaxmodels.models.vit import ViTModel

VALUES = {case.head: dict(case.values) for case in HEADS}
BERT = VALUES["BertModel"] | {"num_hidden_layers": 1}


@pytest.fixture(scope="module")
def bert() -> BertModel:
    return BertModel(BERT)


@pytest.fixture(scope="module")
def folder(bert, tmp_path_factory):
    """The model in torch's layout."""
    folder = tmp_path_factory.mktemp("bert")
    bert.save_pretrained(folder)
    return folder


# ---- the constructor and the configuration


@pytest.mark.parametrize("cls", [BertModel, AutoModel])
def test_arguments_reach_the_constructor_and_the_configuration(cls, bert, folder):
    model = cls.from_pretrained(folder, add_pooling_layer=False, output_attentions=True, input_shape=(2, 3))
    assert (model.pooler, model.config.output_attentions, model.input_shape) == (None, True, (2, 3))
    assert same_params({name: each for name, each in bert.params.items() if name != "pooler"}, model.params)


def test_an_argument_of_another_constructor():
    model = ViTModel.abstract(VALUES["ViTModel"], add_pooling_layer=False, use_mask_token=True)
    assert model.embeddings.mask_token is not None


def test_an_argument_that_neither_has(folder):
    with pytest.raises(ConfigError) as error:
        BertModel.from_pretrained(folder, add_poolin_layer=False)
    assert str(error.value).startswith("BertConfig has no field 'add_poolin_layer'")


@pytest.mark.parametrize(
    ("args", "dtype", "input_shape", "seed"),
    [
        ((), "float32", (1, 1), 0),
        ((jnp.bfloat16,), "bfloat16", (1, 1), 0),
        (("float16", (2, 3), 7), "float16", (2, 3), 7),
        (((2, 3),), "float32", (2, 3), 0),
        (((2, 3), 7, torch.float16), "float16", (2, 3), 7),
    ],
)
def test_positional_arguments(args, dtype, input_shape, seed, folder):
    model = BertModel.from_pretrained(folder, *args)
    assert (model.dtype.name, model.input_shape, model.seed) == (dtype, input_shape, seed)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("float16",), {"dtype": "float32"}, "from_pretrained() got dtype twice: by position and by keyword"),
        (
            ((2, 3), 7, "float16", False),
            {},
            "from_pretrained() takes input_shape, seed, dtype by position, got 4: name the others",
        ),
    ],
)
def test_positional_arguments_that_are_wrong(args, kwargs, message, folder):
    with pytest.raises(TypeError) as error:
        BertModel.from_pretrained(folder, *args, **kwargs)
    assert str(error.value) == message


@pytest.mark.parametrize("cls", [BertModel, AutoModel])
@pytest.mark.parametrize("named", ["folder", "path", "file", "object"])
def test_a_configuration_in_place_of_that_of_the_files(cls, named, folder, tmp_path):
    config = BertConfig.from_dict(BERT | {"hidden_act": "relu"})
    config.save_pretrained(tmp_path)
    given = {"folder": str(tmp_path), "path": tmp_path, "file": str(tmp_path / "config.json"), "object": config}
    model = cls.from_pretrained(folder, config=given[named], output_attentions=True)
    assert (model.config.hidden_act, model.config.output_attentions) == ("relu", True)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [({"torch_dtype": "bfloat16"}, "bfloat16"), ({"torch_dtype": jnp.float16, "param_dtype": "bfloat16"}, "bfloat16")],
)
def test_the_configuration_says_what_torch_dtype_asked_for(given, expected, name, bert, tmp_path):
    bert.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["torch_dtype"]
    (tmp_path / "config.json").write_text(json.dumps(values | {name: "float32"}))
    model = BertModel.from_pretrained(tmp_path, **given)
    assert getattr(model.config, name) == expected
    assert model.params["embeddings"]["word_embeddings"]["embedding"].dtype == expected
    assert getattr(BertModel.from_pretrained(tmp_path).config, name) == "float32"


def test_implementations_by_part(tmp_path):
    CLIPModel(VALUES["CLIPModel"]).save_pretrained(tmp_path)
    model = CLIPModel.from_pretrained(tmp_path, attn_implementation={"text_config": "flash_attention_2"})
    parts = (model, model.text_model, model.vision_model)
    assert [part.policy.attn_implementation for part in parts] == ["sdpa", "flash", "sdpa"]


# ---- which files


FILES = {
    "model.safetensors": 1.0,
    "pytorch_model.bin": 2.0,
    "flax_model.safetensors": 3.0,
    "flax_model.msgpack": 4.0,
    "model.fp16.safetensors": 5.0,
    "flax_model.fp16.msgpack": 6.0,
}
"""The files of one folder, and the value of a parameter in each."""


@pytest.fixture(scope="module")
def mixed(bert, tmp_path_factory):
    """A folder with weights in several formats, each with values of its own."""
    folder = tmp_path_factory.mktemp("mixed")
    formats = {"flax_model.safetensors": "flax-safetensors", "flax_model.msgpack": "flax"}
    for name, value in FILES.items():
        pooler = bert.params["pooler"]["dense"]
        params = bert.params | {"pooler": {"dense": pooler | {"bias": np.full_like(pooler["bias"], value)}}}
        plain = name.replace(".fp16", "")
        made = tmp_path_factory.mktemp("made")
        if name == "pytorch_model.bin":
            state = {key: torch.tensor(np.array(each)) for key, each in bert.state_dict(params).items()}
            torch.save(state, folder / name)
        else:
            bert.save_pretrained(made, params=params, format=formats.get(plain, "torch"))
            (made / plain).rename(folder / name)
    bert.config.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "model.safetensors"),
        ({"from_pt": True}, "model.safetensors"),
        ({"use_safetensors": True}, "model.safetensors"),
        ({"use_safetensors": False}, "flax_model.msgpack"),
        ({"from_pt": True, "use_safetensors": False}, "pytorch_model.bin"),
        ({"from_flax": True}, "flax_model.safetensors"),
        ({"from_flax": True, "use_safetensors": False}, "flax_model.msgpack"),
        ({"variant": "fp16"}, "model.fp16.safetensors"),
        ({"variant": "fp16", "from_flax": True}, "flax_model.fp16.msgpack"),
        ({"variant": "fp32", "from_flax": True}, "flax_model.safetensors"),
    ],
)
@pytest.mark.parametrize("cls", [BertModel, AutoModel])
def test_arguments_choose_among_the_files_of_a_folder(cls, arguments, expected, mixed):
    model = cls.from_pretrained(mixed, **arguments)
    assert model.params["pooler"]["dense"]["bias"][0] == FILES[expected]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("model.safetensors", {"from_flax": True}),
        ("model.safetensors", {"from_tf": True}),
        ("model.safetensors", {"use_safetensors": False}),
        ("pytorch_model.bin", {"from_flax": True}),
        ("pytorch_model.bin", {"use_safetensors": True}),
        ("flax_model.msgpack", {"from_pt": True}),
        ("flax_model.msgpack", {"use_safetensors": True}),
        ("flax_model.safetensors", {"from_pt": True}),
    ],
)
def test_a_named_file_of_another_kind(name, arguments, mixed):
    layout = "flax" if name.startswith("flax") else "torch"
    given = ", ".join(f"{key}={value}" for key, value in arguments.items())
    with pytest.raises(CheckpointError) as error:
        BertModel.from_pretrained(mixed / name, **arguments)
    assert str(error.value) == (
        f"{name} holds weights in {layout} layout, which {given} excludes: leave the argument out, or name another file"
    )


def test_there_is_no_file_of_the_kind(mixed):
    with pytest.raises(CheckpointError) as error:
        BertModel.from_pretrained(mixed, from_tf=True, variant="fp16")
    assert str(error.value) == (
        f"{mixed} has no weights: expected tf_model.h5, or one of these in shards with an index, of variant 'fp16'"
    )


# ---- what loading tells


def test_loading_info_is_read_by_attribute_and_as_a_dict(folder):
    model, info = BertModel.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, BertModel)
    assert dict(info) == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}
    assert info["missing_keys"] is info.missing_keys
    assert info == dict(info)


def test_a_sharded_checkpoint_tells_missing_and_unexpected_keys(bert, tmp_path):
    bert.save_pretrained(tmp_path, max_shard_size=200)
    other = BertModel.abstract(BERT, add_pooling_layer=False)
    missing, unexpected = found = load_sharded_checkpoint(other, tmp_path, strict=False)
    assert (missing, sorted(unexpected)) == ([], ["pooler.dense.bias", "pooler.dense.weight"])
    assert (found.missing_keys, found.unexpected_keys) == (missing, unexpected)
    assert other.load_state_dict(other.state_dict()) == ([], [])

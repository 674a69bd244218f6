"""Loading: which files are chosen, what becomes of them, and what is said about those that do not fit."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import transformers
from models.comparisons import same_params
from models.tiny_configs import FAMILIES

from flaxmodels import parameters
from flaxmodels.checkpoint.load import default_platform
from flaxmodels.errors import CheckpointError, CheckpointMismatch, CheckpointNotFound, ConfigError
from flaxmodels.models.bert import BertForMaskedLM, BertForSequenceClassification, BertModel
from flaxmodels.models.gpt_neox import GPTNeoXForCausalLM
from flaxmodels.models.llama import LlamaForCausalLM, LlamaModel
from interop.torch_bridge import from_numpy

ADVICE = (
    "You should probably TRAIN this model on a down-stream task to be able to use it for predictions and inference."
)
LLAMA = {**FAMILIES["llama"].config, "num_hidden_layers": 1}
BERT = {**FAMILIES["bert"].config, "num_hidden_layers": 1}
TOKENS = np.array([[1, 2, 4]])


@pytest.fixture(scope="module")
def model() -> LlamaModel:
    return LlamaModel(LLAMA)


@pytest.fixture
def folder(model, tmp_path) -> Path:
    """A checkpoint of the model."""
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory) -> Path:
    """A checkpoint of a `BertModel`."""
    folder = tmp_path_factory.mktemp("bert")
    BertModel(BERT).save_pretrained(folder)
    return folder


def message_of(error_type: type[Exception], action, *args, **kwargs) -> str:
    with pytest.raises(error_type) as error:
        action(*args, **kwargs)
    assert type(error.value) is error_type
    return str(error.value)


# ---- which files


def filled_with(model, number: float):
    return jax.tree.map(lambda x: jnp.full_like(x, number), model.params)


def scale_in(folder: Path, **kwargs) -> float:
    return float(LlamaModel.from_pretrained(folder, **kwargs).params["norm"]["scale"][0])


@pytest.fixture(scope="module")
def crowded(model, tmp_path_factory) -> Path:
    """Weights in every format: the parameters are 1 in the first of the search order, 2 in the second and so on."""
    folder = tmp_path_factory.mktemp("crowded")
    model.save_pretrained(folder, params=filled_with(model, 3.0), safe_serialization=False)
    flax = {name.replace("/", "."): value for name, value in flat(filled_with(model, 2.0)).items()}
    safetensors.numpy.save_file(flax, folder / "flax_model.safetensors")
    state = model.state_dict(filled_with(model, 4.0))
    torch.save({name: from_numpy(array) for name, array in state.items()}, folder / "pytorch_model.bin")
    model.save_pretrained(folder / "torch", params=filled_with(model, 1.0))
    (folder / "torch" / "model.safetensors").rename(folder / "model.safetensors")
    return folder


def flat(params) -> dict[str, np.ndarray]:
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return {"/".join(key.key for key in path): np.asarray(value) for path, value in flat}


def test_formats_are_looked_for_in_order(crowded, tmp_path):
    folder = shutil.copytree(crowded, tmp_path / "copy")
    for number, name in enumerate(
        ("model.safetensors", "flax_model.safetensors", "flax_model.msgpack", "pytorch_model.bin"), start=1
    ):
        assert scale_in(folder) == scale_in(folder / name, config=LLAMA) == number
        (folder / name).unlink()
    assert message_of(CheckpointNotFound, LlamaModel.from_pretrained, folder) == (
        f"{folder} has no weights: expected model.safetensors, flax_model.safetensors, flax_model.msgpack, "
        "flax_model.orbax, pytorch_model.bin, tf_model.h5, or one of these in shards with an index"
    )


def test_formats_can_be_chosen(crowded, tmp_path):
    assert scale_in(crowded, use_safetensors=True) == 1
    assert scale_in(crowded, use_safetensors=False) == 3
    assert scale_in(crowded, from_flax=True) == 2
    assert scale_in(crowded, from_flax=True, use_safetensors=False) == 3
    assert scale_in(crowded, from_pt=True) == 1
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert message_of(
        CheckpointNotFound, LlamaModel.from_pretrained, tmp_path, use_safetensors=True, variant="fp16"
    ) == (
        f"{tmp_path} has no weights: expected model.safetensors, flax_model.safetensors, or one of these in shards "
        "with an index, of variant 'fp16'"
    )


def test_subfolders_indices_and_files(model, tmp_path):
    model.save_pretrained(tmp_path / "repo" / "sub", max_shard_size=6000)
    index = tmp_path / "repo" / "sub" / "model.safetensors.index.json"
    for loaded in (
        LlamaModel.from_pretrained(tmp_path / "repo", subfolder="sub"),
        LlamaModel.from_pretrained(str(index)),
        LlamaModel.from_pretrained(index, config=model.config),
    ):
        assert same_params(loaded.params, model.params)


# ---- what becomes of them


def test_nothing_is_initialised_that_the_checkpoint_has(folder, bert_folder, model, monkeypatch):
    initialised, original = [], parameters._init_value

    def counted(leaf, *args):
        initialised.append(leaf.name)
        return original(leaf, *args)

    monkeypatch.setattr(parameters, "_init_value", counted)
    assert same_params(LlamaModel.from_pretrained(folder).params, model.params)
    assert initialised == []
    BertForSequenceClassification.from_pretrained(bert_folder)
    assert initialised == ["classifier/kernel", "classifier/bias"]


def test_new_parameters_come_from_the_seed(bert_folder):
    first, again, other = (
        BertForSequenceClassification.from_pretrained(bert_folder, seed=seed).params["classifier"]["kernel"]
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_parameters_may_be_donated(folder, model):
    """Loaded parameters are the mapped file itself where they can be, which a donation must not write to."""
    before = (folder / "model.safetensors").read_bytes()
    loaded = LlamaModel.from_pretrained(folder)
    halve = jax.jit(lambda params: jax.tree.map(lambda x: x / 2, params), donate_argnums=0)
    assert same_params(halve(loaded.params), jax.tree.map(lambda x: x / 2, model.params))
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("requested", "dtype", "param_dtype"),
    [
        ({}, "float32", "float16"),
        ({"dtype": "bfloat16"}, "bfloat16", "float16"),
        ({"param_dtype": torch.float32}, "float32", "float32"),
        ({"torch_dtype": "bfloat16"}, "bfloat16", "bfloat16"),
        ({"torch_dtype": "bfloat16", "param_dtype": "float32"}, "bfloat16", "float32"),
        ({"torch_dtype": "bfloat16", "dtype": "float32"}, "float32", "bfloat16"),
        ({"dtype": "auto"}, "float16", "float16"),
        ({"param_dtype": "auto"}, "float32", "float16"),
        ({"torch_dtype": "auto"}, "float16", "float16"),
    ],
    ids=str,
)
def test_dtypes(model, tmp_path, requested, dtype, param_dtype):
    model.save_pretrained(tmp_path, params=model.to_fp16())
    loaded = LlamaModel.from_pretrained(tmp_path, **requested)
    assert (loaded.policy.dtype.name, loaded.policy.param_dtype.name) == (dtype, param_dtype)
    assert same_params(loaded.params, jax.tree.map(lambda x: x.astype(param_dtype), model.to_fp16()))
    assert loaded(TOKENS).last_hidden_state.dtype == dtype


@pytest.mark.parametrize("scan_layers", [False, True])
def test_each_parameter_keeps_the_dtype_of_the_checkpoint_and_is_saved_in_it(tmp_path, scan_layers):
    """A file with norms in float32 among matrices in bfloat16, and a table in float16, comes back byte for byte."""
    model = LlamaForCausalLM(LLAMA | {"num_hidden_layers": 2, "tie_word_embeddings": False}, seed=2)
    kinds = {"norm": np.float32, "embed": np.float16, "lm_head": np.float16}
    state = {
        name: array.astype(next((kind for part, kind in kinds.items() if part in name), ml_dtypes.bfloat16), "C")
        for name, array in model.state_dict().items()
    }
    safetensors.numpy.save_file(state, tmp_path / "model.safetensors")
    model.config.save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path, scan_layers=scan_layers)
    assert loaded.get_memory_footprint() == sum(array.nbytes for array in state.values())
    loaded.save_pretrained(tmp_path / "again")
    again = safetensors.numpy.load_file(tmp_path / "again" / "model.safetensors")
    assert {name: (array.dtype, array.tobytes()) for name, array in again.items()} == {
        name: (array.dtype, array.tobytes()) for name, array in state.items()
    }
    wide = LlamaForCausalLM.from_pretrained(tmp_path, param_dtype="float32", scan_layers=scan_layers)
    np.testing.assert_allclose(loaded(TOKENS).logits, wide(TOKENS).logits, rtol=1e-6, atol=1e-6)


def test_auto_follows_the_configuration_and_then_the_checkpoint(folder, model):
    config = json.loads((folder / "config.json").read_text())
    del config["torch_dtype"]
    for named, expected in (("torch_dtype", "bfloat16"), ("dtype", "float16"), ("other", "float32")):
        (folder / "config.json").write_text(json.dumps(config | {named: expected}))
        assert LlamaModel.from_pretrained(folder, torch_dtype="auto").policy.dtype == expected


def test_a_model_without_parameters_and_the_parameters(bert_folder):
    whole = BertForSequenceClassification.from_pretrained(bert_folder)
    load: Any = BertForSequenceClassification.from_pretrained
    (model, params), (_, _, info) = (
        load(bert_folder, _do_init=False, output_loading_info=wanted) for wanted in (False, True)
    )
    assert same_params(params, {"bert": whole.params["bert"]})
    assert info.missing_keys == ["classifier.weight", "classifier.bias"]
    assert np.array_equal(
        model(TOKENS, params=model.init_weights(jax.random.key(0), (1, 1), params)).logits, whole(TOKENS).logits
    )


def test_configurations_are_replaced_and_overridden(folder):
    assert LlamaModel.from_pretrained(folder, attention_dropout=0.5).config.attention_dropout == 0.5
    other = LlamaModel.from_pretrained(folder, config=LLAMA | {"hidden_act": "relu"}, output_attentions=True)
    assert (other.config.hidden_act, other.config.output_attentions) == ("relu", True)
    assert message_of(ConfigError, LlamaModel.from_pretrained, folder, hiden_act="relu", temperature=3) == (
        "LlamaConfig has no field 'hiden_act': did you mean 'hidden_act'?\n"
        "LlamaConfig has no field 'temperature': it is a setting of generate()"
    )


# ---- what is said


def test_new_and_unused_weights_are_logged(bert_folder, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "flaxmodels"):
        BertForMaskedLM.from_pretrained(bert_folder)
    path = bert_folder / "model.safetensors"
    assert [record.getMessage() for record in caplog.records] == [
        f"Some weights of the model checkpoint at {path} were not used when initializing BertForMaskedLM: "
        "['pooler.dense.bias', 'pooler.dense.weight']",
        f"Some weights of BertForMaskedLM were not initialized from the model checkpoint at {path} and are newly "
        "initialized: ['cls.predictions.bias', 'cls.predictions.transform.LayerNorm.bias', "
        "'cls.predictions.transform.LayerNorm.weight', 'cls.predictions.transform.dense.bias', "
        f"'cls.predictions.transform.dense.weight']\n{ADVICE}",
    ]


def test_half_precision_is_logged(model, tmp_path, caplog):
    model.save_pretrained(tmp_path, params=model.params | {"norm": model.to_bf16(model.params["norm"])})
    with caplog.at_level(logging.WARNING, "flaxmodels"):
        LlamaModel.from_pretrained(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        "Some of the weights of LlamaModel were initialized in bfloat16 precision from the model checkpoint:\n"
        "['norm/scale']\n"
        "You should probably UPCAST the model weights to float32 if this was not intended."
    ]


def test_nothing_is_logged_when_all_is_well(folder, caplog):
    LlamaModel.from_pretrained(folder)
    assert caplog.records == []


def test_shapes_that_differ(folder, caplog):
    wrong = {"intermediate_size": 12}
    message = message_of(CheckpointMismatch, LlamaForCausalLM.from_pretrained, folder, **wrong)
    assert message == (
        "1 missing, 5 of another shape in model.safetensors\n"
        "  - lm_head.weight   (for lm_head/kernel)\n"
        "  ! layers.0.mlp.gate_proj.weight: checkpoint (29, 36), model (12, 36)\n"
        "  ! layers.0.mlp.gate_proj.bias: checkpoint (29,), model (12,)\n"
        "  ! layers.0.mlp.up_proj.weight: checkpoint (29, 36), model (12, 36)\n"
        "  ! layers.0.mlp.up_proj.bias: checkpoint (29,), model (12,)\n"
        "  ! layers.0.mlp.down_proj.weight: checkpoint (36, 29), model (36, 12)\n"
        "Pass ignore_mismatched_sizes=True to re-initialise mismatched weights."
    )
    with caplog.at_level(logging.WARNING, "flaxmodels"):
        loaded, info = LlamaModel.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]  # an int stands for a flag
            folder, **wrong, ignore_mismatched_sizes=True, output_loading_info=True
        )
    assert info.mismatched_keys[0] == ("layers.0.mlp.gate_proj.weight", (29, 36), (12, 36))
    assert [name for name, _, _ in info.mismatched_keys] == re.findall(r"! (.*):", message)
    fresh = LlamaModel(LLAMA | wrong).params["layers"]["0"]["mlp"]
    assert same_params(loaded.params["layers"]["0"]["mlp"]["up_proj"], fresh["up_proj"])
    assert [record.getMessage() for record in caplog.records] == [
        f"Some weights of LlamaModel were not initialized from the model checkpoint at {folder / 'model.safetensors'} "
        "and are newly initialized because the shapes did not match:\n"
        + "".join(
            f"- layers.0.mlp.{name}: found shape {found} in the checkpoint and {expected} in the model instantiated\n"
            for name, found, expected in [
                ("gate_proj.weight", (29, 36), (12, 36)),
                ("gate_proj.bias", (29,), (12,)),
                ("up_proj.weight", (29, 36), (12, 36)),
                ("up_proj.bias", (29,), (12,)),
                ("down_proj.weight", (36, 29), (36, 12)),
            ]
        )
        + ADVICE
    ]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["embed_out.weight", "lm_head.weight"])
def test_names_that_files_have_and_torch_has_not(tmp_path, name, tied):
    """Of GPT-NeoX, whose output layer has another name in transformers since 5.0, but not in its files."""
    config = {**FAMILIES["gpt_neox"].config, "tie_word_embeddings": tied}
    model = GPTNeoXForCausalLM(config)
    model.save_pretrained(tmp_path)
    stored = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert stored.keys() & {"embed_out.weight", "lm_head.weight"} == (set() if tied else {"embed_out.weight"})
    assert "embed_out.weight" in model.state_dict()
    stored[name] = stored.pop("embed_out.weight", stored["gpt_neox.embed_in.weight"])
    safetensors.numpy.save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    loaded, info = GPTNeoXForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert (info.missing_keys, info.unexpected_keys, info.mismatched_keys) == ([], [], [])
    assert same_params(loaded.params, model.params)
    theirs = transformers.GPTNeoXForCausalLM.from_pretrained(tmp_path)
    assert same_params({"": theirs.lm_head.weight.detach().numpy()}, {"": model.state_dict()["embed_out.weight"]})


def test_a_checkpoint_of_another_model(folder, bert_folder):
    assert message_of(ConfigError, BertModel.from_pretrained, folder) == (
        f"{folder} is a model of type 'llama', but BertModel loads 'bert': use the class of its type, or AutoModel"
    )
    assert message_of(CheckpointMismatch, LlamaModel.from_pretrained, bert_folder, config=LLAMA) == (
        "none of the 23 tensors in model.safetensors belongs to the model: it has embeddings.LayerNorm.bias, "
        "embeddings.LayerNorm.weight, embeddings.position_embeddings.weight, the model wants embed_tokens.weight, "
        "layers.0.self_attn.q_proj.weight, layers.0.self_attn.q_proj.bias. Check the model class."
    )


def test_folders_and_files_that_hold_no_model(tmp_path, folder):
    assert message_of(CheckpointNotFound, LlamaModel.from_pretrained, tmp_path) == (
        f"{tmp_path} has no config.json: add it, or pass config="
    )
    for missing in (tmp_path / "absent", "./absent", "~/absent", f"{tmp_path}/absent/model.safetensors"):
        assert message_of(CheckpointNotFound, LlamaModel.from_pretrained, missing) == (
            f"{missing} does not exist: check the path"
        )
    assert message_of(CheckpointError, LlamaModel.from_pretrained, folder / "config.json") == (
        "config.json is not a file of weights: expected .safetensors, .msgpack, .bin, .pt, .pth, .ckpt, .h5 or .gguf"
    )
    assert message_of(CheckpointNotFound, LlamaModel.from_pretrained, folder, gguf_file="x.gguf") == (
        f"{folder} has no x.gguf: check the name"
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"hidden_act": "swoosh"}, "hidden_act='swoosh': expected one of "),
        ({"rope_parameters": {"rope_type": "spiral"}}, "unknown rope_type 'spiral'. Known: "),
    ],
)
def test_configurations_that_cannot_be_computed(folder, change, problem):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    message = message_of(ConfigError, LlamaModel.from_pretrained, folder)
    assert message.startswith(f"LlamaConfig cannot be computed:\n  - {problem}")
    assert "\n" not in message.removeprefix("LlamaConfig cannot be computed:\n")


# ---- without torch


def test_a_sharded_bfloat16_checkpoint_of_torch_where_torch_cannot_be_imported(tmp_path):
    model = LlamaForCausalLM(LLAMA, seed=3)
    model.save_pretrained(tmp_path, params=model.to_bf16(), max_shard_size=6000)
    assert (tmp_path / "model.safetensors.index.json").exists()
    expected = LlamaForCausalLM.from_pretrained(tmp_path)(TOKENS).logits
    script = f"""
        import sys
        for name in ("torch", "transformers"):
            sys.modules[name] = None
        import numpy as np
        from flaxmodels.models.llama import LlamaForCausalLM
        model = LlamaForCausalLM.from_pretrained({str(tmp_path)!r}, param_dtype="auto")
        assert model.params["model"]["norm"]["scale"].dtype == "bfloat16"
        model.save_pretrained({str(tmp_path / "again")!r})
        np.save({str(tmp_path / "logits.npy")!r}, model({TOKENS.tolist()}).logits)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(script)], check=True, env=environment)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-6, atol=1e-6)
    again = safetensors.torch.load_file(tmp_path / "again" / "model.safetensors")
    assert {tensor.dtype for tensor in again.values()} == {torch.bfloat16}


def test_a_torch_pickle_where_torch_cannot_be_imported(folder, crowded, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert scale_in(crowded) == 1
    assert message_of(CheckpointError, LlamaModel.from_pretrained, crowded / "pytorch_model.bin") == (
        "Torch pickles and modules need torch. Run: pip install torch"
    )


def test_bfloat16_comes_in_bit_by_bit(model, tmp_path):
    state = {name: array.astype(ml_dtypes.bfloat16) for name, array in model.state_dict().items()}
    torch.save({name: from_numpy(array) for name, array in state.items()}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    loaded = LlamaModel.from_pretrained(tmp_path, torch_dtype="auto")
    assert {name: array.tobytes() for name, array in loaded.state_dict().items()} == {
        name: array.tobytes() for name, array in state.items()
    }


def test_the_default_device_decides_where_tensors_are_transposed():
    assert default_platform() == jax.default_backend()
    for device in ("tpu", jax.devices("cpu")[0]):
        with jax.default_device(device):
            assert default_platform() == getattr(device, "platform", device)

"""Checkpoints that look like those of a model and are something else: read through, or refused by their name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from checkpoint.test_load import message_of
from models.comparisons import same_params
from models.tiny_configs import FAMILIES
from typer.testing import CliRunner

from flaxmodels import AutoConfig, AutoModel, AutoModelForCausalLM, BertModel, LlamaForCausalLM, LlamaModel
from flaxmodels.cli import app
from flaxmodels.errors import CheckpointError, CheckpointMismatch, CheckpointNotFound, FlaxModelsError
from flaxmodels.files.safetensors import write_safetensors
from flaxmodels.models.bert import BertForSequenceClassification
from interop import convert_pytorch_state_dict_to_flax
from interop.source import Header

CONFIG = {**FAMILIES["llama"].config, "num_hidden_layers": 2, "model_type": "llama"}
TOKENS = np.array([[1, 2, 4]])
Q_PROJ = "model.layers.0.self_attn.q_proj"
UNQUANTISED = "Load the unquantised checkpoint that it was made from"


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return LlamaForCausalLM(CONFIG, seed=3)


@pytest.fixture(scope="module")
def state(model) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(array) for name, array in model.state_dict().items()}


def save(folder: Path, tensors: dict[str, np.ndarray], name: str = "model.safetensors", **config) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"architectures": ["LlamaForCausalLM"]} | config))
    headers = {name: Header(array.shape, array.dtype) for name, array in tensors.items()}
    write_safetensors(folder / name, headers, tensors.__getitem__, {"format": "pt"})
    return folder


# ---- quantised weights


def packed(array: np.ndarray | None, **companions: np.ndarray) -> dict[str, np.ndarray]:
    """What takes the place of the tensor `{Q_PROJ}.weight`; companions by name after that of the layer."""
    weight = {} if array is None else {f"{Q_PROJ}.weight": array}
    return weight | {f"{Q_PROJ}.{name}": value for name, value in companions.items()}


def zeros(*shape: int, dtype=np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


SHAPE = (36, 36)
SCHEMES = {
    "fp8": (
        packed(zeros(*SHAPE, dtype=ml_dtypes.float8_e4m3fn), weight_scale_inv=zeros(1, 1)),
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        "fp8",
        f"fp8 in blocks, as it has {Q_PROJ}.weight_scale_inv",
        "quantization_config=FineGrainedFP8Config(dequantize=True)",
    ),
    "bitsandbytes int8": (
        packed(zeros(*SHAPE, dtype=np.int8), SCB=zeros(36), weight_format=zeros(dtype=np.uint8)),
        {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False},
        "bitsandbytes int8",
        f"bitsandbytes int8, as it has {Q_PROJ}.SCB, {Q_PROJ}.weight_format",
        "model.dequantize()",
    ),
    "bitsandbytes nf4": (
        packed(
            zeros(648, 1, dtype=np.uint8),
            **{
                "weight.absmax": zeros(21),
                "weight.quant_map": zeros(16),
                "weight.quant_state.bitsandbytes__nf4": zeros(80, dtype=np.uint8),
            },
        ),
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "bitsandbytes nf4",
        f"bitsandbytes nf4, as it has {Q_PROJ}.weight.quant_state.bitsandbytes__nf4",
        "model.dequantize()",
    ),
    "GPTQ": (
        packed(
            None,
            qweight=zeros(5, 36, dtype=np.int32),
            qzeros=zeros(1, 5, dtype=np.int32),
            scales=zeros(1, 36, dtype=np.float16),
            g_idx=zeros(36, dtype=np.int32),
        ),
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        "gptq",
        f"GPTQ, as it has {Q_PROJ}.g_idx",
        None,
    ),
    "AWQ": (
        packed(
            None,
            qweight=zeros(36, 5, dtype=np.int32),
            qzeros=zeros(1, 5, dtype=np.int32),
            scales=zeros(1, 36, dtype=np.float16),
        ),
        {"quant_method": "awq", "bits": 4, "version": "gemm"},
        "awq",
        f"GPTQ or AWQ, as it has {Q_PROJ}.qweight, {Q_PROJ}.qzeros",
        None,
    ),
    "compressed-tensors int8": (
        packed(zeros(*SHAPE, dtype=np.int8), weight_scale=zeros(36, 1)),
        {"quant_method": "compressed-tensors", "format": "int-quantized"},
        "compressed-tensors (int-quantized)",
        f"compressed-tensors or fp8, as it has {Q_PROJ}.weight_scale",
        "quantization_config=CompressedTensorsConfig(run_compressed=False)",
    ),
    "compressed-tensors int4": (
        packed(
            None,
            weight_packed=zeros(36, 5, dtype=np.int32),
            weight_scale=zeros(36, 1),
            weight_shape=zeros(2, dtype=np.int64),
        ),
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        "compressed-tensors (pack-quantized)",
        f"compressed-tensors, as it has {Q_PROJ}.weight_packed, {Q_PROJ}.weight_shape",
        "quantization_config=CompressedTensorsConfig(run_compressed=False)",
    ),
    "HQQ": (
        packed(None, W_q=zeros(18, 36, dtype=np.uint8), meta=zeros(2)),
        {"quant_method": "hqq"},
        "hqq",
        f"HQQ, as it has {Q_PROJ}.W_q",
        "model.dequantize()",
    ),
    "quanto": (
        packed(None, **{"weight._data": zeros(*SHAPE, dtype=np.int8), "weight._scale": zeros(36, 1)}),
        {"quant_method": "quanto", "weights": "int8"},
        "quanto",
        f"quanto, as it has {Q_PROJ}.weight._data, {Q_PROJ}.weight._scale",
        None,
    ),
    "unknown": (
        packed(zeros(*SHAPE), weight_scale_2=zeros(36)),
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        "modelopt",
        f"a scheme that is not known, as it has {Q_PROJ}.weight_scale_2",
        None,
    ),
}


@pytest.fixture(params=SCHEMES)
def scheme(request, state, tmp_path):
    """The folder of a checkpoint with one quantised layer, and what the errors say."""
    tensors, config, method, found, how = SCHEMES[request.param]
    others = {name: array for name, array in state.items() if name != f"{Q_PROJ}.weight"}
    remedy = f"{UNQUANTISED}, or save it dequantised by transformers ({how})." if how else f"{UNQUANTISED}."
    stated = f"its weights are quantised by {method} (quantization_config of config.json), which is not computed. "
    seen = f"model.safetensors: its weights are quantised by {found}, and that is not computed. "
    return others | tensors, config, stated + remedy, seen + remedy


def test_quantised_checkpoints_are_refused_by_their_configuration(scheme, tmp_path):
    tensors, config, stated, _ = scheme
    folder = save(tmp_path / "x", tensors, quantization_config=config)
    for cls, name in ((LlamaForCausalLM, "LlamaForCausalLM"), (AutoModel, "LlamaModel")):
        assert message_of(CheckpointError, cls.from_pretrained, folder) == f"{name}: {stated}"
    message = message_of(CheckpointError, LlamaForCausalLM, AutoConfig.from_pretrained(folder))
    assert message == f"LlamaForCausalLM: {stated}"
    for command in (
        ["inspect", folder],
        ["convert", folder, tmp_path / "y", "--to", "flax"],
        ["verify", folder, folder],
    ):
        result = CliRunner().invoke(app, list(map(str, command)))
        assert (result.exit_code, type(result.exception)) == (1, CheckpointError)
    assert not (tmp_path / "y").exists()


def test_quantised_checkpoints_are_refused_by_their_tensors(scheme, tmp_path):
    tensors, _, _, seen = scheme
    folder = save(tmp_path / "x", tensors)
    options = {"ignore_missing": True, "ignore_mismatched_sizes": True}
    assert message_of(CheckpointError, LlamaForCausalLM.from_pretrained, folder, **options) == seen
    state_dict = {"config": CONFIG, "state_dict": tensors}
    message = message_of(CheckpointError, LlamaForCausalLM.from_pretrained, None, **state_dict, **options)
    assert message == seen.replace("model.safetensors", "state_dict")
    other = LlamaForCausalLM(CONFIG)
    assert message_of(CheckpointError, other.load_state_dict, tensors, strict=False) == message
    assert message_of(CheckpointError, convert_pytorch_state_dict_to_flax, tensors, other) == message


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.bool_, ml_dtypes.int4])
def test_integers_are_no_parameters(state, tmp_path, dtype):
    tensors = state | {f"{Q_PROJ}.weight": state[f"{Q_PROJ}.weight"].astype(dtype)}
    options = {"config": CONFIG, "state_dict": tensors, "ignore_mismatched_sizes": True}
    assert message_of(CheckpointMismatch, LlamaForCausalLM.from_pretrained, None, **options) == (
        "1 not made of floating-point numbers in state_dict\n"
        f"  ! {Q_PROJ}.weight: checkpoint {np.dtype(dtype)}, model float32\n"
        "They are quantised, or of another model: load the unquantised checkpoint."
    )


def test_a_quantization_config_that_makes_no_sense(state, tmp_path):
    folder = save(tmp_path / "x", state, quantization_config="gptq")
    assert message_of(CheckpointError, LlamaForCausalLM.from_pretrained, folder) == (
        "LlamaForCausalLM: quantization_config='gptq' is not a table of settings: fix config.json"
    )
    folder = save(tmp_path / "y", state, quantization_config=None)
    assert LlamaForCausalLM.from_pretrained(folder).config.vocab_size == CONFIG["vocab_size"]


# ---- names of wrappers

WRAPPED = {
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "torch.compile of the base": lambda name: re.sub(r"^model\.", "model._orig_mod.", name),
    "activation checkpointing": lambda name: re.sub(r"(layers\.\d+)\.", r"\1._checkpoint_wrapped_module.", name),
    "DataParallel": lambda name: f"module.{name}",
    "DataParallel of compiled layers": lambda name: re.sub(r"(layers\.\d+)\.", r"\1._orig_mod.", f"module.{name}"),
    "FSDP": lambda name: re.sub(r"(layers\.\d+)\.", r"\1._fsdp_wrapped_module.", f"_fsdp_wrapped_module.{name}"),
    "peft": lambda name: f"base_model.model.{name}",
    "DeepSpeed of peft": lambda name: f"module.base_model.model.{name}",
}


@pytest.mark.parametrize("wrapper", WRAPPED.values(), ids=WRAPPED)
def test_names_are_read_through_wrappers(model, state, tmp_path, wrapper):
    tensors = {wrapper(name): array for name, array in state.items()}
    assert tensors.keys() != state.keys()
    loaded, info = LlamaForCausalLM.from_pretrained(save(tmp_path / "x", tensors), output_loading_info=True)
    assert (info.missing_keys, info.unexpected_keys, info.mismatched_keys) == ([], [], [])
    np.testing.assert_array_equal(loaded(TOKENS).logits, model(TOKENS).logits)
    assert same_params(convert_pytorch_state_dict_to_flax(tensors, model), model.params)
    other = LlamaForCausalLM(CONFIG)
    other.load_state_dict(tensors)
    assert same_params(other.params, model.params)


def test_two_tensors_of_one_name_without_wrappers(state, tmp_path):
    folder = save(tmp_path / "x", state | {f"module.{Q_PROJ}.weight": state[f"{Q_PROJ}.weight"]})
    assert message_of(CheckpointError, LlamaForCausalLM.from_pretrained, folder) == (
        f"model.safetensors without wrappers gives several tensors the same name: {Q_PROJ}.weight"
    )


# ---- parts that are not there


def test_a_checkpoint_that_lacks_a_layer(model, state, tmp_path):
    lost = {name for name in state if name.startswith("model.layers.1.mlp.")}
    tensors = {name: array for name, array in state.items() if name not in lost}
    folder = save(tmp_path / "x", tensors | {"model.layers.1.ffn.w1.weight": zeros(2), "other": zeros(1)})
    assert message_of(CheckpointMismatch, LlamaForCausalLM.from_pretrained, folder) == (
        "6 missing in model.safetensors, without which this is not the model that was saved\n"
        "  - model.layers.1.mlp.gate_proj.weight   (for model/layers/1/mlp/gate_proj/kernel)\n"
        "  - model.layers.1.mlp.gate_proj.bias   (for model/layers/1/mlp/gate_proj/bias)\n"
        "  - model.layers.1.mlp.up_proj.weight   (for model/layers/1/mlp/up_proj/kernel)\n"
        "  - model.layers.1.mlp.up_proj.bias   (for model/layers/1/mlp/up_proj/bias)\n"
        "  - model.layers.1.mlp.down_proj.weight   (for model/layers/1/mlp/down_proj/kernel)\n"
        "  - model.layers.1.mlp.down_proj.bias   (for model/layers/1/mlp/down_proj/bias)\n"
        "The checkpoint has in their place: model.layers.1.ffn.w1.weight, other\n"
        "Check the model class and the configuration, give the names of the checkpoint by key_mapping=, or pass "
        "ignore_missing=True to initialise what is missing."
    )
    for scan_layers in (False, True):
        loaded, info = LlamaForCausalLM.from_pretrained(
            folder, ignore_missing=True, scan_layers=scan_layers, output_loading_info=True
        )
        assert lost <= set(info.missing_keys)
        assert all(jnp.isfinite(leaf).all() for leaf in loaded(TOKENS).values() if leaf is not None)


@pytest.mark.parametrize("kept", ["model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"])
def test_one_matching_tensor_of_many(state, tmp_path, kept):
    folder = save(tmp_path / "x", {kept: state[kept]})
    assert message_of(CheckpointMismatch, LlamaForCausalLM.from_pretrained, folder).endswith(
        "\nThe checkpoint has in their place: no other tensors\n"
        "Check the model class and the configuration, give the names of the checkpoint by key_mapping=, or pass "
        "ignore_missing=True to initialise what is missing."
    )


def test_heads_and_poolers_may_be_missing(tmp_path):
    tiny = FAMILIES["bert"].config
    BertModel(tiny, add_pooling_layer=False).save_pretrained(tmp_path)
    for cls, missing in (
        (BertModel, {"pooler.dense.weight", "pooler.dense.bias"}),
        (
            BertForSequenceClassification,
            {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"},
        ),
    ):
        _, info = cls.from_pretrained(tmp_path, output_loading_info=True)
        assert set(info.missing_keys) == missing


# ---- adapters and consolidated files


def lora(state) -> dict[str, np.ndarray]:
    return {
        f"base_model.model.{Q_PROJ}.lora_A.weight": zeros(4, 36),
        f"base_model.model.{Q_PROJ}.lora_B.weight": zeros(36, 4),
    }


ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 4}


def test_an_adapter_beside_the_weights_of_its_base(model, state, tmp_path):
    folder = save(tmp_path / "x", state)
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    save(folder, lora(state), "adapter_model.safetensors")
    message = (
        f"{folder} has an adapter ('LORA' of 'org/base', adapter_config.json) beside the weights of its base, and "
        "adapters are not applied: merge_and_unload() of peft makes one model of both; to load the base alone, name "
        "the file of its weights"
    )
    assert message_of(CheckpointError, LlamaForCausalLM.from_pretrained, folder) == message
    result = CliRunner().invoke(app, ["convert", str(folder), str(tmp_path / "y"), "--to", "flax"])
    assert str(result.exception) == message
    alone = LlamaForCausalLM.from_pretrained(folder / "model.safetensors", config=CONFIG)
    assert same_params(alone.params, model.params)
    assert message_of(CheckpointError, LlamaForCausalLM.from_pretrained, folder / "adapter_model.safetensors") == (
        f"adapter_model.safetensors: holds an adapter ({Q_PROJ}.lora_A.weight, {Q_PROJ}.lora_B.weight), not a model: "
        "merge it into its base model with peft (PeftModel.from_pretrained(base, adapter).merge_and_unload()"
        ".save_pretrained(folder)) and load that"
    )


def test_the_folder_of_an_adapter(state, tmp_path):
    save(tmp_path, lora(state), "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (tmp_path / "config.json").unlink()
    message = (
        f"{tmp_path} is an adapter ('LORA' of 'org/base', adapter_config.json), not a model, and adapters are not "
        "read: merge_and_unload() of peft makes one model of both"
    )
    for load in (LlamaForCausalLM.from_pretrained, AutoModelForCausalLM.from_pretrained, AutoConfig.from_pretrained):
        assert message_of(CheckpointError, load, tmp_path) == message
    assert message_of(CheckpointError, LlamaForCausalLM.from_pretrained, tmp_path, config=CONFIG) == message


def test_consolidated_files(state, tmp_path):
    names = {"q_proj": "wq", "k_proj": "wk", "v_proj": "wv", "o_proj": "wo", "self_attn": "attention"}
    tensors = {"norm.weight": state["model.norm.weight"], "tok_embeddings.weight": state["model.embed_tokens.weight"]}
    for name, array in state.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if ".attention." in name:
            tensors[name.removeprefix("model.")] = array
    folder = save(tmp_path / "x", tensors, "consolidated.safetensors")
    assert message_of(CheckpointNotFound, LlamaModel.from_pretrained, folder) == (
        f"{folder} has no weights: expected model.safetensors, flax_model.safetensors, flax_model.msgpack, "
        "flax_model.orbax, pytorch_model.bin, tf_model.h5, or one of these in shards with an index; it has "
        "consolidated.safetensors, whose format is not read"
    )
    for load in (LlamaModel.from_pretrained, LlamaForCausalLM.from_pretrained):
        message = message_of(CheckpointError, load, folder / "consolidated.safetensors", ignore_missing=True)
        assert message.startswith("consolidated.safetensors: has names of the consolidated format of Meta and M")
        assert message.endswith(", which is not read: load the model-*.safetensors of the same model")


# ---- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"from_flax": True}, "model.safetensors holds weights in torch layout, which from_flax=True excludes: "),
        ({"from_tf": True}, "model.safetensors holds weights in torch layout, which from_tf=True excludes: "),
        ({"use_safetensors": False}, "model.safetensors holds weights in torch layout, which use_safetensors=False e"),
        ({"from_pt": True, "from_flax": True}, "from_pt and from_flax exclude each other: give one"),
    ],
)
def test_a_named_file_is_what_the_arguments_say(state, tmp_path, arguments, message):
    path = save(tmp_path / "x", state) / "model.safetensors"
    with pytest.raises(FlaxModelsError, match=f"^{message}"):
        LlamaForCausalLM.from_pretrained(path, **arguments)
    for harmless in ({"from_pt": True}, {"use_safetensors": True}, {"from_flax": False, "use_safetensors": None}):
        LlamaForCausalLM.from_pretrained(path, **harmless)


def test_a_named_file_of_flax(model, tmp_path):
    model.save_pretrained(tmp_path, format="flax-safetensors")
    path = tmp_path / "flax_model.safetensors"
    LlamaForCausalLM.from_pretrained(path, from_flax=True, use_safetensors=True)
    assert message_of(CheckpointError, LlamaForCausalLM.from_pretrained, path, from_pt=True) == (
        "flax_model.safetensors holds weights in flax layout, which from_pt=True excludes: leave the argument out, or "
        "name another file"
    )
    assert message_of(CheckpointNotFound, LlamaForCausalLM.from_pretrained, tmp_path, from_pt=True).startswith(
        f"{tmp_path} has no weights: expected model.safetensors, pytorch_model.bin, or one of these"
    )


def test_documented_arguments_at_their_defaults(model, state, tmp_path):
    folder = save(tmp_path / "x", state, gradient_checkpointing=False)
    defaults = {
        **dict.fromkeys(("weights_only", "proxies", "device_map", "quantization_config", "max_memory")),
        **dict.fromkeys(("trust_remote_code", "from_tf", "from_flax", "load_in_8bit", "load_in_4bit"), False),
        **dict.fromkeys(("use_auth_token", "use_flash_attention_2", "allow_all_kernels", "use_kernels"), False),
        **dict.fromkeys(("tp_plan", "tp_size", "offload_folder", "kernel_config", "code_revision", "mirror")),
        **{"offload_state_dict": False, "offload_buffers": False, "local_files_only": False, "token": None},
        **{"weights_only": True, "resume_download": True, "low_cpu_mem_usage": True, "gradient_checkpointing": None},
    }
    for cls in (LlamaForCausalLM, AutoModelForCausalLM):
        assert same_params(cls.from_pretrained(folder, **defaults).params, model.params)
    for cls in (AutoConfig, type(model.config)):
        assert cls.from_pretrained(folder, trust_remote_code=False, proxies=None).num_hidden_layers == 2
    for make in (AutoModelForCausalLM.from_config, LlamaForCausalLM):
        make(model.config, trust_remote_code=False, weights_only=True, device_map=None, _do_init=False)


def test_arguments_that_ask_for_what_is_not_done(state, tmp_path):
    folder = save(tmp_path / "x", state, gradient_checkpointing=False, quantization_config=None, device_map=None)
    arguments = {"mirror": "x", "load_in_4bit": True, "device_map": "auto", "weights_only": False}
    for cls in (LlamaForCausalLM, AutoModelForCausalLM):
        assert message_of(FlaxModelsError, cls.from_pretrained, folder, **arguments) == (
            "these arguments ask for what is not done:\n"
            "  - mirror='x': set the environment variable HF_ENDPOINT\n"
            "  - load_in_4bit=True: parameters are not quantised here: load the model in torch_dtype='bfloat16'\n"
            "  - device_map='auto': give device_mesh= and sharding_rules= to place parameters on devices\n"
            "  - weights_only=False: pickles are read as weights alone, and run no code"
        )


def test_gradient_checkpointing_is_not_swallowed_by_a_key_of_the_file(state, tmp_path):
    folder = save(tmp_path / "x", state, gradient_checkpointing=False)
    assert LlamaForCausalLM.from_pretrained(folder, gradient_checkpointing=True).policy.remat == "full"
    assert LlamaForCausalLM.from_pretrained(folder, gradient_checkpointing=False).policy.remat is None
    assert LlamaForCausalLM.from_pretrained(folder, remat="full", gradient_checkpointing=None).policy.remat == "full"
    old = save(tmp_path / "y", state, gradient_checkpointing=True)
    assert LlamaForCausalLM.from_pretrained(old).policy.remat == "full"
    assert LlamaForCausalLM.from_pretrained(old, gradient_checkpointing=False).policy.remat is None
    assert LlamaForCausalLM.abstract(CONFIG, gradient_checkpointing=True).policy.remat == "full"
    assert LlamaForCausalLM.abstract(AutoConfig.from_pretrained(old)).policy.remat == "full"
    named = {"gradient_checkpointing": True, "remat": "dots_saveable"}
    assert LlamaForCausalLM.from_pretrained(folder, **named).policy.remat == "dots_saveable"
    wrong = {"gradient_checkpointing": False, "remat": "full"}
    assert message_of(FlaxModelsError, LlamaForCausalLM.from_pretrained, folder, **wrong) == (
        "remat='full' and gradient_checkpointing=False contradict each other: give one"
    )

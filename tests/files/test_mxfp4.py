"""MXFP4 beside the dequantisation of transformers, bit for bit, and whole checkpoints with experts in it."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from counting import Counting
from models.tiny_configs import FAMILIES
from transformers import GptOssConfig as TorchConfig
from transformers import GptOssForCausalLM as TorchModel
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from flaxmodels import GptOssForCausalLM
from flaxmodels.checkpoint.params import ParamsSource
from flaxmodels.files import mxfp4
from flaxmodels.files.location import resolve
from flaxmodels.files.mxfp4 import dequantised
from flaxmodels.files.safetensors import write_safetensors
from flaxmodels.files.weights import find_weights
from interop.source import Header
from interop.torch_bridge import to_numpy

EXPERTS, OUTPUTS, BLOCKS = 3, 70, 2


def packed(experts=EXPERTS, outputs=OUTPUTS, blocks=BLOCKS, exponents: tuple[int, int] = (0, 256)):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (experts, outputs, blocks, 16), np.uint8)
    return values, rng.integers(*exponents, (experts, outputs, blocks)).astype(np.uint8)


def by_transformers(blocks, scales) -> np.ndarray:
    return to_numpy(convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales)))


def assert_same_bits(ours, theirs):
    assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())


@pytest.mark.parametrize("at_once", [7, 1 << 16])
def test_bits_are_those_of_transformers(at_once, monkeypatch):
    monkeypatch.setattr(mxfp4, "_BLOCKS_AT_ONCE", at_once)
    blocks, scales = packed()
    source = dequantised(ParamsSource({"w_blocks": blocks, "w_scales": scales, "b": np.ones(3)}))
    assert set(source.headers) == {"w", "b"}
    expected = by_transformers(blocks, scales)
    assert source.headers["w"] == Header(expected.shape, np.dtype(ml_dtypes.bfloat16))
    assert_same_bits(source.read("w"), expected)
    np.testing.assert_array_equal(source.read("b"), np.ones(3))


@pytest.mark.parametrize("inputs", [slice(0, 64), slice(5, 30), slice(31, 33), slice(40, 41), slice(20, 20)])
def test_a_box_reads_just_the_blocks_that_it_touches(inputs):
    blocks, scales = packed()
    counted = Counting(ParamsSource({"w_blocks": blocks, "w_scales": scales}))
    box = (slice(1, 3), inputs, slice(4, 9))
    found = dequantised(counted).read("w", box)
    assert_same_bits(found, by_transformers(blocks, scales)[box])
    touched = -(-inputs.stop // 32) - inputs.start // 32
    assert counted.bytes == 2 * 5 * touched * (16 + 1)


@pytest.mark.parametrize(
    "arrays",
    [
        {"w_blocks": np.zeros((2, 3, 1, 16), np.uint8)},
        {"w_blocks": np.zeros((2, 3, 1, 16), np.uint8), "w_scales": np.zeros((2, 3, 2), np.uint8)},
        {"w_blocks": np.zeros((2, 3, 1, 16), np.int8), "w_scales": np.zeros((2, 3, 1), np.int8)},
        {"w_blocks": np.zeros((), np.uint8), "w_scales": np.zeros((), np.uint8)},
    ],
)
def test_other_tensors_of_such_names_stay_as_they_are(arrays):
    source = ParamsSource(arrays)
    assert dequantised(source) is source


@pytest.fixture(params=[1, 2], ids=["one file", "two files"])
def checkpoint(request, tmp_path):
    """gpt-oss as it is published, blocks and scales apart if in two files; and the same dequantised, in torch."""
    config = TorchConfig(
        vocab_size=19, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, head_dim=8
    )
    config.num_key_value_heads, config.num_local_experts, config.num_experts_per_tok = 2, EXPERTS, 2
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    module = TorchModel(config).to(torch.bfloat16).eval()
    state = module.state_dict()
    tensors = {name: to_numpy(tensor) for name, tensor in state.items() if not name.endswith("proj")}
    for name in state.keys() - tensors.keys():
        _, inputs, outputs = state[name].shape
        blocks, scales = packed(EXPERTS, outputs, inputs // 32, (118, 124))
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        state[name].copy_(torch.from_numpy(by_transformers(blocks, scales).view(np.int16)).view(torch.bfloat16))
    quantised = {"quantization_config": {"quant_method": "mxfp4"}}
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict() | quantised))
    headers = {name: Header(array.shape, array.dtype) for name, array in tensors.items()}
    parts = [headers]
    if request.param == 2:
        parts = [{k: v for k, v in headers.items() if k.endswith("_scales") == last} for last in (False, True)]
        names = {name: f"{number}.safetensors" for number, part in enumerate(parts) for name in part}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    for number, part in enumerate(parts):
        file = "model.safetensors" if len(parts) == 1 else f"{number}.safetensors"
        write_safetensors(tmp_path / file, part, tensors.__getitem__, {"format": "pt"})
    return tmp_path, module


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_published_checkpoint_loads_and_is_saved_without_its_quantisation(checkpoint, scan_layers, tmp_path):
    folder, module = checkpoint
    model, info = GptOssForCausalLM.from_pretrained(
        folder, param_dtype="bfloat16", scan_layers=scan_layers, output_loading_info=True
    )
    assert (info.missing_keys, info.unexpected_keys, info.mismatched_keys) == ([], [], [])
    state = {name: to_numpy(tensor) for name, tensor in module.state_dict().items()}
    assert {name: array.tobytes() for name, array in model.state_dict().items()} == {
        name: array.tobytes() for name, array in state.items()
    }
    ids = np.array([[3, 5, 7, 11, 2]])
    with torch.no_grad():
        expected = module.float()(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(model(ids).logits, expected, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path / "plain")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    assert set(find_weights(resolve(tmp_path / "plain")).source.headers) == set(state)


def test_a_model_of_a_configuration_that_says_mxfp4_is_saved_as_what_it_is(tmp_path):
    quantised = {"quantization_config": {"quant_method": "mxfp4"}}
    model = GptOssForCausalLM({**FAMILIES["gpt_oss"].config, **quantised})
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())

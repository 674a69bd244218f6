"""The names that files of weights have."""

from __future__ import annotations

import pytest

from flaxmodels.files.weight_names import is_orbax_name, is_weight_file, names_of, variant_of

NAMES = {
    "model.safetensors": None,
    "model.fp16.safetensors": "fp16",
    "model-00001-of-00002.safetensors": None,
    "model.v2.b-00001-of-00002.safetensors": "v2.b",
    "model.safetensors.index.json": None,
    "model.safetensors.index.fp16.json": "fp16",
    "flax_model.msgpack": None,
    "flax_model-00010-of-00012.msgpack": None,
    "flax_model.orbax": None,
    "flax_model.v2.orbax": "v2",
    "pytorch_model.bin": None,
    "pytorch_model.bin.index.json": None,
    "tf_model.h5": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_weights(name):
    assert is_weight_file(name)
    assert variant_of(name) == NAMES[name]
    assert is_orbax_name(name) == name.endswith(".orbax")


OTHERS = ["config.json", "model.onnx", "optimizer.bin", "model", "mymodel.bin", "model.orbax", "model.bin/x\n", ""]


@pytest.mark.parametrize("name", OTHERS)
def test_other_names(name):
    assert not is_weight_file(name)
    assert not is_orbax_name(name)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("file_name", ["model.safetensors", "flax_model.orbax"])
def test_names_of_a_variant(file_name, variant):
    for name in names_of(file_name, variant)[: 1 if file_name.endswith("orbax") else 2]:
        assert is_weight_file(name)
        assert variant_of(name) == variant

"""The table of formats: names of files, precedence, and readers that are imported when they are needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flaxmodels.errors import FlaxModelsError
from flaxmodels.files.formats import (
    FORMATS,
    WRITTEN,
    format_of,
    is_index,
    is_self_contained,
    is_tree,
    is_weight_file,
    search_order,
    variant_of,
    written_format,
)

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
    assert is_tree(name) == name.endswith(".orbax")
    assert is_index(name) == name.endswith(".json")


OTHERS = ["config.json", "model.onnx", "optimizer.bin", "model", "mymodel.bin", "model.orbax", "model.bin/x\n", ""]


@pytest.mark.parametrize("name", OTHERS)
def test_other_names(name):
    assert not is_weight_file(name)
    assert not is_tree(name)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("format", [format for format in FORMATS if format.file_name], ids=lambda format: format.name)
def test_names_of_a_variant(format, variant):
    for name in format.file_names(variant)[: 1 if format.is_tree else 2]:
        assert is_weight_file(name)
        assert variant_of(name) == variant


FOUND = {
    "model.safetensors": "torch",
    "anything.safetensors": "torch",
    "flax_model.msgpack": "flax",
    "flax_model.msgpack.index.json": "flax",
    "pytorch_model.fp16.bin": "torch-pickle",
    "weights.pth": "torch-pickle",
    "tf_model.h5.index.json": "tensorflow",
    "SmolLM2.Q4_1.gguf": "gguf",
    "model.onnx": None,
    "flax_model.orbax": None,
}
"""The format that a suffix says; a tree of Orbax is a folder."""


@pytest.mark.parametrize("name", FOUND)
def test_the_format_of_a_file(name):
    found = format_of(name)
    assert (found and found.name) == FOUND[name]


@pytest.mark.parametrize("name", [*FOUND, "SmolLM2.gguf.index.json", "model.orbax"])
def test_files_that_hold_the_configuration_and_the_tokenizer_too(name):
    assert is_self_contained(name) == name.endswith(".gguf")


def test_the_order_of_a_folder():
    assert search_order("fp16") == [
        "model.fp16.safetensors",
        "model.safetensors.index.fp16.json",
        "flax_model.fp16.safetensors",
        "flax_model.safetensors.index.fp16.json",
        "flax_model.fp16.msgpack",
        "flax_model.msgpack.index.fp16.json",
        "flax_model.fp16.orbax",
        "flax_model.orbax.index.fp16.json",
        "pytorch_model.fp16.bin",
        "pytorch_model.bin.index.fp16.json",
        "tf_model.fp16.h5",
        "tf_model.h5.index.fp16.json",
    ]


def test_formats_that_are_written():
    assert {name: written_format(name).view for name in WRITTEN} == {
        "torch": "torch",
        "flax-safetensors": "flax",
        "flax": "flax",
        "orbax": "own",
    }
    with pytest.raises(FlaxModelsError) as error:
        written_format("gguf")
    assert str(error.value) == "format='gguf' cannot be written: expected one of torch, flax-safetensors, flax, orbax"


def test_a_configuration_needs_no_reader(tmp_path):
    """Whoever reads `config.json` alone imports neither readers of weights nor what they are built on."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    code = f"""if True:
        import sys
        from flaxmodels.config import PreTrainedConfig
        assert PreTrainedConfig.from_pretrained({str(tmp_path)!r})
        readers = ("safetensors", "msgpack", "orbax", "h5", "gguf", "mxfp4", "weights")
        print([name for name in sys.modules if name in {{f"flaxmodels.files.{{each}}" for each in readers}}
               or name.startswith(("interop.dialects", "interop.torch_bridge", "h5py", "msgpack", "gguf"))])
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"

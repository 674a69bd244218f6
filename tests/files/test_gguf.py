"""GGUF files beside the gguf package, and files that break the rules."""

from __future__ import annotations

import math
import re
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
from attacks.gguf import header, key, tensor, text
from gguf import GGMLQuantizationType as Quant
from hypothesis import given, settings
from mutations import damaged_copies, read_or_refuse

from flaxmodels.errors import CheckpointError
from flaxmodels.files.gguf import GGUFFile

METADATA = {
    "general.alignment": 32,
    "text": "naïve 🦙",
    "int": -7,
    "big": 2**40,
    "float": 0.25,
    "yes": True,
    "tokens": ["<s>", "▁the", "", "🦙"],
    "scores": [0.5, -1.0, 0.0],
    "types": [1, 2, 3],
    "none": [],
}
DEQUANTISED = [
    *(Quant.Q4_0, Quant.Q4_1, Quant.Q5_0, Quant.Q5_1, Quant.Q8_0),
    *(Quant.Q2_K, Quant.Q3_K, Quant.Q4_K, Quant.Q5_K, Quant.Q6_K),
    *(Quant.IQ4_NL, Quant.IQ4_XS, Quant.TQ1_0, Quant.MXFP4),
]


def random_blocks(quant: Quant, *leading: int, blocks: int = 2) -> np.ndarray:
    """Rows of random bytes, uint8 [*leading, row_bytes]: any scale occurs, infinite and NaN ones too."""
    size = gguf.GGML_QUANT_SIZES[quant][1] * blocks
    return np.random.default_rng(quant).integers(0, 256, (*leading, size), np.uint8)


def dequantised(stored: np.ndarray, quant: Quant) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.dequantize(stored, quant)


def write(path: Path, tensors: Mapping[str, tuple[np.ndarray, Quant | None]]) -> Path:
    """A file of the gguf package: arrays of a dense dtype, or bytes with their quantisation."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("text", METADATA["text"])
    writer.add_int32("int", METADATA["int"])
    writer.add_uint64("big", METADATA["big"])
    writer.add_float32("float", METADATA["float"])
    writer.add_bool("yes", METADATA["yes"])
    for array_key in ("tokens", "scores", "types"):
        writer.add_array(array_key, METADATA[array_key])
    for name, (array, quant) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int8, np.int16, np.int32, np.int64])
def test_dense_tensors_are_views(tmp_path, dtype):
    array = np.arange(24).astype(dtype).reshape(2, 3, 4)
    source = GGUFFile(write(tmp_path / "model.gguf", {"pad": (array[0, 0], None), "x": (array, None)}))
    whole, box = source.read("x"), source.read("x", (slice(0, 2), slice(1, 3), slice(2, 3)))
    np.testing.assert_array_equal(whole, array, strict=True)
    np.testing.assert_array_equal(box, array[:, 1:3, 2:3], strict=True)
    assert (source.headers["x"].shape, source.headers["x"].dtype) == ((2, 3, 4), np.dtype(dtype))
    assert np.shares_memory(whole, box)
    assert not whole.flags.writeable


def test_bfloat16_is_a_view(tmp_path):
    array = np.random.default_rng(0).normal(size=(3, 5)).astype(ml_dtypes.bfloat16)
    source = GGUFFile(write(tmp_path / "model.gguf", {"x": (array.view(np.uint8), Quant.BF16)}))
    np.testing.assert_array_equal(source.read("x"), array, strict=True)
    assert source.read("x").base is not None


@pytest.mark.parametrize("quant", [Quant.Q4_0, Quant.Q4_1, Quant.Q8_0])
def test_values_survive_within_the_quantisation_step(tmp_path, quant):
    values = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    source = GGUFFile(write(tmp_path / "model.gguf", {"x": (gguf.quantize(values, quant), quant)}))
    assert source.headers["x"].shape == (6, 64)
    assert np.abs(source.read("x") - values).max() < (0.03 if quant == Quant.Q8_0 else 0.5)


@pytest.mark.parametrize("quant", DEQUANTISED, ids=lambda quant: quant.name)
def test_quantised_tensors(tmp_path, quant):
    stored = random_blocks(quant, 3, 300)
    expected = dequantised(stored, quant)
    source = GGUFFile(write(tmp_path / "model.gguf", {"x": (stored, quant), "row": (stored[0, 0], quant)}))
    assert (source.headers["x"].shape, source.headers["x"].dtype) == (expected.shape, np.dtype(np.float32))
    np.testing.assert_array_equal(source.read("x"), expected, strict=True)
    index = (slice(1, 3), slice(250, 290), slice(5, 50))
    np.testing.assert_array_equal(source.read("x", index), expected[index], strict=True)
    np.testing.assert_array_equal(source.read("row", (slice(3, 9),)), expected[0, 0, 3:9], strict=True)


@pytest.mark.parametrize("shape", [(0, 3), (64, 0), (0, 2**40), (0, 2**40, 2**20)])
def test_quantised_tensors_of_no_values(tmp_path, shape):
    path = tmp_path / "model.gguf"
    path.write_bytes(header(1, 0, tensor(b"x", list(shape), Quant.Q8_0, 0)).ljust(200))
    found = GGUFFile(path).read("x")
    assert (found.shape, found.dtype) == (shape[::-1], np.dtype(np.float32))


def test_only_the_rows_asked_for_are_dequantised(tmp_path, monkeypatch):
    stored = random_blocks(Quant.Q8_0, 2, 400)
    source = GGUFFile(write(tmp_path / "model.gguf", {"x": (stored, Quant.Q8_0)}))
    rows = []
    original = gguf.quants.Q8_0.dequantize
    monkeypatch.setattr(gguf.quants.Q8_0, "dequantize", lambda data: rows.append(len(data)) or original(data))
    source.read("x", (slice(0, 2), slice(7, 10), slice(0, 8)))
    assert rows == [6]
    source.read("x")
    assert sum(rows) == 806
    assert max(rows) == 256


def test_metadata_is_plain_python(tmp_path):
    path = write(tmp_path / "model.gguf", {})
    found = GGUFFile(path).metadata
    expected = {name: value for name, value in METADATA.items() if name not in ("general.alignment", "none")}
    assert found == {"general.architecture": "llama"} | expected
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in ({"general.architecture": "llama"} | expected).items()
    }
    reader = gguf.GGUFReader(path)
    assert found == {name: reader.fields[name].contents() for name in found}


def test_every_type_of_value(tmp_path):
    formats = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
    path = tmp_path / "model.gguf"
    keys = [key(str(kind).encode(), kind, struct.pack(f"<{code}", 1)) for kind, code in formats.items()]
    keys += [key(f"{kind}[]".encode(), 9, struct.pack(f"<IQ2{code}", kind, 2, 1, 0)) for kind, code in formats.items()]
    keys += [key(b"[]", 9, struct.pack("<IQ", 8, 0)), key(b"raw", 8, text(b"\xff"))]
    path.write_bytes(header(0, len(keys), *keys))
    metadata = GGUFFile(path).metadata
    assert metadata.pop("raw").encode("utf-8", "surrogateescape") == b"\xff"
    assert metadata.pop("[]") == []
    assert metadata == {str(kind): 1 for kind in formats} | {f"{kind}[]": [1, 0] for kind in formats}


def test_alignment(tmp_path):
    path = tmp_path / "model.gguf"
    keys = key(b"general.alignment", 4, struct.pack("<I", 128))
    head = header(2, 1, keys, tensor(b"x", [3], 0, 0), tensor(b"y", [], 0, 128))
    path.write_bytes(head.ljust(128) + struct.pack("<3f", 1, 2, 3).ljust(128) + struct.pack("<f", 4))
    source = GGUFFile(path)
    np.testing.assert_array_equal(source.read("x"), [1, 2, 3])
    np.testing.assert_array_equal(source.read("y"), 4)


def test_without_the_package(tmp_path, monkeypatch):
    dense = write(tmp_path / "dense.gguf", {"x": (np.ones(3, np.float32), None)})
    path = write(tmp_path / "model.gguf", {"x": (random_blocks(Quant.Q8_0, 2), Quant.Q8_0)})
    monkeypatch.setitem(sys.modules, "gguf", None)
    np.testing.assert_array_equal(GGUFFile(dense).read("x"), [1, 1, 1])
    with pytest.raises(CheckpointError) as error:
        GGUFFile(path)
    assert str(error.value) == (
        "model.gguf: tensor 'x' is quantised and needs the gguf package. Run: pip install \"flaxmodels-jax[gguf]\""
    )


@pytest.mark.parametrize("kind", [9, 5, 99])
def test_types_that_the_package_cannot_dequantise(tmp_path, kind):
    path = tmp_path / "model.gguf"
    path.write_bytes(header(1, 0, tensor(b"x", [32], kind, 0)).ljust(200))
    with pytest.raises(CheckpointError) as error:
        GGUFFile(path)
    assert str(error.value) == (
        f"model.gguf: tensor 'x' has ggml type {kind}, which the gguf package cannot dequantise. "
        "Run: pip install --upgrade gguf"
    )


@pytest.mark.parametrize(("version", "number"), [(b"\x01\0\0\0", 1), (b"\0\0\0\x03", 3 << 24)])
def test_other_versions(tmp_path, version, number):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + version + bytes(16))
    problem = f"GGUF version {number}, expected 2 or 3 in little-endian bytes"
    message = f"model.gguf: {problem}. Convert it with llama.cpp."
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        GGUFFile(path)


def golden() -> bytes:
    """A whole file written by hand: one key, a dense and a quantised tensor."""
    infos = [tensor(b"x", [3, 2], 1, 0), tensor(b"q", [32, 2], 8, 32)]
    head = header(2, 1, key(b"tokens", 9, struct.pack("<IQ", 8, 2) + text(b"a") + text(b"bc")), *infos)
    data = struct.pack("<6e", *range(6)).ljust(32) + struct.pack("<e32be32b", 0.5, *range(32), 2, *range(32))
    return head.ljust(math.ceil(len(head) / 32) * 32) + data


def test_golden_bytes(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(golden())
    source = GGUFFile(path)
    assert source.metadata == {"tokens": ["a", "bc"]}
    np.testing.assert_array_equal(source.read("x"), np.arange(6, dtype=np.float16).reshape(2, 3), strict=True)
    steps = np.arange(32, dtype=np.float32)
    np.testing.assert_array_equal(source.read("q"), np.stack([steps / 2, steps * 2]), strict=True)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(damaged_copies(golden()))
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, data):
    read_or_refuse(GGUFFile, tmp_path_factory.getbasetemp() / "damaged.gguf", data, CheckpointError)

"""Safetensors files beside the safetensors package, and files that break the rules."""

from __future__ import annotations

import os
import struct
import weakref
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
from hypothesis import given, settings
from mutations import damaged_copies, read_or_refuse

from flaxmodels.errors import CheckpointError
from flaxmodels.files.safetensors import SafetensorsFile, write_safetensors
from interop.source import Header
from interop.torch_bridge import from_numpy, to_numpy

NUMPY_DTYPES = [
    *("uint64", "int64", "float64", "complex64", "float32", "uint32", "int32"),
    *("float16", "uint16", "int16", "int8", "uint8", "bool"),
]
ML_DTYPES = ["bfloat16", "float8_e8m0fnu", "float8_e4m3fn", "float8_e5m2"]

GOLDEN_HEADER = (
    b'{"__metadata__":{"format":"pt"},'
    b'"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    b'"a":{"dtype":"BF16","shape":[],"data_offsets":[8,10]},'
    b'"c":{"dtype":"BF16","shape":[0,3],"data_offsets":[10,10]}}'
)
GOLDEN = (
    struct.pack("<Q", 248) + GOLDEN_HEADER.ljust(248) + bytes.fromhex("0000803f 000000c0 4040")  # 1, -2 and 3
)
GOLDEN_TENSORS = {
    "b": np.array([1, -2], np.float32),
    "a": np.array(3, ml_dtypes.bfloat16),
    "c": np.zeros((0, 3), ml_dtypes.bfloat16),
}


def random_tensors(names: list[str]) -> dict[str, np.ndarray]:
    """One array [3, 5] a dtype, of random bytes (bool: of random 0 and 1)."""
    rng = np.random.default_rng(0)
    tensors = {}
    for name in names:
        dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
        noise = rng.integers(0, 2 if name == "bool" else 256, (3, 5 * dtype.itemsize), np.uint8)
        tensors[f"{name}.weight"] = noise.view(dtype)
    return tensors


def headers_of(tensors: dict[str, np.ndarray]) -> dict[str, Header]:
    return {name: Header(array.shape, array.dtype) for name, array in tensors.items()}


def write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> Path:
    write_safetensors(path, headers_of(tensors), tensors.__getitem__, metadata)
    return path


def assert_same(left: np.ndarray, right: np.ndarray) -> None:
    assert (left.shape, left.dtype, left.tobytes()) == (right.shape, right.dtype, right.tobytes())


def test_reads_what_the_package_wrote(tmp_path):
    tensors = random_tensors(NUMPY_DTYPES + ML_DTYPES)
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({n: from_numpy(a) for n, a in tensors.items()}, path, {"format": "pt"})
    source = SafetensorsFile(path)
    assert source.metadata == {"format": "pt"}
    assert source.headers == headers_of(tensors)
    for name, array in tensors.items():
        assert_same(source.read(name), array)


def test_the_package_reads_what_it_wrote_and_lays_out_the_same_bytes(tmp_path):
    tensors = random_tensors(ML_DTYPES + NUMPY_DTYPES)
    path = write(tmp_path / "model.safetensors", tensors, {"format": "flax"})
    for name, tensor in safetensors.torch.load_file(path).items():
        assert_same(to_numpy(tensor), tensors[name])
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {"format": "flax"}
    ours, theirs = path.read_bytes(), safetensors.torch.save({n: from_numpy(a) for n, a in tensors.items()})
    size = sum(array.nbytes for array in tensors.values())
    assert ours[-size:] == theirs[-size:]
    assert (len(ours) - size) % 64 == 0


def test_golden_bytes(tmp_path):
    path = write(tmp_path / "model.safetensors", GOLDEN_TENSORS, {"format": "pt"})
    assert path.read_bytes() == GOLDEN
    source = SafetensorsFile(path)
    assert list(source.headers) == ["b", "a", "c"]
    for name, array in GOLDEN_TENSORS.items():
        assert_same(source.read(name), array)


def test_an_empty_file_of_tensors(tmp_path):
    path = write(tmp_path / "model.safetensors", {})
    assert safetensors.numpy.load_file(path) == {}
    assert SafetensorsFile(path).headers == {}


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32, np.float64, np.int64])
def test_transposed_arrays_are_written_in_c_order(tmp_path, dtype):
    array = np.arange(2**40, 2**40 + 24).astype(dtype).reshape(2, 3, 4).transpose(2, 0, 1)
    path = write(tmp_path / "model.safetensors", {"x": array})
    assert_same(SafetensorsFile(path).read("x"), np.ascontiguousarray(array))


def test_reads_are_aligned_read_only_views_and_boxes_of_them(tmp_path):
    array = np.arange(60, dtype=np.float32).reshape(5, 12)
    source = SafetensorsFile(write(tmp_path / "model.safetensors", {"x": array, "y": array[0, 0]}))
    whole, box = source.read("x"), source.read("x", (slice(1, 4), slice(2, 7)))
    assert np.shares_memory(whole, box)
    assert not whole.flags.writeable
    assert whole.ctypes.data % 64 == 0
    np.testing.assert_array_equal(box, array[1:4, 2:7])
    assert isinstance(source.read("y", ()), np.ndarray)


def test_views_outlive_the_source_and_files_are_closed(tmp_path):
    path = write(tmp_path / "model.safetensors", GOLDEN_TENSORS)
    before = len(os.listdir("/proc/self/fd"))
    array = SafetensorsFile(path).read("b")
    np.testing.assert_array_equal(array, [1, -2])
    del array
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_tensor_is_held_at_a_time(tmp_path):
    held: list[weakref.ref[np.ndarray]] = []

    def read(name: str) -> np.ndarray:
        assert all(ref() is None for ref in held)
        array = np.zeros((3, 4), np.float32)
        held.append(weakref.ref(array))
        return array

    write_safetensors(tmp_path / "model.safetensors", dict.fromkeys("abc", Header((3, 4), np.dtype("f4"))), read)
    assert len(held) == 3


def test_refuses_arrays_that_do_not_match_their_header(tmp_path):
    with pytest.raises(CheckpointError) as error:
        write_safetensors(
            tmp_path / "model.safetensors",
            {"x": Header((2, 3), np.dtype(np.float32))},
            lambda name: np.zeros((2, 3)),
        )
    assert str(error.value) == ("x: the array is float64 (2, 3), its header says float32 (2, 3). Cast or reshape it.")


def test_refuses_what_the_format_cannot_hold(tmp_path):
    tensors = {"x": np.zeros(2, ml_dtypes.int4), "y": np.zeros(2, np.complex128), "z": np.zeros(2)}
    with pytest.raises(CheckpointError) as error:
        write(tmp_path / "model.safetensors", tensors)
    assert str(error.value) == (
        "The format has no such dtype: x is int4, y is complex128. Cast to one of uint64, int64, float64, "
        "complex64, float32, uint32, int32, bfloat16, float16, uint16, int16, float8_e8m0fnu, float8_e4m3fn, "
        "float8_e5m2, int8, uint8, bool."
    )
    with pytest.raises(CheckpointError) as error:
        write(tmp_path / "model.safetensors", {"__metadata__": np.zeros(2)})
    assert str(error.value) == "Safetensors reserves the name __metadata__. Rename that tensor."
    assert not (tmp_path / "model.safetensors").exists()


def test_an_absent_file(tmp_path):
    with pytest.raises(CheckpointError) as error:
        SafetensorsFile(tmp_path / "model.safetensors")
    assert str(error.value) == (
        f"{tmp_path}/model.safetensors: No such file or directory. Check the path and its permissions."
    )


@settings(max_examples=400, deadline=None, derandomize=True)
@given(damaged_copies(GOLDEN))
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    read_or_refuse(SafetensorsFile, path, data, CheckpointError)

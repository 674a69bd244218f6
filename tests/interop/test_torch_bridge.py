"""Torch pickles and tensors as numpy arrays, and pickles that are not weights."""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from mutations import damaged_copies, read_or_refuse

from interop.errors import InteropError
from interop.torch_bridge import TorchPickle, from_numpy, to_numpy

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
    *(
        torch.float8_e4m3fn,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2,
        torch.float8_e5m2fnuz,
        torch.float8_e8m0fnu,
    ),
]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def tensor_of(dtype: torch.dtype) -> torch.Tensor:
    """A tensor [2, 3] of powers of two, which every dtype but bool holds exactly."""
    return torch.tensor([[1, 2, 4], [8, 16, 32]]).to(dtype)


def array_of(dtype: torch.dtype) -> np.ndarray:
    numpy_dtype = np.dtype(getattr(ml_dtypes, name_of(dtype), None) or name_of(dtype))
    return np.array([[1, 2, 4], [8, 16, 32]]).astype(numpy_dtype)


def assert_same(left: np.ndarray, right: np.ndarray) -> None:
    assert (left.shape, left.dtype, left.tobytes()) == (right.shape, right.dtype, right.tobytes())


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_tensors_become_arrays_of_the_same_memory(dtype):
    tensor = tensor_of(dtype)
    assert_same(to_numpy(tensor), array_of(dtype))
    assert to_numpy(tensor).ctypes.data == tensor.data_ptr()
    assert_same(np.ascontiguousarray(to_numpy(tensor.T)), np.ascontiguousarray(array_of(dtype).T))
    assert to_numpy(tensor[0, 0]).shape == ()


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_arrays_become_tensors_of_the_same_memory(dtype):
    array = array_of(dtype)
    tensor = from_numpy(array)
    assert tensor.dtype == dtype
    assert tensor.data_ptr() == array.ctypes.data
    assert torch.equal(tensor.view(torch.uint8), tensor_of(dtype).view(torch.uint8))
    assert from_numpy(array.T).stride() == (1, 3)


def test_read_only_arrays_are_copied():
    array = np.ones(3, ml_dtypes.bfloat16)
    array.flags.writeable = False
    tensor = from_numpy(array)
    tensor += 1
    assert (array == 1).all()


def test_parameters_become_arrays():
    assert_same(to_numpy(torch.nn.Parameter(torch.ones(2))), np.ones(2, np.float32))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_reads_a_pickle(tmp_path, zipped):
    dtypes = DTYPES if zipped else [torch.float32, torch.bfloat16, torch.int32]  # torch cannot load all of them
    tensors = {name_of(dtype): tensor_of(dtype) for dtype in dtypes}
    tensors |= {
        "transposed": torch.arange(6).reshape(2, 3).T,
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.0),
    }
    tensors["tied"] = tensors["float32"]
    torch.save(OrderedDict(tensors), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    source = TorchPickle(tmp_path / "pytorch_model.bin")
    assert list(source.headers) == list(tensors)
    for name, tensor in tensors.items():
        array = source.read(name)
        assert (source.headers[name].shape, source.headers[name].dtype) == (array.shape, array.dtype)
        assert_same(array, to_numpy(tensor))
    np.testing.assert_array_equal(source.read("int32", (slice(1, 2), slice(0, 2))), [[8, 16]])


def test_reads_a_state_dict_with_its_metadata(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    source = TorchPickle(tmp_path / "pytorch_model.bin")
    for name, tensor in module.state_dict().items():
        assert_same(source.read(name), to_numpy(tensor))


def test_files_are_closed(tmp_path):
    torch.save({"x": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    before = len(os.listdir("/proc/self/fd"))
    source = TorchPickle(tmp_path / "pytorch_model.bin")
    np.testing.assert_array_equal(source.read("x"), [1, 1, 1])
    assert len(os.listdir("/proc/self/fd")) == before


class Code:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("exit 1",)


def refusal(path: Path) -> str:
    with pytest.raises(InteropError) as error:
        TorchPickle(path)
    return str(error.value)


SAVE = "Save model.state_dict() with torch.save."


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_with_code(tmp_path, zipped):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"x": Code()}, path, _use_new_zipfile_serialization=zipped)
    assert refusal(path) == (
        f"pytorch_model.bin: refused, because it imports posix.system and weights need no code. {SAVE}"
    )


def test_a_plain_pickle_with_code(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps(Code(), protocol=2))
    assert refusal(path) == (
        f"pytorch_model.bin: refused, because it imports posix.system and weights need no code. {SAVE}"
    )


def test_a_whole_module(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(torch.nn.Linear(2, 2), path)
    assert refusal(path) == (
        "pytorch_model.bin: refused, because it imports torch.nn.modules.linear.Linear "
        f"and weights need no code. {SAVE}"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([torch.ones(2)], "holds a list, expected a dict of names to tensors"),
        (torch.ones(2), "holds a Tensor, expected a dict of names to tensors"),
        (
            {"epoch": 3, "names": {"x": 1}, "x": torch.ones(2)},
            "holds more than dense tensors: 'epoch' is of type int, 'names' is of type dict",
        ),
        (
            {1: torch.ones(2), "s": torch.ones(2).to_sparse()},
            "holds more than dense tensors: 1 is torch.float32 (torch.strided), "
            "'s' is torch.float32 (torch.sparse_coo)",
        ),
        (
            dict.fromkeys("abcdefg", 0),
            "holds more than dense tensors: "
            + ", ".join(f"'{name}' is of type int" for name in "abcde")
            + " and 2 more",
        ),
    ],
)
def test_a_pickle_that_is_not_weights(tmp_path, content, problem):
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert refusal(tmp_path / "pytorch_model.bin") == f"pytorch_model.bin: {problem}. {SAVE}"


def test_broken_files(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"x": torch.ones(300)}, path)
    whole = path.read_bytes()
    for data in (whole[:-100], whole[:100], b"", b"garbage", pickle.dumps([1, 2], protocol=2)):
        path.write_bytes(data)
        assert refusal(path) == ("pytorch_model.bin: truncated or not a torch checkpoint. Download or copy it again.")


def test_an_absent_file(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    assert refusal(path) == f"{path}: No such file or directory. Check the path and its permissions."


def test_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert refusal(tmp_path / "x.bin") == "Torch pickles and modules need torch. Run: pip install torch"


def saved(zipped: bool) -> bytes:
    file = io.BytesIO()
    tensors = {"x": torch.ones(4, 4), "y": torch.ones(2, 3, dtype=torch.bfloat16)}
    torch.save(tensors, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(damaged_copies(saved(zipped=True)) | damaged_copies(saved(zipped=False)))
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, data):
    read_or_refuse(TorchPickle, tmp_path_factory.getbasetemp() / "damaged.bin", data, InteropError)

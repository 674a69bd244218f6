"""Files that are mapped or copied, and that change afterwards."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from attacks import gguf as attacked

from flaxmodels.errors import CheckpointError
from flaxmodels.files import msgpack as flax_msgpack
from flaxmodels.files.msgpack import write_msgpack
from flaxmodels.files.reading import open_bytes
from flaxmodels.files.safetensors import write_safetensors
from flaxmodels.files.weights import open_weights
from interop.source import Header

ARRAYS = {
    "a": np.arange(24, dtype=np.float32).reshape(4, 3, 2),
    "b": np.array(7, np.int64),
    "c": np.zeros((0, 3), "f4"),
}
HEADERS = {name: Header(array.shape, array.dtype) for name, array in ARRAYS.items()}


def gguf(path: Path) -> None:
    path.write_bytes(attacked.model(attacked.LLAMA, attacked.TENSORS))


def hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.update(ARRAYS)


WRITERS: dict[str, Callable[[Path], object]] = {
    "model.safetensors": lambda path: write_safetensors(path, HEADERS, ARRAYS.__getitem__),
    "flax_model.msgpack": lambda path: write_msgpack(path, HEADERS, ARRAYS.__getitem__),
    "model.gguf": gguf,
    "tf_model.h5": hdf5,
    "pytorch_model.bin": lambda path: torch.save({n: torch.from_numpy(a) for n, a in ARRAYS.items()}, path),
}


@pytest.fixture(params=WRITERS)
def path(request, tmp_path, monkeypatch):
    """A file of each format; arrays of msgpack are in chunks."""
    monkeypatch.setattr(flax_msgpack, "MAX_CHUNK_BYTES", 16)
    WRITERS[request.param](tmp_path / request.param)
    return tmp_path / request.param


def test_copies_are_what_a_map_shows(path):
    mapped, copied = (open_weights(path, mmap=mmap).source for mmap in (True, False))
    assert mapped.headers == copied.headers
    for name, header in mapped.headers.items():
        np.testing.assert_array_equal(copied.read(name), mapped.read(name), strict=True)
        index = tuple(slice(size // 3, size - size // 4) for size in header.shape)
        np.testing.assert_array_equal(copied.read(name, index), mapped.read(name, index), strict=True)


def test_copies_do_not_change_with_the_file(path):
    source = open_weights(path, mmap=False).source
    held = {name: source.read(name) for name in source.headers}
    expected = {name: array.copy() for name, array in held.items()}
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    os.truncate(path, 1)
    for name, array in held.items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_file_that_has_become_shorter_is_an_error_for_copies(path):
    source, size = open_weights(path, mmap=False).source, path.stat().st_size
    os.truncate(path, 8)
    name = max(source.headers, key=lambda name: source.headers[name].nbytes)
    if path.suffix == ".bin":  # of which torch copies all at once
        return
    with pytest.raises(CheckpointError) as error:
        source.read(name)
    problem = f"it had {size} bytes when it was opened, and has 8 now"
    assert str(error.value) == f"{path.name}: {problem}. Download or copy it again."


def test_files_are_closed(path):
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for mmap in (True, False):
        source = open_weights(path, mmap=mmap).source
        held = [source.read(name) for name in source.headers]
        del source, held
    assert len(os.listdir("/proc/self/fd")) == before


def test_copies_are_aligned_and_read_only(tmp_path):
    (tmp_path / "x").write_bytes(bytes(range(200)))
    part = open_bytes(tmp_path / "x", mmap=False)[3:150]
    assert part.ctypes.data % 64 == 0
    assert not part.flags.writeable
    np.testing.assert_array_equal(part, np.arange(3, 150))

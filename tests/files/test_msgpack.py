"""Flax msgpack files beside flax.serialization, and files that break the rules."""

from __future__ import annotations

import re
import weakref
from pathlib import Path

import flax.serialization
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from attacks.msgpack import FOUR, GOLDEN, chunked, packed
from hypothesis import given, settings
from mutations import damaged_copies, read_or_refuse

import flaxmodels.files.msgpack as flax_msgpack
from flaxmodels.errors import CheckpointError
from flaxmodels.files.msgpack import MsgpackFile, write_msgpack
from interop.source import Header

GOLDEN_ARRAYS = {
    "b/kernel": np.array([[1, 3]], ml_dtypes.bfloat16),
    "scale": np.array(-2, np.float32),
}


def tree() -> dict:
    """A small tree: awkward shapes, several dtypes, keys out of order and one array of 300 bytes."""
    rng = np.random.default_rng(0)
    return {
        "model": {
            "z": {"kernel": rng.normal(size=(5, 15)).astype(np.float32)},
            "a": {"bias": rng.normal(size=7).astype(ml_dtypes.bfloat16), "empty": np.zeros((0, 3), np.int8)},
        },
        "steps": np.array(3, np.int64),
        "mask": np.array([[True], [False]]),
        "lm_head": {"kernel": rng.normal(size=(3, 4)).astype(ml_dtypes.float8_e4m3fn)},
    }


def flatten(node: dict, prefix: str = "") -> dict[str, np.ndarray]:
    flat = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
    return flat


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    headers = {name: Header(array.shape, array.dtype) for name, array in arrays.items()}
    write_msgpack(path, headers, arrays.__getitem__)
    return path


def save(path: Path, content: object) -> Path:
    """A file as Flax writes it."""
    path.write_bytes(flax.serialization.to_bytes(content))
    return path


def assert_same(left: np.ndarray, right: np.ndarray) -> None:
    assert (left.shape, left.dtype, left.tobytes()) == (right.shape, right.dtype, right.tobytes())


@pytest.fixture(params=[2**30, 64, 1], ids=["whole", "chunks of 64 bytes", "chunks of one element"])
def chunk_bytes(request, monkeypatch):
    """Lowers the size from which arrays are written in chunks, in Flax and here."""
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", request.param)
    monkeypatch.setattr(flax_msgpack, "MAX_CHUNK_BYTES", request.param)
    return request.param


def test_writes_the_bytes_of_flax(tmp_path, chunk_bytes):
    path = write(tmp_path / "flax_model.msgpack", flatten(tree()))
    assert path.read_bytes() == flax.serialization.to_bytes(tree())


def test_reads_what_flax_wrote(tmp_path, chunk_bytes):
    source = MsgpackFile(save(tmp_path / "flax_model.msgpack", tree()))
    arrays = flatten(tree())
    assert source.headers == {name: Header(array.shape, array.dtype) for name, array in arrays.items()}
    for name, array in arrays.items():
        assert_same(source.read(name), array)


@pytest.mark.parametrize(
    "index",
    [
        (slice(0, 5), slice(0, 15)),
        (slice(1, 2), slice(0, 15)),
        (slice(1, 4), slice(3, 9)),
        (slice(2, 2), slice(0, 15)),
        (slice(None), slice(14, 15)),
    ],
)
def test_boxes(tmp_path, chunk_bytes, index):
    source = MsgpackFile(save(tmp_path / "flax_model.msgpack", tree()))
    assert_same(source.read("model/z/kernel", index), np.ascontiguousarray(tree()["model"]["z"]["kernel"][index]))


def test_golden_bytes(tmp_path):
    path = write(tmp_path / "flax_model.msgpack", GOLDEN_ARRAYS)
    assert path.read_bytes() == GOLDEN
    source = MsgpackFile(path)
    for name, array in GOLDEN_ARRAYS.items():
        assert_same(source.read(name), array)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 200, 255, 256, 65_535, 65_536, 70_000])
def test_every_width_of_length(tmp_path, size):
    array = np.arange(size).astype(np.uint8)
    path = write(tmp_path / "flax_model.msgpack", {"x" * max(size // 100, 1): array})
    assert path.read_bytes() == flax.serialization.to_bytes({"x" * max(size // 100, 1): array})
    assert_same(MsgpackFile(path).read("x" * max(size // 100, 1)), array)


@pytest.mark.parametrize("count", [0, 15, 16, 300])
def test_every_size_of_map(tmp_path, count):
    arrays = {f"k{number}": np.array(number, np.int32) for number in range(count)}
    path = write(tmp_path / "flax_model.msgpack", arrays)
    assert path.read_bytes() == flax.serialization.to_bytes(dict(arrays))
    assert list(MsgpackFile(path).headers) == list(arrays)


@pytest.mark.parametrize("head", [b"\x82", b"\xde\0\2", b"\xdf\0\0\0\2"])
def test_every_width_of_map(tmp_path, head):
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(head + GOLDEN[1:])
    assert list(MsgpackFile(path).headers) == list(GOLDEN_ARRAYS)


def test_jax_arrays_and_numpy_scalars_of_flax(tmp_path):
    source = MsgpackFile(save(tmp_path / "x", {"a": jnp.ones((2, 3), jnp.bfloat16), "b": np.float32(2)}))
    assert_same(source.read("a"), np.ones((2, 3), ml_dtypes.bfloat16))
    assert_same(source.read("b"), np.array(2, np.float32))


def test_transposed_arrays_are_written_in_c_order(tmp_path, chunk_bytes):
    array = np.arange(24, dtype=ml_dtypes.bfloat16).reshape(2, 3, 4).transpose(2, 0, 1)
    path = write(tmp_path / "flax_model.msgpack", {"x": array})
    assert_same(MsgpackFile(path).read("x"), np.ascontiguousarray(array))


def test_reads_are_read_only_views(tmp_path):
    source = MsgpackFile(save(tmp_path / "flax_model.msgpack", tree()))
    whole = source.read("model/z/kernel")
    assert np.shares_memory(whole, source.read("model/z/kernel", (slice(1, 3), slice(0, 15))))
    assert not whole.flags.writeable


def test_one_array_is_held_at_a_time(tmp_path):
    held: list[weakref.ref[np.ndarray]] = []

    def read(name: str) -> np.ndarray:
        assert all(ref() is None for ref in held)
        array = np.zeros((3, 4), np.float32)
        held.append(weakref.ref(array))
        return array

    write_msgpack(tmp_path / "x", dict.fromkeys(["a/b", "a/c", "d"], Header((3, 4), np.dtype("f4"))), read)
    assert len(held) == 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"a": np.zeros(2), "a/b": np.zeros(2)},
            "'a/b' lies below 'a', itself an array. Rename one of them.",
        ),
        (
            {"a/b": np.zeros(2), "a": np.zeros(2)},
            "'a' is an array, but others lie below it. Rename it.",
        ),
        (
            {"a": np.zeros(2, ">f4"), "b": np.zeros(2, "U3"), "c": np.zeros(2)},
            "The format has no such dtype: a is >f4, b is <U3. Cast to one of bool, uint8, uint16, uint32, "
            "uint64, int8, int16, int32, int64, float16, float32, float64, complex64, complex128, bfloat16, "
            "float8_e4m3fn, float8_e5m2, float8_e8m0fnu.",
        ),
    ],
)
def test_refuses_what_the_format_cannot_hold(tmp_path, arrays, message):
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        write(tmp_path / "flax_model.msgpack", arrays)
    assert not (tmp_path / "flax_model.msgpack").exists()


def test_refuses_arrays_that_do_not_match_their_header(tmp_path):
    with pytest.raises(CheckpointError) as error:
        write_msgpack(tmp_path / "x", {"a/x": Header((2,), np.dtype(np.float16))}, lambda name: np.zeros(2, "f4"))
    assert str(error.value) == ("a/x: the array is float32 (2,), its header says float16 (2,). Cast or reshape it.")


def test_empty_maps_hold_nothing(tmp_path):
    assert MsgpackFile(save(tmp_path / "flax_model.msgpack", {"a": {}, "b": {"c": {}}})).headers == {}


@settings(max_examples=400, deadline=None, derandomize=True)
@given(damaged_copies(flax.serialization.to_bytes(tree())) | damaged_copies(GOLDEN))
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, data):
    read_or_refuse(MsgpackFile, tmp_path_factory.getbasetemp() / "damaged.msgpack", data, CheckpointError)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(damaged_copies(packed({"a": {"x": chunked([2, 4], FOUR, FOUR)}})))
def test_a_damaged_chunked_array_is_read_or_refused(tmp_path_factory, data):
    read_or_refuse(MsgpackFile, tmp_path_factory.getbasetemp() / "damaged.msgpack", data, CheckpointError)

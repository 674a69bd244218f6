"""Dividing tensors among files, and reading them back through an index."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from mutations import damaged_copies, read_or_refuse

from flaxmodels.errors import CheckpointError, FlaxModelsError
from flaxmodels.files.msgpack import MsgpackFile, write_msgpack
from flaxmodels.files.safetensors import SafetensorsFile, write_safetensors
from flaxmodels.files.shards import ShardedFiles, index_json, parse_size, plan_shards, shard_names
from interop.source import Header

TENSORS = {name: np.arange(6, dtype=np.float32).reshape(2, 3) + number for number, name in enumerate("abcde")}
HEADERS = {name: Header(array.shape, array.dtype) for name, array in TENSORS.items()}
INDEX = "model.safetensors.index.json"


def save(folder: Path, writer=write_safetensors, stem: str = "model", suffix: str = ".safetensors") -> Path:
    """The tensors in three files of at most 50 bytes and their index, whose path is returned."""
    names = plan_shards(HEADERS, 50)
    shards = dict(zip(shard_names(stem, suffix, len(names)), names, strict=True))
    for file, part in shards.items():
        writer(folder / file, {name: HEADERS[name] for name in part}, TENSORS.__getitem__)
    return write_index(folder / f"{stem}{suffix}.index.json", index_json(shards, HEADERS))


def write_index(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        ("7", 7),
        ("7B", 7),
        ("5KB", 5_000),
        ("200MB", 200_000_000),
        ("5GB", 5_000_000_000),
        ("5 gb", 5_000_000_000),
        ("1.5G", 1_500_000_000),
        ("2TB", 2 * 10**12),
        ("3KiB", 3 * 2**10),
        ("3MiB", 3 * 2**20),
        ("1GiB", 2**30),
        ("1.5TiB", 3 * 2**39),
    ],
)
def test_parse_size(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", [0, -1, "0GB", "-5GB", "", "GB", "5XB", "5 G B", "1e9", "5GBs", "0.5B", True, None])
def test_parse_size_refuses(text):
    message = f"{text!r} is not a size in bytes. Use a number, '200MB', '5GB' or '1GiB', for example."
    with pytest.raises(FlaxModelsError, match=f"^{re.escape(message)}$"):
        parse_size(text)


@pytest.mark.parametrize(
    ("limit", "shards"),
    [
        (1, [["a"], ["b"], ["c"], ["d"], ["e"]]),
        (47, [["a"], ["b"], ["c"], ["d"], ["e"]]),
        (48, [["a", "b"], ["c", "d"], ["e"]]),
        (120, [["a", "b", "c", "d", "e"]]),
    ],
)
def test_plan_shards(limit, shards):
    assert plan_shards(HEADERS, limit) == shards


def test_a_tensor_above_the_limit_has_its_own_shard():
    sizes = {"a": 10, "b": 100, "c": 10, "d": 10}
    headers = {name: Header((size,), np.dtype(np.uint8)) for name, size in sizes.items()}
    assert plan_shards(headers, 25) == [["a"], ["b"], ["c", "d"]]
    assert plan_shards({}, 25) == [[]]


def test_shard_names():
    assert shard_names("model", ".safetensors", 1) == ["model.safetensors"]
    assert shard_names("flax_model", ".msgpack", 2) == [
        "flax_model-00001-of-00002.msgpack",
        "flax_model-00002-of-00002.msgpack",
    ]


def test_index_json():
    assert index_json({"x-1": ["a", "b"], "x-2": ["c"]}, HEADERS) == {
        "metadata": {"total_size": 72},
        "weight_map": {"a": "x-1", "b": "x-1", "c": "x-2"},
    }


@pytest.mark.parametrize(
    ("writer", "stem", "suffix", "opener"),
    [
        (write_safetensors, "model", ".safetensors", SafetensorsFile),
        (write_msgpack, "flax_model", ".msgpack", MsgpackFile),
    ],
)
def test_round_trip(tmp_path, writer, stem, suffix, opener):
    source = ShardedFiles(save(tmp_path, writer, stem, suffix), opener)
    assert source.headers == HEADERS
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(source.read(name), array)
        np.testing.assert_array_equal(source.read(name, (slice(1, 2), slice(0, 2))), array[1:2, 0:2], strict=True)


def test_reads_what_transformers_wrote(tmp_path):
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=6
    )
    model = transformers.BertModel(config)
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    source = ShardedFiles(tmp_path / INDEX, SafetensorsFile)
    expected = model.state_dict()
    assert set(source.headers) == set(expected)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    for name, tensor in expected.items():
        np.testing.assert_array_equal(source.read(name), tensor.numpy(), strict=True)


def test_shards_may_be_links_out_of_the_folder_as_in_the_cache_of_the_hub(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save(blobs)
    for blob in blobs.iterdir():
        os.symlink(f"../../blobs/{blob.name}", snapshot / blob.name)
    np.testing.assert_array_equal(ShardedFiles(snapshot / INDEX, SafetensorsFile).read("e"), TENSORS["e"])


def test_tensors_that_the_index_forgot_are_read(tmp_path):
    path = save(tmp_path)
    index = json.loads(path.read_text())
    del index["weight_map"]["b"]
    source = ShardedFiles(write_index(path, index), SafetensorsFile)
    assert list(source.headers) == ["a", "c", "d", "e", "b"]
    np.testing.assert_array_equal(source.read("b"), TENSORS["b"])


def test_a_tensor_that_two_shards_have_is_read_once(tmp_path):
    for file, names in [("one", "ab"), ("two", "bc")]:
        write_safetensors(tmp_path / file, {name: HEADERS[name] for name in names}, TENSORS.__getitem__)
    path = write_index(tmp_path / INDEX, {"weight_map": {"a": "one", "b": "two", "c": "two"}})
    source = ShardedFiles(path, SafetensorsFile)
    assert list(source.headers) == ["a", "b", "c"]
    np.testing.assert_array_equal(source.read("b"), TENSORS["b"])


def test_all_absent_shards_are_named(tmp_path):
    path = save(tmp_path)
    for number in (1, 3):
        (tmp_path / f"model-0000{number}-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError) as error:
        ShardedFiles(path, SafetensorsFile)
    assert str(error.value) == (
        "model.safetensors.index.json: shards that it names are absent: model-00001-of-00003.safetensors, "
        "model-00003-of-00003.safetensors. Download them too."
    )


@settings(max_examples=300, deadline=None, derandomize=True)
@given(damaged_copies(json.dumps(index_json({"model-1": ["a", "b"], "model-2": ["c"]}, HEADERS)).encode()))
def test_a_damaged_index_is_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    for file, names in [("model-1", "ab"), ("model-2", "c")]:
        write_safetensors(folder / file, {name: HEADERS[name] for name in names}, TENSORS.__getitem__)
    read_or_refuse(lambda path: ShardedFiles(path, SafetensorsFile), folder / "damaged.json", data, CheckpointError)

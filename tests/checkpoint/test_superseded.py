"""What a save removes of the weights that were there before, and what stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from checkpoint.test_save import CONFIG
from files.folders import snapshot
from models.comparisons import same_params

from flaxmodels.errors import CheckpointError
from flaxmodels.files.location import resolve
from flaxmodels.files.saved_files import Superseded, superseded
from flaxmodels.files.weights import find_weights
from flaxmodels.models.llama import LlamaModel

FOREIGN = {"README.md": "mine", "tokenizer.json": "{}", "model.onnx": "x", "optimizer.bin": "x", "sub/model.bin": "x"}


LAYOUTS = {
    "torch": {},
    "torch shards": {"max_shard_size": 6000},
    "flax-safetensors": {"format": "flax-safetensors"},
    "flax-safetensors shards": {"format": "flax-safetensors", "max_shard_size": 6000},
    "flax": {"format": "flax"},
    "flax shards": {"format": "flax", "max_shard_size": 6000},
    "orbax": {"format": "orbax"},
}


@pytest.fixture(scope="module")
def model() -> LlamaModel:
    return LlamaModel(CONFIG)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def layouts(model, tmp_path_factory) -> dict[str, Path]:
    """The model in every layout, each in its own folder."""
    folder = tmp_path_factory.mktemp("layouts")
    for name, options in LAYOUTS.items():
        model.save_pretrained(folder / name, **options)
    return {name: folder / name for name in LAYOUTS}


def messages(caplog) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "flaxmodels"]


@pytest.mark.parametrize(
    ("first", "second"),
    [("torch shards", "flax"), ("flax shards", "torch"), ("orbax", "torch shards"), ("flax", "orbax")],
)
def test_weights_of_an_earlier_save_go_and_foreign_files_stay(model, layouts, tmp_path, caplog, first, second):
    for name, text in FOREIGN.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    ones = jax.tree.map(jnp.ones_like, model.params)
    model.save_pretrained(tmp_path, **LAYOUTS[first])
    with caplog.at_level("INFO", "flaxmodels"):
        model.save_pretrained(tmp_path, params=ones, **LAYOUTS[second])
    kept = {name.split("/")[0] for name in FOREIGN}
    assert names_in(tmp_path) == names_in(layouts[second]) | kept
    assert {name: (tmp_path / name).read_text() for name in FOREIGN} == FOREIGN
    assert same_params(LlamaModel.from_pretrained(tmp_path).params, ones)
    assert messages(caplog) == [
        ("INFO", f"{tmp_path}: removed {name}, which an earlier save had written there")
        for name in sorted(names_in(layouts[first]) - names_in(layouts[second]))
    ]


def put_beside(folder: Path, first: Path, second: Path, *, own: bool) -> Superseded:
    """Copy one layout, and over it another as a save of it would leave it there."""
    shutil.copytree(first, folder)
    if not own:
        (folder / "config.json").unlink()
    found = superseded(folder, names_in(second) - {"config.json"}, None)
    for path in (folder / name for name in found.removed):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(second, folder, dirs_exist_ok=True)
    return found


@pytest.mark.parametrize("second", LAYOUTS)
def test_all_weights_that_saves_have_written_go(layouts, tmp_path, second):
    for first in LAYOUTS:
        found = put_beside(tmp_path / first, layouts[first], layouts[second], own=True)
        assert set(found.saved) == names_in(layouts[first]) - names_in(layouts[second])
        assert (found.preferred, found.others) == ((), ())


WINNERS = {
    "torch": [],
    "torch shards": ["torch"],
    "flax-safetensors": ["torch", "torch shards"],
    "flax-safetensors shards": ["torch", "torch shards", "flax-safetensors"],
    "flax": ["torch", "torch shards", "flax-safetensors", "flax-safetensors shards"],
    "flax shards": ["torch", "torch shards", "flax-safetensors", "flax-safetensors shards", "flax"],
    "orbax": ["torch", "torch shards", "flax-safetensors", "flax-safetensors shards", "flax", "flax shards"],
}
"""What would be loaded in place of weights in a layout if it lay beside them."""


@pytest.mark.parametrize("second", LAYOUTS)
def test_of_foreign_weights_those_go_that_would_be_loaded(layouts, tmp_path, second):
    """Of foreign shards only the index goes, without which they are not loaded."""
    for first in LAYOUTS:
        foreign = names_in(layouts[first]) - names_in(layouts[second])
        removed = {name for name in foreign if "-of-" not in name} if first in WINNERS[second] else set()
        found = put_beside(tmp_path / first, layouts[first], layouts[second], own=False)
        assert (set(found.preferred), set(found.others)) == (removed, foreign - removed)
        assert found.saved == ()
        assert find_weights(resolve(tmp_path / first)).path.name in names_in(layouts[second])


def test_foreign_weights_that_would_be_loaded_are_named(model, layouts, tmp_path, caplog):
    shutil.copytree(layouts["torch shards"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").unlink()
    shards = sorted(name for name in names_in(tmp_path) if "-of-" in name)
    model.save_pretrained(tmp_path, format="flax")
    assert names_in(tmp_path) == {"config.json", "flax_model.msgpack", *shards}
    assert messages(caplog) == [
        (
            "WARNING",
            f"{tmp_path}: removed model.safetensors.index.json, which flaxmodels had not written there, but would load "
            "in place of the new weights",
        ),
        (
            "WARNING",
            f"{tmp_path}: files of other weights stay, which flaxmodels had not written there: {', '.join(shards)}",
        ),
    ]


def test_foreign_weights_that_are_not_loaded_stay(model, tmp_path, caplog):
    foreign = {"pytorch_model.bin": "theirs", "pytorch_model.bin.index.json": "{}", "tf_model.h5": "theirs"}
    for name, text in foreign.items():
        (tmp_path / name).write_text(text)
    for format in ("torch", "flax"):
        caplog.clear()
        model.save_pretrained(tmp_path, format=format)
        assert {name: (tmp_path / name).read_text() for name in foreign} == foreign
        assert messages(caplog) == [
            (
                "WARNING",
                f"{tmp_path}: files of other weights stay, which flaxmodels had not written there: "
                "pytorch_model.bin, pytorch_model.bin.index.json, tf_model.h5",
            )
        ]


def test_a_file_that_others_have_written_over_is_theirs(model, tmp_path, caplog):
    model.save_pretrained(tmp_path, format="flax")
    (tmp_path / "flax_model.msgpack").write_bytes(b"theirs")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "flax_model.msgpack").read_bytes() == b"theirs"
    assert len(messages(caplog)) == 1


def test_the_record_of_what_was_written(model, tmp_path):
    def record(folder):
        return json.loads((folder / "config.json").read_text())["flaxmodels_files"]

    model.save_pretrained(tmp_path, format="flax")
    assert record(tmp_path) == {"flax_model.msgpack": (tmp_path / "flax_model.msgpack").stat().st_size}
    model.save_pretrained(tmp_path, variant="v2", max_shard_size=6000)
    model.save_pretrained(tmp_path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir() if path.name != "config.json"}
    assert record(tmp_path) == sizes
    assert "flax_model.msgpack" not in sizes
    loaded = LlamaModel.from_pretrained(tmp_path)
    assert "flaxmodels_files" not in vars(loaded.config)
    loaded.config.save_pretrained(tmp_path)
    assert record(tmp_path) == sizes
    loaded.config.save_pretrained(tmp_path / "other")
    assert "flaxmodels_files" not in json.loads((tmp_path / "other" / "config.json").read_text())


@pytest.mark.parametrize(
    "config",
    ["{", "[]", '{"flaxmodels_files": 3}', '{"flaxmodels_files": {"notes.txt": 4, "../x": 4, "gone.bin": null}}'],
)
def test_records_that_say_nothing(model, tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "notes.txt").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert same_params(LlamaModel.from_pretrained(tmp_path).params, model.params)


@pytest.mark.parametrize(("name", "format"), [("model.safetensors", "torch"), ("flax_model.orbax", "orbax")])
def test_folders_and_links_in_the_place_of_weights(model, tmp_path, name, format):
    outside = tmp_path / "outside"
    model.save_pretrained(outside, format=format)
    before = snapshot(outside)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / name).symlink_to(outside / name)
    model.save_pretrained(tmp_path / "linked", format=format)
    assert not (tmp_path / "linked" / name).is_symlink()
    assert snapshot(outside) == before
    (tmp_path / "taken" / name / "sub").mkdir(parents=True)
    with pytest.raises(CheckpointError) as error:
        model.save_pretrained(tmp_path / "taken", format=format)
    assert str(error.value) == (
        f"{tmp_path}/taken/{name} is a folder that no save has written: move it away, and save again"
    )
    assert names_in(tmp_path / "taken") == {name}


def test_a_file_in_the_place_of_a_tree_is_replaced(model, tmp_path):
    (tmp_path / "flax_model.orbax").write_text("not a tree")
    model.save_pretrained(tmp_path, format="orbax")
    assert same_params(LlamaModel.from_pretrained(tmp_path).params, model.params)

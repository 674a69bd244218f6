"""Orbax: what we save Orbax restores, what Orbax saves we load, whole or in parts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from files.folders import snapshot
from jax.sharding import Mesh
from models.comparisons import same_params
from models.tiny_configs import FAMILIES

from flaxmodels.errors import CheckpointError
from flaxmodels.files import orbax
from flaxmodels.files.orbax import OrbaxFolder, write_orbax
from flaxmodels.files.reading import COMMITTED
from flaxmodels.models.llama import LlamaForCausalLM

CONFIG = {**FAMILIES["llama"].config, "hidden_size": 32, "intermediate_size": 24, "vocab_size": 64}


@pytest.fixture(scope="module")
def model():
    return LlamaForCausalLM(CONFIG, seed=1)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbax")
    model.save_pretrained(folder, format="orbax")
    return folder


def test_orbax_restores_what_we_save(model, folder):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        restored = checkpointer.restore(
            folder / "flax_model.orbax",
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), model.params),
        )
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "flax_model.orbax"]
    assert same_params(restored, model.params)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_saved_model_loads_unrolled_and_scanned(model, folder, scan_layers):
    loaded = LlamaForCausalLM.from_pretrained(folder, scan_layers=scan_layers)
    jax.tree.map(np.testing.assert_array_equal, loaded.state_dict(), model.state_dict())


def test_a_scanned_model_saves_its_layers_apart(model, folder, tmp_path):
    LlamaForCausalLM.from_pretrained(folder, scan_layers=True).save_pretrained(tmp_path, format="orbax")
    assert same_params(LlamaForCausalLM.from_pretrained(tmp_path / "flax_model.orbax").params, model.params)


def test_a_sharded_model_saves_and_loads_sharded(model, folder, tmp_path):
    mesh = Mesh(np.array(jax.devices()), ("model",))
    sharded = LlamaForCausalLM.from_pretrained(folder, device_mesh=mesh)
    sharded.save_pretrained(tmp_path, format="orbax")
    loaded = LlamaForCausalLM.from_pretrained(tmp_path, device_mesh=mesh, sharding_rules="tp", param_dtype="bfloat16")
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(loaded.params))
    expected = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), model.params)
    assert same_params(loaded.params, expected)


@pytest.mark.parametrize("options", [{}, {"use_ocdbt": False}, {"use_zarr3": True}], ids=str)
def test_training_checkpoints_of_orbax_load(model, tmp_path, options):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
        checkpointer.save(tmp_path / "flax_model.orbax", {"params": model.params, "step": np.int32(3)})
    model.config.save_pretrained(tmp_path)
    assert same_params(LlamaForCausalLM.from_pretrained(tmp_path / "flax_model.orbax").params, model.params)


def test_a_part_is_read_alone(model, folder):
    source = OrbaxFolder(folder / "flax_model.orbax")
    part = source.read("model/embed_tokens/embedding", (slice(3, 5), slice(0, 32)))
    np.testing.assert_array_equal(part, model.params["model"]["embed_tokens"]["embedding"][3:5])


def test_another_format_takes_its_place(model, folder, tmp_path):
    for format in ("orbax", "torch", "orbax", "flax-safetensors", "orbax"):
        model.save_pretrained(tmp_path, format=format)
        assert same_params(LlamaForCausalLM.from_pretrained(tmp_path).params, model.params)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "flax_model.orbax"]


NAMES = ("a b", "a%20b", "x#y", "x?y", "x|y", "100%", "back\\slash", "[x]", "x", "a*b", "aab", "a:b", "n\nl", "é")


def test_folders_of_any_name(tmp_path):
    for number, name in enumerate(NAMES):
        (tmp_path / name).mkdir()
        write_orbax(tmp_path / name / "tree", {"a/b": np.full(3, number, np.float32), "c": np.int32([number])})
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)
    for number, name in enumerate(NAMES):
        source = OrbaxFolder(tmp_path / name / "tree")
        assert {name: source.read(name).tolist() for name in source.headers} == {"a/b": [number] * 3, "c": [number]}


def test_models_in_folders_that_are_encoded_alike(model, tmp_path):
    params = jax.tree.map(lambda leaf: leaf + 1, model.params)
    model.save_pretrained(tmp_path / "a b", format="orbax")
    model.save_pretrained(tmp_path / "a%20b", params=params, format="orbax")
    assert same_params(LlamaForCausalLM.from_pretrained(tmp_path / "a b").params, model.params)
    assert same_params(LlamaForCausalLM.from_pretrained(tmp_path / "a%20b").params, params)


def test_paths_with_special_characters_where_there_are_no_links_to_descriptors(tmp_path, monkeypatch):
    monkeypatch.setattr(orbax, "_DESCRIPTORS", tmp_path / "nowhere")
    write_orbax(tmp_path / "a b", TREE_OF_ONE)
    np.testing.assert_array_equal(OrbaxFolder(tmp_path / "a b").read("a"), TREE_OF_ONE["a"])
    with pytest.raises(CheckpointError) as error:
        write_orbax(tmp_path / "a*[", TREE_OF_ONE)
    assert str(error.value) == f"{tmp_path}/a*[: Orbax cannot use a path with * [ here. Rename the folder."


TREE_OF_ONE = {"a": np.arange(3, dtype=np.float32)}
TREE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"c": np.ones(2, np.int8)}}


def saved(folder: Path, tree=TREE, **options) -> Path:
    """A tree that Orbax saved; each array in files of its own, unless said otherwise."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**{"use_ocdbt": False} | options)) as checkpointer:
        checkpointer.save(folder, tree)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("tree") / "tree")


def edit(path: Path, change) -> None:
    """Change what a file of JSON holds: by a function, or to another value."""
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value) if callable(change) else change))


def entry(**changes):
    """A change of the first entry of the tree."""

    def change(metadata):
        first = next(iter(metadata["tree_metadata"]))
        metadata["tree_metadata"][first] |= changes
        return metadata

    return change


NOT_A_TREE = "_METADATA: tree_metadata does not describe a tree of arrays"
DAMAGE = {
    "no metadata": ("_METADATA", None, "PATH has no _METADATA, so it is not a tree of Orbax. Check the path."),
    "a list": ("_METADATA", [], "_METADATA: invalid JSON (not an object)"),
    "no tree": ("_METADATA", {}, NOT_A_TREE),
    "a null tree": ("_METADATA", {"tree_metadata": None}, NOT_A_TREE),
    "a tree of numbers": ("_METADATA", {"tree_metadata": {"x": 3}}, NOT_A_TREE),
    "a tree of nothing": ("_METADATA", {"tree_metadata": {"x": None}}, NOT_A_TREE),
    "keys that are none": ("_METADATA", entry(key_metadata=None), NOT_A_TREE),
    "keys without names": ("_METADATA", entry(key_metadata=[{}]), NOT_A_TREE),
    "values that are none": ("_METADATA", entry(value_metadata=[1]), NOT_A_TREE),
    "no keys": ("_METADATA", entry(key_metadata=[]), NOT_A_TREE),
    "keys outside": ("_METADATA", entry(key_metadata=[{"key": ".."}, {"key": "x"}]), NOT_A_TREE),
    "a name twice": (
        "_METADATA",
        entry(key_metadata=[{"key": "b"}, {"key": "c"}]),
        "_METADATA: tree_metadata names an array twice",
    ),
    "an array that is not there": (
        "_METADATA",
        entry(key_metadata=[{"key": "gone"}]),
        'tree: gone: NOT_FOUND: Error opening "zarr" driver: Metadata at local file "PATH/gone/.zarray" does not exist',
    ),
    "another driver": (
        "_METADATA",
        lambda metadata: metadata | {"use_zarr3": True},
        'tree: a: NOT_FOUND: Error opening "zarr3" driver: Metadata at local file "PATH/a/zarr.json" does not exist',
    ),
    "a chunk that is not there": (
        "a/0.0",
        None,
        'tree: a: NOT_FOUND: chunk {0, 0} stored at local file "PATH/a/0.0" is missing',
    ),
    "strings": (
        "a/.zarray",
        lambda array: array | {"dtype": "|S5", "fill_value": None},
        "tree: a holds char, not numbers",
    ),
    "a chunk of another size": (
        "a/.zarray",
        lambda array: array | {"shape": [2, 4], "chunks": [2, 4]},
        'tree: a: FAILED_PRECONDITION: Error reading local file "PATH/a/0.0": Not enough data: expected at least 32 or '
        "8 more; at byte 33; at uncompressed byte 24",
    ),
    "a chunk that is larger than the array": (
        "a/.zarray",
        lambda array: array | {"chunks": [2, 10**9]},
        "tree: a has the shape (2, 3), and its chunks (2, 1000000000) are larger",
    ),
    "a huge chunk": (
        "a/.zarray",
        lambda array: array | {"shape": [2**20, 2**20], "chunks": [2**20, 2**20]},
        f"tree: a: a chunk of (1048576, 1048576) would take {2**42} bytes, more than MAX_READ_BYTES = LIMIT, the "
        "memory of this machine. Load it over more devices and hosts, or save it again if it is not so large.",
    ),
    "a huge array": (
        "a/.zarray",
        lambda array: array | {"shape": [2**20, 2**20], "chunks": [2**12, 2**12]},
        f"tree: a: reading (1048576, 1048576) would take {2**42} bytes, more than MAX_READ_BYTES = LIMIT, the memory "
        "of this machine. Load it over more devices and hosts, or save it again if it is not so large.",
    ),
    "more than can be": (
        "a/.zarray",
        lambda array: array | {"shape": [2**40, 2**40], "chunks": [2**40, 1]},
        f"tree: a has the shape ({2**40}, {2**40})",
    ),
    "many chunks": (
        "a/.zarray",
        lambda array: array | {"shape": [2**12, 2**12], "chunks": [1, 1]},
        f"tree: a is in {2**24} chunks, more than MAX_CHUNKS = 100000",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named(original, tmp_path, case):
    name, change, message = DAMAGE[case]
    tree = shutil.copytree(original, tmp_path / "tree")
    if change is None:
        (tree / name).unlink()
    else:
        edit(tree / name, change)
    with pytest.raises(CheckpointError) as error:
        read_all(tree)
    expected = message.replace("PATH", str(tree)).replace("LIMIT", str(orbax.MAX_READ_BYTES))
    assert str(error.value) == (expected if expected.endswith(".") else f"{expected}. Download or copy it again.")


def read_all(tree: Path) -> dict[str, np.ndarray]:
    source = OrbaxFolder(tree)
    return {name: source.read(name) for name in source.headers}


def test_older_releases_leave_out_chunks_of_zeros(original, tmp_path):
    tree = shutil.copytree(original, tmp_path / "tree")
    (tree / "a" / "0.0").unlink()
    edit(tree / "_METADATA", lambda metadata: metadata | {"store_array_data_equal_to_fill_value": False})
    assert not read_all(tree)["a"].any()


@pytest.mark.parametrize("options", [{}, {"use_ocdbt": True}, {"use_zarr3": True}], ids=str)
def test_leaves_that_are_no_arrays_are_passed_over(tmp_path, options):
    tree = saved(
        tmp_path / "tree", TREE | {"none": None, "empty": {}, "text": "x", "list": [], "number": 2.5}, **options
    )
    assert {name: value.tolist() for name, value in read_all(tree).items()} == {
        "a": [[0, 1, 2], [3, 4, 5]],
        "b/c": [1, 1],
        "number": 2.5,
    }


def test_a_tree_that_is_replaced_while_it_is_read(model, tmp_path):
    model.save_pretrained(tmp_path, format="orbax")
    source = OrbaxFolder(tmp_path / "flax_model.orbax")
    model.save_pretrained(tmp_path, format="orbax")
    with pytest.raises(CheckpointError) as error:
        source.read("model/norm/scale")
    assert str(error.value) == (
        f"{tmp_path}/flax_model.orbax: another save replaced it while it was read. Load it again."
    )


def test_a_tree_that_is_moved_into_place_while_it_is_read(tmp_path):
    committed = tmp_path / COMMITTED
    committed.mkdir()
    saved(committed / "flax_model.orbax")
    found, source = committed / "flax_model.orbax", OrbaxFolder(committed / "flax_model.orbax")
    found.rename(tmp_path / "flax_model.orbax")
    for opened in (source, OrbaxFolder(found)):
        np.testing.assert_array_equal(opened.read("a"), TREE["a"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: path.write_text("x"),
            "flax_model.orbax is a file, expected a folder with _METADATA: move it away, or copy it again",
        ),
        (
            lambda path: path.mkdir(),
            "flax_model.orbax is a folder, expected a folder with _METADATA: move it away, or copy it again",
        ),
        (
            lambda path: path.symlink_to("gone"),
            "flax_model.orbax is a link to nothing: remove it, or copy the file itself",
        ),
    ],
)
def test_what_is_no_tree_is_named(model, tmp_path, make, message):
    model.config.save_pretrained(tmp_path)
    make(tmp_path / "flax_model.orbax")
    with pytest.raises(CheckpointError) as error:
        LlamaForCausalLM.from_pretrained(tmp_path)
    assert str(error.value) == f"{tmp_path}/{message}"


def test_a_linked_tree_is_read(model, folder, tmp_path):
    shutil.copy(folder / "config.json", tmp_path)
    (tmp_path / "flax_model.orbax").symlink_to(folder / "flax_model.orbax")
    assert same_params(LlamaForCausalLM.from_pretrained(tmp_path).params, model.params)


FULL = """if True:
    import json, resource, sys
    import numpy as np
    from flaxmodels.files.orbax import write_orbax
    from flaxmodels.files.commit import replacing
    from pathlib import Path
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
    try:
        with replacing(Path(sys.argv[1]), lambda staging: ()) as staging:
            write_orbax(staging / "flax_model.orbax", {"a": np.arange(10_000), "b": np.ones(10_000)})
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_a_full_disk_leaves_the_tree_before(tmp_path):
    """As far as the limit of a file's size goes, another error of the file system, which needs no disk of its own."""
    tree = saved(tmp_path / "flax_model.orbax")
    before = snapshot(tree)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for limit in (0, 1000):
        command = [sys.executable, "-W", "ignore", "-c", FULL, str(tmp_path), str(limit)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == (
            f"CheckpointError could not save into {tmp_path}: File too large. What was there before is unchanged; free "
            "space or make the folder writable, and save again.\n"
        )
        assert snapshot(tree) == before
        assert [path.name for path in tmp_path.iterdir()] == ["flax_model.orbax"]


def test_an_error_of_orbax_is_named(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError("DATA_LOSS: something broke [source]\nmore")

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "save", fail)
    with pytest.raises(CheckpointError) as error:
        write_orbax(tmp_path / "tree", TREE_OF_ONE)
    assert str(error.value) == "Orbax failed to save (ValueError: DATA_LOSS: something broke)"

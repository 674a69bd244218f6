"""Replacing the files of a folder: all or none, whatever happens in between."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flaxmodels.errors import CheckpointError
from flaxmodels.files import commit
from flaxmodels.files.commit import recover, replacing

OLD = {"a.bin": "old a", "b.bin": "old b", "notes.txt": "mine"}
NEW = {"a.bin": "new a", "c.bin": "new c"}
REPLACED = {"a.bin": "new a", "c.bin": "new c", "notes.txt": "mine"}


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "folder", OLD)


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Every file of the folder, hidden ones and those of subfolders too."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def replace(folder: Path) -> None:
    with replacing(folder, lambda name: name.endswith(".bin")) as staging:
        write(staging, NEW)


def test_new_files_replace_old_and_stale_ones_at_the_end_of_the_block(folder):
    with replacing(folder, lambda name: name.endswith(".bin")) as staging:
        write(staging, NEW)
        assert contents(folder).items() >= OLD.items()
    assert contents(folder) == REPLACED
    assert [path for path in folder.iterdir() if path.is_dir()] == []


def test_a_folder_that_is_not_there_is_made(tmp_path):
    with replacing(tmp_path / "x" / "y", lambda name: True) as staging:
        write(staging, NEW)
    assert contents(tmp_path / "x" / "y") == NEW


def test_an_exception_in_the_block_changes_nothing(folder):
    def interrupted():
        with replacing(folder, lambda name: True) as staging:
            write(staging, NEW)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert contents(folder) == OLD
    assert [path for path in folder.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "no space left on the device"), (errno.EROFS, "Read-only file system")],
)
@pytest.mark.parametrize("step", ["write", "sync", "rename", "mkdir"])
def test_a_disk_that_refuses_changes_nothing(folder, monkeypatch, number, reason, step):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    owner, name = {
        "write": (Path, "write_text"),
        "sync": (os, "fsync"),
        "rename": (Path, "rename"),
        "mkdir": (Path, "mkdir"),
    }[step]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, refuse)
        with pytest.raises(CheckpointError) as error:
            replace(folder)
    assert str(error.value) == (
        f"could not save into {folder}: {reason}. What was there before is unchanged; "
        "free space or make the folder writable, and save again."
    )
    assert contents(folder) == OLD
    replace(folder)
    assert contents(folder) == REPLACED


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path, reason in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "x", "Not a directory")):
        with pytest.raises(CheckpointError) as error:
            replace(path)
        assert str(error.value) == (
            f"could not save into {path}: {reason}. What was there before is unchanged; "
            "free space or make the folder writable, and save again."
        )
    assert (tmp_path / "file").read_text() == "mine"


def test_moves_that_were_interrupted_are_finished_by_the_next_to_open(folder, monkeypatch):
    moved = []
    move = Path.replace

    def move_one(path, target):
        if moved:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        moved.append(path)
        return move(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", move_one)
        for action in (replace, recover):
            with pytest.raises(CheckpointError) as error:
                action(folder)
            assert str(error.value) == (
                f"{folder} holds a finished save that was not moved into place, and cannot be written "
                "(Permission denied): make it writable and open it again"
            )
    assert len(moved) == 1
    recover(folder)
    assert contents(folder) == REPLACED
    recover(folder)
    assert contents(folder) == REPLACED


def test_moves_that_another_process_makes_at_the_same_time(folder, monkeypatch):
    move, done = Path.replace, []

    def move_all_before(path, target):
        if not done:
            done.append(recover_elsewhere(path.parent, target.parent))
        return move(path, target)

    def recover_elsewhere(committed, folder):
        for name in NEW:
            move(committed / name, folder / name)

    monkeypatch.setattr(Path, "replace", move_all_before)
    replace(folder)
    assert contents(folder) == REPLACED


def test_leftovers_go_unless_their_process_is_alive(folder):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = {pid: f"{commit._STAGING}{pid}-00000000" for pid in (gone.pid, os.getpid(), os.getppid())}
    for name in names.values():
        write(folder / name, NEW)
    replace(folder)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [names[os.getppid()]]


@pytest.mark.parametrize("left", [{}, {commit._STALE: json.dumps(["b.bin"])}, {commit._STALE: "[]", "c.bin": "new c"}])
def test_whatever_a_killed_recovery_leaves_is_no_obstacle(folder, left):
    write(folder / commit._COMMITTED, left)
    recover(folder)
    replace(folder)
    assert contents(folder) == REPLACED
    assert [path for path in folder.iterdir() if path.is_dir()] == []

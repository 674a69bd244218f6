"""Replacing the files of a folder: all or none, whatever happens in between; and reading what was saved last."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from files.folders import snapshot

from flaxmodels.errors import CheckpointError
from flaxmodels.files import committed
from flaxmodels.files.commit import replace_text, replacing
from flaxmodels.files.committed import MANIFEST, current, of_one_save
from flaxmodels.files.process_group import ProcessGroup
from flaxmodels.files.reading import COMMITTED, read_json

OLD = {"model.safetensors": "old a", "flax_model.msgpack": "old b", "notes.txt": "mine"}
NEW = {"model.safetensors": "new a", "config.json": "new c"}
REMOVED = ["flax_model.msgpack"]
REPLACED = {"model.safetensors": "new a", "config.json": "new c", "notes.txt": "mine"}
UNCHANGED = "What was there before is unchanged; free space or make the folder writable, and save again."
STAGING = ".flaxmodels-staging-"


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "folder", OLD)


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Every file of the folder, hidden ones and those of subfolders too."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def folders_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def replace(folder: Path, files: dict[str, str] = NEW, group: ProcessGroup | None = None) -> None:
    with replacing(folder, lambda staging: REMOVED, group) as staging:
        write(staging, files)


def commit_of(folder: Path, files: dict[str, str] = NEW, removed: list[str] = REMOVED) -> Path:
    """What a save that was killed right after its commit leaves."""
    return write(folder / COMMITTED, files | {MANIFEST: json.dumps({"files": [*files], "removed": removed})})


# ---- saving


def test_new_files_replace_old_ones_at_the_end_of_the_block(folder):
    with replacing(folder, lambda staging: REMOVED) as staging:
        write(staging, NEW)
        assert contents(folder).items() >= OLD.items()
    assert contents(folder) == REPLACED
    assert folders_in(folder) == []


def test_a_folder_that_is_not_there_is_made(tmp_path):
    replace(tmp_path / "x" / "y")
    assert contents(tmp_path / "x" / "y") == NEW


def test_the_end_of_a_save_may_add_files(folder):
    def finish(staging):
        write(staging, {"config.json": f"{sorted(path.name for path in staging.iterdir())}"})
        return REMOVED

    with replacing(folder, finish) as staging:
        write(staging, {"model.safetensors": "new a"})
    assert contents(folder) == REPLACED | {"config.json": "['model.safetensors']"}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_an_exception_in_the_block_changes_nothing(folder, kind):
    def interrupted():
        with replacing(folder, lambda staging: REMOVED) as staging:
            write(staging, NEW)
            raise kind

    with pytest.raises(kind):
        interrupted()
    assert contents(folder) == OLD
    assert folders_in(folder) == []


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
    assert str(error.value) == f"could not save into {folder}: {reason}. {UNCHANGED}"
    assert contents(folder) == OLD
    replace(folder)
    assert contents(folder) == REPLACED


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path, reason in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "x", "Not a directory")):
        with pytest.raises(CheckpointError) as error:
            replace(path)
        assert str(error.value) == f"could not save into {path}: {reason}. {UNCHANGED}"
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_the_place_of_a_file(folder):
    write(folder / "config.json", {"mine": "too"})
    before = contents(folder)
    with pytest.raises(CheckpointError) as error:
        replace(folder)
    assert str(error.value) == (
        f"{folder}/config.json is a folder that no save has written: move it away, and save again"
    )
    assert contents(folder) == before
    assert folders_in(folder) == ["config.json"]


def test_links_are_replaced_and_removed_themselves(folder, tmp_path):
    outside = write(tmp_path / "outside", {"weights": "theirs", "_METADATA": "theirs"})
    before = snapshot(outside)
    for name, target in (("model.safetensors", "weights"), ("flax_model.msgpack", "weights"), ("config.json", ".")):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside / target)
    replace(folder)
    assert contents(folder) == REPLACED
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert snapshot(outside) == before


@pytest.mark.parametrize("names", [["../x"], ["notes.txt"], ["/etc/passwd"], ["."], ["model.safetensors"]])
def test_only_weights_beside_the_new_ones_can_be_removed(folder, names):
    with pytest.raises(CheckpointError, match=f"its {MANIFEST} names {names[0]!r}"):  # noqa: SIM117
        with replacing(folder, lambda staging: names) as staging:
            write(staging, NEW)
    assert contents(folder) == OLD


# ---- a save that was killed after its commit


def test_readers_find_a_finished_save_and_leave_it(folder):
    commit_of(folder)
    before = snapshot(folder)
    found = {name: current(folder, name) for name in {*OLD, *NEW, "absent"}}
    assert found == {
        "model.safetensors": folder / COMMITTED / "model.safetensors",
        "config.json": folder / COMMITTED / "config.json",
        "flax_model.msgpack": None,
        "notes.txt": folder / "notes.txt",
        "absent": None,
    }
    assert snapshot(folder) == before


@pytest.mark.parametrize("moved", [["model.safetensors"], ["model.safetensors", "config.json"]])
def test_readers_find_what_was_moved_already(folder, moved):
    committed = commit_of(folder)
    for name in moved:
        (committed / name).replace(folder / name)
    found = {name: path.read_text() for name in NEW if (path := current(folder, name))}
    assert (found, current(folder, REMOVED[0])) == (NEW, None)


def test_a_file_that_is_moved_after_it_was_found(folder):
    committed = commit_of(folder, NEW | {"config.json": '{"a": 1}'})
    found = current(folder, "config.json")
    (committed / "config.json").replace(folder / "config.json")
    assert found == committed / "config.json"
    assert read_json(found) == {"a": 1}


def test_the_next_save_moves_it_into_place(folder):
    commit_of(folder)
    replace(folder, {"notes.txt": "newer"})
    assert contents(folder) == REPLACED | {"notes.txt": "newer"}
    assert folders_in(folder) == []


def test_one_text_is_a_save_too(folder):
    commit_of(folder)
    replace_text(folder, "config.json", "newest")
    assert contents(folder) == REPLACED | {"config.json": "newest"}
    replace_text(folder / "x", "config.json", "é")
    assert (folder / "x" / "config.json").read_text(encoding="utf-8") == "é"


def test_a_save_that_fails_moves_it_into_place_too(folder):
    commit_of(folder)
    with pytest.raises(RuntimeError), replacing(folder, lambda staging: []):
        raise RuntimeError
    assert contents(folder) == REPLACED


def test_what_cannot_be_moved_is_read_and_moved_by_the_next_save(folder, monkeypatch):
    moved = []
    move = Path.replace

    def move_one(path, target):
        if moved:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        moved.append(path)
        return move(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", move_one)
        for _ in range(2):
            with pytest.raises(CheckpointError) as error:
                replace(folder)
            assert str(error.value) == (
                f"{folder} holds a finished save that could not be moved into place (Permission denied): make the "
                f"folder writable, and save into it again. Until then its files are in {COMMITTED}."
            )
    assert len(moved) == 1
    assert {name: path.read_text() for name in REPLACED if (path := current(folder, name))} == REPLACED
    replace(folder)
    assert contents(folder) == REPLACED


def test_moves_that_another_process_makes_at_the_same_time(folder, monkeypatch):
    """As on a file system without locks."""
    move, done = Path.replace, []

    def move_all_before(path, target):
        if not done:
            done.append(path)
            for name in NEW:
                move(path.parent / name, target.parent / name)
        return move(path, target)

    monkeypatch.setattr(Path, "replace", move_all_before)
    replace(folder)
    assert contents(folder) == REPLACED


def test_an_empty_folder_is_left_by_a_save_that_was_killed_at_its_very_end(folder):
    (folder / COMMITTED).mkdir()
    assert current(folder, "notes.txt") == folder / "notes.txt"
    replace(folder)
    assert contents(folder) == REPLACED
    assert folders_in(folder) == []


# ---- what looks like a save that was killed, and is none


def manifest(**content) -> Callable[[Path, Path], None]:
    return lambda folder, victim: write(folder / COMMITTED, {MANIFEST: json.dumps(content)}) and None


def link_to_folder(folder: Path, victim: Path) -> None:
    (folder / COMMITTED).symlink_to(victim)


def link_to_manifest(folder: Path, victim: Path) -> None:
    write(folder / COMMITTED, {})
    (folder / COMMITTED / MANIFEST).symlink_to(victim / MANIFEST)


def link_inside(folder: Path, victim: Path) -> None:
    commit_of(folder, {"model.safetensors": "", "config.json": "new"})
    (folder / COMMITTED / "model.safetensors").unlink()
    (folder / COMMITTED / "model.safetensors").symlink_to(victim / "precious.txt")


def folder_inside(folder: Path, victim: Path) -> None:
    commit_of(folder, {"config.json": "new"})
    write(folder / COMMITTED / "model.safetensors", {"x": "y"})


HOSTILE = {
    "an older release's": (
        lambda folder, victim: write(folder / COMMITTED, {".stale.json": json.dumps([str(victim)])}),
        f"it has no {MANIFEST}",
    ),
    "a file": (lambda folder, victim: write(folder, {COMMITTED: "x"}), "it is not a folder"),
    "a link": (link_to_folder, "it is not a folder"),
    "a linked manifest": (link_to_manifest, f"its {MANIFEST} is not a file of at most 10000000 bytes"),
    "an empty manifest": (manifest(), f"its {MANIFEST} does not list files and removed"),
    "further keys": (manifest(files=[], removed=[], more=[]), f"its {MANIFEST} does not list files and removed"),
    "names that are none": (manifest(files=[1, None], removed=[]), f"its {MANIFEST} names int, NoneType"),
    "removes outside": (manifest(files=[], removed=["../victim"]), f"its {MANIFEST} names '../victim'"),
    "removes itself": (manifest(files=[], removed=["."]), f"its {MANIFEST} names '.'"),
    "removes its parent": (manifest(files=[], removed=[".."]), f"its {MANIFEST} names '..'"),
    "removes by an absolute path": (manifest(files=[], removed=["/etc/x"]), f"its {MANIFEST} names '/etc/x'"),
    "removes no weights": (manifest(files=[], removed=["notes.txt"]), f"its {MANIFEST} names 'notes.txt'"),
    "removes what it writes": (
        manifest(files=["model.safetensors"], removed=["model.safetensors"]),
        f"its {MANIFEST} names 'model.safetensors'",
    ),
    "writes outside": (manifest(files=["../victim", "a/b", "a\\b"], removed=[]), None),
    "writes a NUL": (manifest(files=["a\0b"], removed=[]), f"its {MANIFEST} names 'a\\x00b'"),
    "writes our own names": (manifest(files=[MANIFEST], removed=[]), f"its {MANIFEST} names '{MANIFEST}'"),
    "bad JSON": (
        lambda folder, victim: write(folder / COMMITTED, {MANIFEST: "{"}),
        f"{MANIFEST}: invalid JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
    ),
    "a list": (
        lambda folder, victim: write(folder / COMMITTED, {MANIFEST: "[]"}),
        f"{MANIFEST}: invalid JSON (not an object)",
    ),
    "more than it says": (
        lambda folder, victim: write(commit_of(folder), {"notes.txt": "other"}),
        f"it holds 'notes.txt', which is none of the files in its {MANIFEST}",
    ),
    "a link inside": (link_inside, f"it holds 'model.safetensors', which is none of the files in its {MANIFEST}"),
    "a folder inside": (folder_inside, f"it holds 'model.safetensors', which is none of the files in its {MANIFEST}"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_no_save_left_is_refused_and_left_alone(folder, tmp_path, case):
    make, problem = HOSTILE[case]
    problem = problem or f"its {MANIFEST} names '../victim', 'a/b', 'a\\\\b'"
    victim = write(tmp_path / "victim", {"precious.txt": "theirs", MANIFEST: '{"files": [], "removed": []}'})
    make(folder, victim)
    before = snapshot(tmp_path)
    for action in (lambda: current(folder, "notes.txt"), lambda: replace(folder)):
        with pytest.raises(CheckpointError) as error:
            action()
        assert str(error.value) == (
            f"{folder} has a {COMMITTED} that no save of flaxmodels left there: {problem}. Remove it, and try again."
        )
    assert snapshot(tmp_path) == before


def test_a_manifest_that_is_too_long(folder, monkeypatch):
    monkeypatch.setattr(committed, "MAX_MANIFEST_BYTES", 10)
    commit_of(folder)
    with pytest.raises(CheckpointError, match=rf"its {MANIFEST} is not a file of at most 10 bytes"):
        current(folder, "notes.txt")


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda path: path.mkdir(), "is a folder, expected a file: move it away, or copy it again"),
        (
            os.mkfifo,
            "is neither a file nor a folder, expected a file: move it away, or copy it again",
        ),
        (lambda path: path.symlink_to("nowhere"), "is a link to nothing: remove it, or copy the file itself"),
    ],
)
def test_what_is_no_file_is_named(folder, make, found):
    make(folder / "config.json")
    with pytest.raises(CheckpointError) as error:
        current(folder, "config.json")
    assert str(error.value) == f"{folder}/config.json {found}"


def test_names_that_cannot_be(folder):
    assert current(folder, "a\0b") is None
    assert current(folder / "notes.txt", "config.json") is None
    with pytest.raises(CheckpointError, match=r"File name too long\. Check the path and its permissions\.$"):
        current(folder, "a" * 300)


# ---- what killed writers leave


def held(path: Path) -> subprocess.Popen:
    """Another process that holds the lock of a folder until it is told to end."""
    code = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), 2); print(); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def test_leftovers_of_dead_writers_go(folder):
    dead, alive = (write(folder / f"{STAGING}{digit * 16}", NEW) for digit in "0a")
    with held(alive) as process:
        replace(folder)
        assert folders_in(folder) == [alive.name]
        process.communicate("")
    replace(folder)
    assert folders_in(folder) == []
    assert not dead.exists()


@pytest.mark.parametrize("name", ["abc", "1234-00000000", "0" * 15, "0" * 17, "0" * 15 + "g"])
def test_staging_folders_of_foreign_names_stay(folder, name):
    before = snapshot(write(folder / f"{STAGING}{name}", NEW))
    replace(folder)
    assert folders_in(folder) == [f"{STAGING}{name}"]
    assert snapshot(folder / f"{STAGING}{name}") == before


def test_links_in_the_place_of_staging_folders_stay(folder, tmp_path):
    before = snapshot(write(tmp_path / "victim", OLD))
    (folder / f"{STAGING}{'0' * 16}").symlink_to(tmp_path / "victim")
    (folder / f"{STAGING}{'1' * 16}").write_text("a file")
    replace(folder)
    assert snapshot(tmp_path / "victim") == before
    assert (folder / f"{STAGING}{'0' * 16}").is_symlink()
    assert (folder / f"{STAGING}{'1' * 16}").read_text() == "a file"


def test_a_file_system_without_locks(folder, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    left = write(folder / f"{STAGING}{'0' * 16}", NEW)
    replace(folder)
    assert contents(folder) == REPLACED | {f"{left.name}/{name}": text for name, text in NEW.items()}


# ---- several at once


def test_threads_that_save_into_one_folder_take_turns(tmp_path):
    start = threading.Barrier(4)

    def save(number: int) -> None:
        start.wait()
        for turn in range(5):
            replace(tmp_path, dict.fromkeys("abc", f"{number} {turn}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save, range(4)))
    assert len(set(contents(tmp_path).values())) == 1
    assert sorted(contents(tmp_path)) == ["a", "b", "c"]
    assert folders_in(tmp_path) == []


def test_threads_that_save_into_two_folders_do_not_meet(tmp_path):
    inside = threading.Barrier(2)

    def save(folder: Path) -> None:
        with replacing(folder, lambda staging: []) as staging:
            write(staging, NEW)
            inside.wait(timeout=10)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(save, (tmp_path / "x", tmp_path / "y")))
    assert (contents(tmp_path / "x"), contents(tmp_path / "y")) == (NEW, NEW)


def test_threads_in_one_folder_write_at_the_same_time(tmp_path):
    inside = threading.Barrier(2)

    def save(text: str) -> None:
        with replacing(tmp_path, lambda staging: []) as staging:
            write(staging, {"a": text, "b": text})
            inside.wait(timeout=10)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(save, ("first", "second")))
    assert contents(tmp_path) in ({"a": text, "b": text} for text in ("first", "second"))


def test_files_that_belong_together_are_of_one_save(folder):
    """A save comes between the index and its shard; then the shard is gone; then all is still."""
    tries = []

    def read(path: Path) -> list[str]:
        text = path.read_text()
        tries.append(text)
        if len(tries) == 1:
            replace(folder, {"index.json": "2", "shard": "2"})
        if len(tries) == 2:
            replace(folder, {"index.json": "3", "shard": "3"})
            raise CheckpointError("the shard is not there")
        shard = current(folder, "shard")
        assert shard is not None
        return [text, shard.read_text()]

    replace(folder, {"index.json": "1", "shard": "1"})
    assert of_one_save(folder / "index.json", read) == ["3", "3"]
    assert tries == ["1", "2", "3"]


def test_files_that_are_replaced_again_and_again(folder):
    def read(path: Path) -> None:
        replace(folder, {"index.json": path.read_text() + "1"})

    replace(folder, {"index.json": "1"})
    with pytest.raises(CheckpointError) as error:
        of_one_save(folder / "index.json", read)
    assert str(error.value) == "index.json: saves replaced it 10 times while it was read. Load it again."


def test_errors_of_files_that_nobody_replaces_are_raised_at_once(folder):
    calls = []

    def read(path: Path) -> None:
        calls.append(path)
        raise CheckpointError("damaged")

    with pytest.raises(CheckpointError, match=r"^damaged$"):
        of_one_save(folder / "notes.txt", read)
    assert calls == [folder / "notes.txt"]


# ---- groups of processes, here of threads


def grouped(folder: Path, *blocks: Callable[[Path], None]) -> list[BaseException | None]:
    """Let the members of one group save together, each with its own block; what each of them raises."""
    turn, said = threading.Barrier(len(blocks)), [""] * len(blocks)

    def exchange_as(index: int) -> Callable[[str], list[str]]:
        def exchange(text: str) -> list[str]:
            turn.wait(timeout=10)
            said[index] = text
            turn.wait(timeout=10)
            return list(said)

        return exchange

    def save(index: int) -> BaseException | None:
        group = ProcessGroup(index, len(blocks), "0" * 16, exchange_as(index))
        try:
            with replacing(folder, lambda staging: REMOVED, group) as staging:
                blocks[index](staging)
        except BaseException as error:
            return error
        return None

    with ThreadPoolExecutor(len(blocks)) as pool:
        return list(pool.map(save, range(len(blocks))))


def test_a_group_writes_one_folder(folder):
    parts = [lambda staging, part=part: write(staging, dict([part])) for part in NEW.items()]
    assert grouped(folder, *parts) == [None, None]
    assert contents(folder) == REPLACED


FAILURES = {
    "a full disk": (
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        f"no space left on the device. {UNCHANGED}",
    ),
    "any error": (RuntimeError("the writer broke"), None),
    "one of ours": (CheckpointError("b.weight: the array is odd."), "b.weight: the array is odd."),
}


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("case", FAILURES)
def test_an_error_in_one_is_an_error_in_all(folder, case, failing):
    raised, reason = FAILURES[case]
    reason = reason or "RuntimeError: the writer broke."
    reason = reason if UNCHANGED in reason else f"{reason} What was there before is unchanged."

    def block(staging: Path, index: int) -> None:
        write(staging, {f"{index}": "x"})
        if index == failing:
            raise raised

    errors = grouped(folder, *(lambda staging, index=index: block(staging, index) for index in range(2)))
    assert [type(error) for error in errors] == [CheckpointError, CheckpointError]
    assert {str(error) for error in errors} == {f"could not save into {folder}: process {failing}: {reason}"}
    assert errors[failing].__cause__ is raised
    assert contents(folder) == OLD
    assert folders_in(folder) == []


def test_errors_in_all_are_named_together(folder):
    def fail(text: str):
        def block(staging: Path) -> None:
            raise ValueError(text)

        return block

    errors = grouped(folder, fail("one"), fail("two"))
    assert {str(error) for error in errors} == {
        f"could not save into {folder}: process 0: ValueError: one. What was there before is unchanged. "
        "process 1: ValueError: two. What was there before is unchanged."
    }


def test_an_interrupt_stays_one_where_it_happened(folder):
    def interrupt(staging: Path) -> None:
        raise KeyboardInterrupt

    errors = grouped(folder, lambda staging: None, interrupt)
    assert [type(error) for error in errors] == [CheckpointError, KeyboardInterrupt]
    assert str(errors[0]) == (
        f"could not save into {folder}: process 1: KeyboardInterrupt. What was there before is unchanged."
    )
    assert contents(folder) == OLD


def test_the_main_process_cannot_make_the_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    errors = grouped(tmp_path / "file", lambda staging: None, lambda staging: None)
    assert {str(error) for error in errors} == {
        f"could not save into {tmp_path / 'file'}: process 0: File exists. {UNCHANGED}"
    }

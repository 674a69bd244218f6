"""Replacing the files of a folder all at once, so that a crash leaves the old ones or the new ones.

New files are written into a staging folder and synced. One rename of that folder is the commit (see `committed`); then
they are moved into place, by this save or, if it is killed, by the next.

Saves into one folder take turns, by `flock`. On a file system without locks they must not overlap, and staging folders
of killed writers stay.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from flaxmodels.errors import CheckpointError
from flaxmodels.files.committed import MANIFEST, checked_manifest, read_manifest
from flaxmodels.files.formats import ORBAX_METADATA
from flaxmodels.files.process_group import ProcessFailed, ProcessGroup, ProcessLost
from flaxmodels.files.reading import COMMITTED

_STAGING = ".flaxmodels-staging-"
_STAGING_NAME = re.compile(r"\.flaxmodels-staging-[0-9a-f]{16}")


class _NotMoved(CheckpointError):
    """The save is complete, but its files are not in place."""


@contextmanager
def replacing(
    folder: Path, finish: Callable[[Path], Iterable[str]], group: ProcessGroup | None = None
) -> Iterator[Path]:
    """Yield a staging folder whose files will replace those of `folder` when the block ends without an error.

    Args:
        folder: the folder, made if absent.
        finish: called by the main process with the staging folder when all is written and no other save can come in
            between. It may add files, and returns the names of the weight files in `folder` that go.
        group: the processes that write into the staging folder; this one alone by default. An error in one of them is
            an error in all.

    Raises:
        CheckpointError: the disk is full or the folder is not writable, or another process of the group has failed;
            `folder` is then as it was. Or the files could not be moved into place; readers find them nevertheless.
    """
    group = group or ProcessGroup()
    staging = folder / f"{_STAGING}{group.token}"
    with ExitStack() as at_end, _failing_together(folder, group):
        if group.is_main:
            _make_staging(staging, at_end)
        group.agree()
        yield staging
        _sync_tree(staging)
        group.agree()
        if group.is_main:
            _commit(staging, folder, finish)
        group.agree()


def replace_text(folder: Path, name: str, text: str) -> None:
    """Write one file of text into `folder` in the same way; `folder` is made if absent.

    Raises:
        CheckpointError: as `replacing`.
    """
    with replacing(folder, lambda staging: ()) as staging:
        (staging / name).write_text(text, encoding="utf-8")


@contextmanager
def _failing_together(folder: Path, group: ProcessGroup) -> Iterator[None]:
    """Turn errors into `CheckpointError`s that say what became of `folder`, and raise them in every process."""
    try:
        yield
    except ProcessFailed as error:
        raise CheckpointError(f"could not save into {folder}: {error}") from error
    except ProcessLost as error:
        raise CheckpointError(f"could not save into {folder}: {_lost(error)}") from error
    except BaseException as error:
        reason = _tell(group, error) if group.count > 1 else _reason(error)
        if isinstance(error, OSError) or (group.count > 1 and isinstance(error, Exception)):
            raise CheckpointError(f"could not save into {folder}: {reason}") from error
        raise


def _tell(group: ProcessGroup, error: BaseException) -> str:
    """Tell the other processes what has happened; what all of them say then."""
    try:
        return group.failures(_reason(error))
    except ProcessLost as lost:
        return _lost(lost)


def _lost(error: ProcessLost) -> str:
    return f"{error} The folder holds what was there before, or all of the new files."


def _reason(error: BaseException) -> str:
    if isinstance(error, _NotMoved):
        return str(error)
    if isinstance(error, OSError):
        what = "no space left on the device" if error.errno == errno.ENOSPC else error.strerror or str(error)
        remedy = "; free space or make the folder writable, and save again"
    else:
        what = str(error) if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
        remedy = ""
    return f"{what.rstrip(':. ')}. What was there before is unchanged{remedy}."


def _make_staging(staging: Path, at_end: ExitStack) -> None:
    """Make the staging folder, and hold its lock for as long as this process writes into it."""
    folder = staging.parent
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _move_into_place(folder)
        _remove_leftovers(folder)
        staging.mkdir()
        _lock(at_end.enter_context(_opened(staging)), wait=False)
        at_end.callback(shutil.rmtree, staging, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove the staging folders of writers that are dead: nobody holds their locks."""
    for path in folder.iterdir():
        if _STAGING_NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            with suppress(OSError), _opened(path) as descriptor:
                if _lock(descriptor, wait=False):
                    shutil.rmtree(path, ignore_errors=True)


def _commit(staging: Path, folder: Path, finish: Callable[[Path], Iterable[str]]) -> None:
    with _locked(folder):
        _move_into_place(folder)
        removed = sorted(finish(staging))
        written = sorted(path.name for path in staging.iterdir())
        (staging / MANIFEST).write_text(json.dumps({"files": written, "removed": removed}))
        checked_manifest(folder, staging)  # what readers would refuse is not committed
        _check_places(folder, written + removed)
        _sync_tree(staging)
        staging.rename(folder / COMMITTED)
        _move_into_place(folder)


def _check_places(folder: Path, names: Iterable[str]) -> None:
    for path in (folder / name for name in names):
        if path.is_dir() and not path.is_symlink() and not _is_tree(path):
            raise CheckpointError(f"{path} is a folder that no save has written: move it away, and save again")


def _move_into_place(folder: Path) -> None:
    """Finish the last save into `folder` if it was interrupted while its files were moved."""
    manifest = read_manifest(folder)
    if manifest is None:
        return
    committed = folder / COMMITTED
    try:
        _sync(folder)  # the commit is on the disk before anything is moved
        for name in sorted(manifest.files):
            with suppress(FileNotFoundError):  # it has been moved already
                _move(committed / name, folder / name)
        for name in sorted(manifest.removed):
            _discard(folder / name)
        _sync(folder)
        (committed / MANIFEST).unlink(missing_ok=True)
        committed.rmdir()
    except OSError as error:
        raise _NotMoved(
            f"{folder} holds a finished save that could not be moved into place ({error.strerror}): make the folder "
            f"writable, and save into it again. Until then its files are in {COMMITTED}."
        ) from error


def _move(source: Path, target: Path) -> None:
    if source.is_dir():
        _discard(target)
    source.replace(target)


def _discard(path: Path) -> None:
    """Remove a file, a link or a tree of Orbax; other folders are nothing that a save writes, and stay."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    elif _is_tree(path):
        doomed = path.with_name(f"{_STAGING}{secrets.token_hex(8)}")  # a leftover, if the process is killed now
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _is_tree(path: Path) -> bool:
    return os.path.isfile(path / ORBAX_METADATA)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A descriptor of the folder, for locks and `fsync`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of the folder, which no other save into it then holds."""
    with _opened(folder) as descriptor:
        held = _lock(descriptor, wait=True)
        try:
            yield
        finally:
            if held:
                _unlock(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Take the lock; false if another holds it, or if the file system has none."""
    import fcntl  # not on Windows, where checkpoints are read nevertheless

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _unlock(descriptor: int) -> None:
    """Give the lock back at once: closing does not while a fork of this process has the descriptor too."""
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_UN)


def _sync_tree(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            _sync_tree(path)
        else:
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    with _opened(path) as descriptor:
        os.fsync(descriptor)

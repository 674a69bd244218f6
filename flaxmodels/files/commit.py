"""Replacing the files of a folder all at once, so that a crash leaves the old ones or the new ones.

New files are written into a staging folder and synced. One rename of that folder is the commit: from then on the
files are moved into place, and whoever opens the folder next finishes the moves if the writer could not.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from flaxmodels.errors import CheckpointError

_STAGING = ".flaxmodels-staging-"
_COMMITTED = ".flaxmodels-committed"
_STALE = ".stale.json"


@dataclass(frozen=True)
class Crew:
    """The processes, on one host or several with a shared file system, that write one folder together.

    Attributes:
        index: of this process; number 0 leads.
        count: of processes.
        token: the same text in all of them, "PID-RANDOM" of the leader.
        wait: returns when every process has called it with the same text.
    """

    index: int = 0
    count: int = 1
    token: str = field(default_factory=lambda: f"{os.getpid()}-{secrets.token_hex(4)}")
    wait: Callable[[str], None] = lambda moment: None

    @property
    def leads(self) -> bool:
        """Whether this process does what only one may do."""
        return self.index == 0


@contextmanager
def replacing(folder: Path, is_stale: Callable[[str], bool], crew: Crew | None = None) -> Iterator[Path]:
    """Yield a staging folder whose files will replace those of `folder` when the block ends without an error.

    Args:
        folder: made if absent.
        is_stale: says of a file name of `folder` whether it must go if it is not written anew.
        crew: the processes that write into the staging folder; this one alone by default.

    Raises:
        CheckpointError: the disk is full or the folder is not writable; `folder` is then as it was.
    """
    crew = crew or Crew()
    staging = folder / f"{_STAGING}{crew.token}"
    try:
        if crew.leads:
            folder.mkdir(parents=True, exist_ok=True)
            recover(folder)
            _remove_leftovers(folder)
            staging.mkdir()
        crew.wait("staging folder made")
    except OSError as error:
        raise _unwritten(folder, error) from error
    try:
        yield staging
        _sync_tree(staging)
        crew.wait("files written")
        if crew.leads:
            _commit(staging, folder, is_stale)
    except OSError as error:
        raise _unwritten(folder, error) from error
    finally:
        if crew.leads:
            shutil.rmtree(staging, ignore_errors=True)
    if crew.leads:
        recover(folder)
    crew.wait("files in place")


def _commit(staging: Path, folder: Path, is_stale: Callable[[str], bool]) -> None:
    written = {path.name for path in staging.iterdir()}
    stale = [path.name for path in folder.iterdir() if is_stale(path.name) and path.name not in written]
    (staging / _STALE).write_text(json.dumps(stale))
    _sync(staging / _STALE)
    _sync(staging)
    staging.rename(folder / _COMMITTED)


def recover(folder: Path) -> None:
    """Finish a commit that was interrupted while its files were moved into place; do nothing if there is none."""
    committed = folder / _COMMITTED
    if not committed.is_dir():
        return
    try:
        stale = json.loads((committed / _STALE).read_text())
        for path in committed.iterdir():
            if path.name != _STALE:
                with suppress(FileNotFoundError):  # another process finishes the same commit
                    if path.is_dir():
                        _remove(folder / path.name)
                    path.replace(folder / path.name)
        for name in stale:
            _remove(folder / name)
        _sync(folder)
        shutil.rmtree(committed)
    except FileNotFoundError:
        return  # another process has finished it
    except OSError as error:
        raise CheckpointError(
            f"{folder} holds a finished save that was not moved into place, and cannot be written "
            f"({error.strerror}): make it writable and open it again"
        ) from error


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f"{_STAGING}*"):
        pid = int(path.name.removeprefix(_STAGING).partition("-")[0])
        if pid == os.getpid() or not _is_running(pid):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            _sync_tree(path)
        else:
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritten(folder: Path, error: OSError) -> CheckpointError:
    reason = "no space left on the device" if error.errno == errno.ENOSPC else error.strerror or str(error)
    return CheckpointError(
        f"could not save into {folder}: {reason}. What was there before is unchanged; "
        f"free space or make the folder writable, and save again."
    )

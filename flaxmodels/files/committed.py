"""What a folder holds, as the last finished save left it, whether or not its files are in place.

A save renames a folder with all its new files to `.flaxmodels-committed` and then moves them out of it, into the folder
above. If it is killed meanwhile, readers find the rest where they are, and the next save moves them. A manifest lists
what the save writes and removes. A committed folder that is not exactly what its manifest says is refused, by readers
and by writers.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from flaxmodels.errors import CheckpointError
from flaxmodels.files.formats import ORBAX_METADATA, is_tree, is_weight_file
from flaxmodels.files.reading import COMMITTED, parse_json_object

MANIFEST = ".flaxmodels-manifest.json"
MAX_MANIFEST_BYTES = 10_000_000
"""Enough for the names of 100,000 shards."""

_OWN = ".flaxmodels-"
_ATTEMPTS = 10

Read = TypeVar("Read")


@dataclass(frozen=True)
class Manifest:
    """The names of the files that a save wrote, and of those that it removes."""

    files: frozenset[str]
    removed: frozenset[str]


def current(folder: Path, name: str) -> Path | None:
    """The path of a file or a tree of Orbax in `folder`, as the last finished save left it; `None` if there is none.

    A save may move the file into place before it is opened; `reading.map_file` follows it there.

    Raises:
        CheckpointError: the name is that of something else, or `folder` holds what looks like an interrupted save and
            is none.
    """
    if not _can_be(folder / name):
        return None
    manifest = read_manifest(folder)
    if manifest and name in manifest.removed:
        return None
    paths = [folder / COMMITTED / name] if manifest and name in manifest.files else []
    return next((path for path in (*paths, folder / name) if _exists(path)), None)


def _can_be(path: Path) -> bool:
    """Whether the file system can have such a path."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def folder_of(path: Path) -> Path:
    """The folder in which `current` found a path."""
    return path.parent.parent if path.parent.name == COMMITTED else path.parent


def of_one_save(path: Path, read: Callable[[Path], Read]) -> Read:
    """What `read` makes of `path` and of the files that belong to it; once more if a save replaces them meanwhile.

    Raises:
        CheckpointError: what `read` raises, or saves replaced the files again and again.
    """
    for _ in range(_ATTEMPTS):
        found = current(folder_of(path), path.name) or path
        version = _version(found)
        try:
            result = read(found)
        except CheckpointError:
            if version == _version(current(folder_of(path), path.name) or path):
                raise
        else:
            if version == _version(current(folder_of(path), path.name) or path):
                return result
    raise CheckpointError(f"{path.name}: saves replaced it {_ATTEMPTS} times while it was read. Load it again.")


def _version(path: Path) -> tuple[int, ...] | None:
    """What differs between the files of two saves, and is kept when they are moved into place."""
    with suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
    return None


def _exists(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise CheckpointError(f"{path} is a link to nothing: remove it, or copy the file itself") from None
        return False
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}. Check the path and its permissions.") from error
    is_file = stat.S_ISREG(mode)
    if (is_file and not is_tree(path.name)) or os.path.isfile(path / ORBAX_METADATA):
        return True
    if not os.path.lexists(path):
        return False  # it was moved into place after the first look
    found = "a file" if is_file else "a folder" if stat.S_ISDIR(mode) else "neither a file nor a folder"
    expected = f"a folder with {ORBAX_METADATA}" if is_tree(path.name) else "a file"
    raise CheckpointError(f"{path} is {found}, expected {expected}: move it away, or copy it again")


def read_manifest(folder: Path) -> Manifest | None:
    """What a finished save has not yet moved into place; `None` if there is no such save.

    Raises:
        CheckpointError: the folder holds what looks like an interrupted save and is none.
    """
    committed = folder / COMMITTED
    try:
        if not stat.S_ISDIR(committed.lstat().st_mode):
            raise _foreign(folder, "it is not a folder")
        with suppress(FileNotFoundError):
            return checked_manifest(folder, committed)
        # The manifest is what a save removes last. A new save may then rename its own folder into the empty one.
        found = os.listdir(committed)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError(f"{committed}: {error.strerror}. Check the path and its permissions.") from error
    if MANIFEST in found:
        return read_manifest(folder)
    if found:
        raise _foreign(folder, f"it has no {MANIFEST}")
    return None


def checked_manifest(folder: Path, committed: Path) -> Manifest:
    """The manifest in the committed folder of `folder`, which holds nothing else than the manifest says.

    Raises:
        CheckpointError: it is not what a save leaves.
        FileNotFoundError: a save has moved its files meanwhile.
    """
    path = committed / MANIFEST
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_MANIFEST_BYTES:
        raise _foreign(folder, f"its {MANIFEST} is not a file of at most {MAX_MANIFEST_BYTES} bytes")
    version = _version(path)
    try:
        content = parse_json_object(path, np.frombuffer(path.read_bytes(), np.uint8))
    except CheckpointError as error:
        raise _foreign(folder, str(error).removesuffix(". Download or copy it again.")) from error
    manifest = _parsed(folder, content)
    for name in os.listdir(committed):
        if name != MANIFEST and not _belongs(committed / name, manifest):
            if version != _version(path):
                raise FileNotFoundError  # what was listed is of another save
            raise _foreign(folder, f"it holds {name!r}, which is none of the files in its {MANIFEST}")
    return manifest


def _parsed(folder: Path, content: Mapping[str, object]) -> Manifest:
    """The manifest, if it names nothing but files that a save may write and weights that it may remove."""
    match content:
        case {"files": [*files], "removed": [*removed], **further} if not further:
            written = {name for name in files if isinstance(name, str)}
            foreign = [name for name in files if not _is_plain(name)]
            foreign += [name for name in removed if not _is_plain(name) or name in written or not is_weight_file(name)]
        case _:
            raise _foreign(folder, f"its {MANIFEST} does not list files and removed")
    if foreign:
        names = ", ".join(repr(name) if isinstance(name, str) else type(name).__name__ for name in foreign)
        raise _foreign(folder, f"its {MANIFEST} names {names[:200]}")
    return Manifest(frozenset(files), frozenset(removed))


def _is_plain(name: object) -> bool:
    """Whether this is the name of a file directly in a folder, and not one of our own hidden names."""
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
        return False
    return not name.startswith(_OWN)


def _belongs(path: Path, manifest: Manifest) -> bool:
    """Whether the manifest lists the path, and it is a file or a tree of Orbax itself and no link; or is gone."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return True
    is_member = stat.S_ISREG(mode) or (stat.S_ISDIR(mode) and is_tree(path.name))
    return path.name in manifest.files and is_member


def _foreign(folder: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} has a {COMMITTED} that no save of flaxmodels left there: {problem}. Remove it, and try again."
    )

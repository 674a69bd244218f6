"""Opening files that may be damaged or hostile: maps and copies, strict JSON and a cursor that stays inside."""

from __future__ import annotations

import json
import mmap
import os
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from flaxmodels.errors import CheckpointError, CheckpointNotFound
from interop.errors import LONGEST_PATH, InteropError, shown

MAX_JSON_BYTES = 100_000_000
"""The limit that safetensors sets for its header, kept for index files too."""
MAX_JSON_VALUES = 3_000_000
"""Of one file: the header of a safetensors file with `MAX_TENSORS` tensors of three dimensions has 2.4 million."""
MAX_TENSORS = 1 << 18
"""Of one file. The largest checkpoints that are published have 140,000, in dozens of files."""
MAX_NAME = 1 << 10
"""Characters of the name of a tensor with all that it lies in. The longest of transformers have some 150."""

_WINDOW = 1 << 20
ALIGNMENT = 64
"""Bytes: JAX on the CPU uses arrays aligned to this as they are, and copies others."""
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")


def damaged(path: Path, problem: str) -> CheckpointError:
    """The error for a file whose bytes contradict its format."""
    return CheckpointError(f"{shown(path.name)}: {problem}. Download or copy it again.")


@contextmanager
def checkpoint_errors() -> Iterator[None]:
    """Raise errors of `interop` under another type.

    Raises:
        CheckpointError: in place of an `InteropError`, with its message.
    """
    try:
        yield
    except InteropError as error:
        raise CheckpointError(str(error)) from error


COMMITTED = ".flaxmodels-committed"
"""The folder in which a finished save holds its files until they are moved into the folder above."""


class FileMap(mmap.mmap):
    """A read-only map of a file."""


class FileCopies:
    """The bytes of an open file, every slice of which is a fresh copy that later changes of the file do not reach.

    A file that has become shorter meanwhile is a `CheckpointError`, where a map of it ends the process.
    """

    def __init__(self, path: Path, file: BinaryIO):
        self._path = path
        self._size = os.fstat(file.fileno()).st_size
        self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, span: slice) -> np.ndarray:
        start, stop, _ = span.indices(self._size)
        held = _aligned(max(stop - start, 0))
        done = 0
        while done < len(held):
            count = os.preadv(self._descriptor, [held[done:].data], start + done)
            if not count:
                size = os.fstat(self._descriptor).st_size
                raise damaged(self._path, f"it had {self._size} bytes when it was opened, and has {size} now")
            done += count
        held.flags.writeable = False
        return held


FileBytes = np.ndarray | FileCopies
"""What gives the bytes of a file by slices, uint8 [stop - start]: a map of all of it, or copies."""


def _aligned(size: int) -> np.ndarray:
    data = np.empty(size + ALIGNMENT, np.uint8)
    start = -data.ctypes.data % ALIGNMENT
    return data[start : start + size]


def drop_pages(array: np.ndarray) -> None:
    """Take the pages of an array that is a view of a mapped file out of this process's memory.

    The system keeps them as long as it likes, and a later access brings them back.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    if not isinstance(base, FileMap) or array.size == 0 or not hasattr(mmap, "MADV_DONTNEED"):
        return
    origin = np.frombuffer(base, np.uint8).ctypes.data
    start, stop = (int(address) - origin for address in np.lib.array_utils.byte_bounds(array))
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    base.madvise(mmap.MADV_DONTNEED, first, stop - first)


def open_bytes(path: Path, *, mmap: bool = True) -> FileBytes:
    """The bytes of a file: a read-only map, unmapped when its last view is released, or copies if `mmap` is false.

    A mapped file is not copied: if it is rewritten in place, the arrays that were read from it change, and if it is
    truncated, the next access ends the process with SIGBUS. Replacing a file by renaming another does neither.

    Raises:
        CheckpointNotFound: there is no such file.
        CheckpointError: it cannot be opened, or is a Git LFS pointer instead of the file itself.
    """
    try:
        with _open(path) as file:
            if os.fstat(file.fileno()).st_size == 0:
                return np.empty(0, np.uint8)
            data = _mapped(file) if mmap else FileCopies(path, file)
    except OSError as error:
        problem = f"{shown(path, LONGEST_PATH)}: {error.strerror}"
        kind = CheckpointNotFound if isinstance(error, FileNotFoundError) else CheckpointError
        raise kind(f"{problem}. Check the path and its permissions.") from error
    if data[:23].tobytes() == b"version https://git-lfs":
        raise CheckpointError(f"{shown(path.name)}: a Git LFS pointer, not the file itself. Run `git lfs pull`.")
    return data


def _open(path: Path) -> BinaryIO:
    """The file, or the one that was moved out of a commit since it was found there."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        if path.parent.name != COMMITTED:
            raise
        return (path.parent.parent / path.name).open("rb")


def _mapped(file: BinaryIO) -> np.ndarray:
    return np.frombuffer(FileMap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def parse_json_object(path: Path, data: FileBytes, start: int = 0, stop: int | None = None) -> dict[str, Any]:
    """Parses a JSON object among the bytes of a file, and refuses what `json` would let through.

    That is duplicate keys, of which it would keep the last; halves of characters; and more values than a file needs.

    Raises:
        CheckpointError: it is not such an object.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) != len(pairs):
            raise ValueError("duplicate keys")
        return found

    if (size := (len(data) if stop is None else stop) - start) > MAX_JSON_BYTES:
        raise damaged(path, f"{size} bytes of JSON, more than {MAX_JSON_BYTES}")
    if size > MAX_JSON_VALUES and (count := _count_values(data[start : start + size])) > MAX_JSON_VALUES:
        raise damaged(path, f"JSON of some {count} values, more than {MAX_JSON_VALUES}")
    text = data[start : start + size].tobytes()
    try:
        value = json.loads(text.decode(), object_pairs_hook=unique)
        if _HALF_CHARACTER.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"invalid JSON ({shown(error)})") from error
    if not isinstance(value, dict):
        raise damaged(path, "invalid JSON (not an object)")
    return value


def _count_values(text: np.ndarray) -> int:
    """At least as many values as a JSON text has, and no more where its strings have no punctuation."""
    return sum(int(np.count_nonzero(text == ord(mark))) for mark in ",[{")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: the file is absent, or holds anything else.
    """
    return parse_json_object(Path(path), open_bytes(Path(path), mmap=False))


class Cursor:
    """Walks the bytes of a file from front to back.

    Attributes:
        path: the file, as errors name it.
        position: the number of the next byte.

    Raises:
        CheckpointError: by its methods, which would run over the end of the file, or find a name that is not UTF-8.
    """

    def __init__(self, path: Path, data: FileBytes, byteorder: Literal["little", "big"]):
        self.path = path
        self.position = 0
        self._data, self._size = data, len(data)
        self._byteorder: Literal["little", "big"] = byteorder
        self._window, self._first, self._seen = memoryview(b""), 0, 0

    @property
    def remaining(self) -> int:
        """Bytes between the position and the end of the file."""
        return self._size - self.position

    def take(self, count: int) -> memoryview:
        """The next `count` bytes, without copying them if they are mapped."""
        start, stop = self.position, self.position + count
        if stop > self._seen:
            self._look(count)
        self.position = stop
        return self._window[start - self._first : stop - self._first]

    def skip(self, count: int) -> None:
        """Pass over the next `count` bytes, which are there but are not read.

        Raises:
            CheckpointError: the file ends before.
        """
        if count > self.remaining:
            problem = f"truncated or corrupt at byte {self.position}"
            raise damaged(self.path, f"{problem} ({count} more expected, {self.remaining} left)")
        self.position += count

    def uint(self, width: int) -> int:
        """The next `width` bytes as an unsigned integer."""
        return int.from_bytes(self.take(width), self._byteorder)

    def text(self, count: int) -> str:
        """The next `count` bytes as UTF-8.

        Raises:
            CheckpointError: the file ends before, or they are not UTF-8.
        """
        start = self.position
        try:
            return str(self.take(count), "utf-8")
        except UnicodeDecodeError as error:
            raise damaged(self.path, f"corrupt at byte {start}: a name is not UTF-8") from error

    def _look(self, count: int) -> None:
        """See the next bytes: at least `count` of them, and all that follow if they are mapped."""
        start = self.position
        self.skip(count)
        ahead = self._size if isinstance(self._data, np.ndarray) else max(count, _WINDOW)
        self._window, self._first = self._data[start : start + ahead].data, start
        self._seen = start + len(self._window)

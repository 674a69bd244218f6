"""Opening files that may be damaged or hostile: maps, strict JSON and a cursor that stays inside."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flaxmodels.errors import CheckpointError

MAX_JSON_BYTES = 100_000_000
"""The limit that safetensors sets for its header, kept for index files too."""


def damaged(path: Path, problem: str) -> CheckpointError:
    """The error for a file whose bytes contradict its format."""
    return CheckpointError(f"{path.name}: {problem}. Download or copy it again.")


class FileMap(mmap.mmap):
    """A read-only map of a file."""


def forget(array: np.ndarray) -> None:
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


def map_file(path: Path) -> np.ndarray:
    """The bytes of a file as a read-only memory map, uint8 [size]; unmapped when its last view is released.

    Raises:
        CheckpointError: the file cannot be opened, or is a Git LFS pointer instead of the file itself.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return np.empty(0, np.uint8)
            data = np.frombuffer(FileMap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}. Check the path and its permissions.") from error
    if data[:23].tobytes() == b"version https://git-lfs":
        raise CheckpointError(f"{path.name}: a Git LFS pointer, not the file itself. Run `git lfs pull`.")
    return data


def parse_json_object(path: Path, text: np.ndarray) -> dict[str, Any]:
    """Parses the bytes of a JSON object and refuses duplicate keys, which `json` would silently drop."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) != len(pairs):
            raise ValueError("duplicate keys")
        return found

    if len(text) > MAX_JSON_BYTES:
        raise damaged(path, f"{len(text)} bytes of JSON, more than {MAX_JSON_BYTES}")
    try:
        value = json.loads(text.tobytes().decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"invalid JSON ({error})") from error
    if not isinstance(value, dict):
        raise damaged(path, "invalid JSON (not an object)")
    return value


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file; `CheckpointError` if it is anything else."""
    return parse_json_object(Path(path), map_file(Path(path)))


class Cursor:
    """Walks a mapped file from front to back; running over its end is a `CheckpointError`."""

    def __init__(self, path: Path, data: np.ndarray, byteorder: Literal["little", "big"]):
        self.path = path
        self.position = 0
        self._data = data.data
        self._size = len(data)
        self._byteorder: Literal["little", "big"] = byteorder

    @property
    def remaining(self) -> int:
        """Bytes between the position and the end of the file."""
        return self._size - self.position

    def take(self, count: int) -> memoryview:
        """The next `count` bytes, without copying them."""
        start, stop = self.position, self.position + count
        if stop > self._size:
            problem = f"truncated or corrupt at byte {start}"
            raise damaged(self.path, f"{problem} ({count} more expected, {self.remaining} left)")
        self.position = stop
        return self._data[start:stop]

    def uint(self, width: int) -> int:
        """The next `width` bytes as an unsigned integer."""
        return int.from_bytes(self.take(width), self._byteorder)

    def text(self, count: int) -> str:
        """The next `count` bytes as UTF-8."""
        start = self.position
        try:
            return str(self.take(count), "utf-8")
        except UnicodeDecodeError as error:
            raise damaged(self.path, f"corrupt at byte {start}: a name is not UTF-8") from error

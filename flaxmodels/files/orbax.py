"""Orbax checkpoints: trees of arrays in folders, written in parts by every host and read in any parts.

Written by Orbax's handler of trees; its `Checkpointer` adds barriers at which processes wait for one that has failed.
Read through TensorStore, the library below Orbax, which gives any box of an array without the rest of it.
"""

from __future__ import annotations

import math
import os
import re
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from flaxmodels.errors import CheckpointError
from flaxmodels.files.arrays import addressable
from flaxmodels.files.formats import ORBAX_METADATA
from flaxmodels.files.process_group import ProcessGroup
from flaxmodels.files.reading import COMMITTED, damaged, read_json
from interop.source import Header, Index

MAX_READ_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63
"""The memory of this machine. What is read of an array at once, and each of its chunks, must fit in it."""
MAX_CHUNKS = 100_000
"""Of one array. Orbax writes a chunk for each device that holds a part of it."""

_DESCRIPTORS = Path("/proc/self/fd")
"""Where Linux has links to what a process has opened."""
_SPECIAL = set("\\*?[")
"""Characters that TensorStore or Orbax takes for something else when they are in a path."""


class OrbaxFolder:
    """A `Source` over a tree that Orbax saved. Names are its keys joined by "/", without a first "params".

    Attributes:
        path: the folder with `_METADATA`.
        headers: shape and dtype of every array.

    Raises:
        CheckpointError: the folder is not a tree of Orbax, or a part of it is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path).absolute()
        self._descriptor = _open_folder(self.path)
        weakref.finalize(self, os.close, self._descriptor)
        self._root = _plain_path(self.path, self._descriptor)
        if not (self._root / ORBAX_METADATA).is_file():
            raise CheckpointError(f"{self.path} has no {ORBAX_METADATA}, so it is not a tree of Orbax. Check the path.")
        names, driver = _parse_metadata(self._root / ORBAX_METADATA)
        self._arrays = {name: self._open(stored, driver) for name, stored in names.items()}
        self.headers = {name: self._header(name, array) for name, array in self._arrays.items()}

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """The array, or the box of it that `index` names, in fresh memory.

        Raises:
            CheckpointError: it is damaged, larger than the memory of this machine, or another save has replaced it.
        """
        part = self._arrays[name] if index is None else self._arrays[name][(*index, ...)]
        self._check_size(f"{name}: reading {tuple(part.shape)}", part.shape, self.headers[name].dtype)
        try:
            values = part.read().result()
        except ValueError as error:
            self._check_unchanged()
            raise self._damaged(name, error) from error
        self._check_unchanged()
        return values

    def _open(self, stored: str, driver: dict[str, Any]) -> Any:
        import tensorstore

        folder = {"driver": "file", "path": f"{self._root}/"}
        if (self._root / "manifest.ocdbt").exists():
            store = {"driver": "ocdbt", "base": folder, "path": f"{stored}/"}
        else:
            store = folder | {"path": f"{self._root}/{stored}/"}
        try:
            return tensorstore.open(driver | {"kvstore": store}, read=True, open=True).result()
        except ValueError as error:
            raise self._damaged(stored, error) from error

    def _damaged(self, name: str, error: Exception) -> CheckpointError:
        return damaged(self.path, f"{name}: {_first_line(error).replace(str(self._root), str(self.path))}")

    def _header(self, name: str, array: Any) -> Header:
        """The header of an array that can be read with work and memory that its files account for."""
        shape, dtype = tuple(array.shape), np.dtype(array.dtype.numpy_dtype)
        if dtype.kind not in "biufcV" or dtype.type is np.void:
            raise damaged(self.path, f"{name} holds {array.dtype.name}, not numbers")
        if not addressable(shape, dtype):
            raise damaged(self.path, f"{name} has the shape {shape}")
        chunk = array.chunk_layout.read_chunk.shape or (1,) * len(shape)
        if any(part > max(size, 1) for size, part in zip(shape, chunk, strict=True)):
            raise damaged(self.path, f"{name} has the shape {shape}, and its chunks {tuple(chunk)} are larger")
        self._check_size(f"{name}: a chunk of {chunk}", chunk, dtype)
        count = math.prod(-(-size // max(part, 1)) for size, part in zip(shape, chunk, strict=True))
        if count > MAX_CHUNKS:
            raise damaged(self.path, f"{name} is in {count} chunks, more than MAX_CHUNKS = {MAX_CHUNKS}")
        return Header(shape, dtype)

    def _check_size(self, what: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        size = math.prod(shape) * dtype.itemsize
        if size > MAX_READ_BYTES:
            raise CheckpointError(
                f"{self.path.name}: {what} would take {size} bytes, more than MAX_READ_BYTES = {MAX_READ_BYTES}, the "
                "memory of this machine. Load it over more devices and hosts, or save it again if it is not so large."
            )

    def _check_unchanged(self) -> None:
        """What was read is of one save if the folder is still in its place, or was moved there from a commit."""
        held = os.fstat(self._descriptor)
        for path in _places(self.path):
            with suppress(OSError):
                if os.path.samestat(path.stat(), held):
                    return
        raise CheckpointError(f"{self.path}: another save replaced it while it was read. Load it again.")


def _places(path: Path) -> list[Path]:
    """Where a tree is: at its path, or in the folder of a commit from which it was moved since."""
    return [path, path.parent.parent / path.name] if path.parent.name == COMMITTED else [path]


def _open_folder(path: Path) -> int:
    *earlier, last = _places(path)
    for place in earlier:
        with suppress(FileNotFoundError):
            return os.open(place, os.O_RDONLY)
    try:
        return os.open(last, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}. Check the path and its permissions.") from error


def _plain_path(path: Path, descriptor: int) -> Path:
    """A path to an opened folder that has no special characters and stays right when the folder is moved."""
    plain = _DESCRIPTORS / str(descriptor)
    if plain.is_dir():
        return plain
    if special := sorted(_SPECIAL & set(str(path))):
        raise CheckpointError(f"{path}: Orbax cannot use a path with {' '.join(special)} here. Rename the folder.")
    return path


def _first_line(error: Exception) -> str:
    """What TensorStore says, without the specification that it appends."""
    return str(error).splitlines()[0].partition(" [")[0]


def _parse_metadata(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """From our name of each array to the name under which Orbax stored it; and TensorStore's driver of all."""
    metadata = read_json(path)
    tree: Any = metadata.get("tree_metadata")
    try:
        entries = [(entry["key_metadata"], entry.get("value_metadata") or {}) for entry in tree.values()]
        arrays = [keys for keys, value in entries if not _is_no_array(value)]
        paths = [tuple(str(part["key"]) for part in keys) for keys in arrays]
    except (AttributeError, KeyError, TypeError):
        paths = [()]
    if not all(map(_is_path, paths)):
        raise damaged(path, "tree_metadata does not describe a tree of arrays")
    found = {"/".join(keys): ".".join(keys) for keys in paths}
    if len(found) != len(paths):
        raise damaged(path, "tree_metadata names an array twice")
    params = {name.removeprefix("params/"): stored for name, stored in found.items() if name.startswith("params/")}
    driver = {"driver": "zarr3" if metadata.get("use_zarr3") else "zarr"}
    # Older releases left out chunks of zeros; where all are written, one that is absent is lost.
    driver |= {"fill_missing_data_reads": not metadata.get("store_array_data_equal_to_fill_value")}
    return params or found, driver


def _is_path(keys: tuple[str, ...]) -> bool:
    """Whether keys lead to an array inside the tree."""
    parts = {part for key in keys for part in key.split("/")}
    return bool(parts) and not parts & {"", ".", ".."} and not any("\0" in part for part in parts)


def _is_no_array(value: Mapping[str, Any]) -> bool:
    """Whether a leaf is an empty container, `None`, or a string."""
    return bool(value.get("skip_deserialize")) or value.get("value_type") == "string"


def write_orbax(folder: Path, tree: Mapping[str, Any], group: ProcessGroup | None = None) -> None:
    """Save arrays (of numpy or jax, in whatever sharding) by "/"-joined name as one tree.

    Args:
        folder: the folder, which the main process makes.
        group: the processes that hold the arrays together; each writes its parts.

    Raises:
        OSError: what the file system said.
        CheckpointError: the tree is empty, Orbax has failed, or another process of the group has.
    """
    import orbax.checkpoint as ocp
    from etils import epath
    from flax import traverse_util

    group = group or ProcessGroup()
    if not tree:
        raise CheckpointError("Orbax does not save an empty tree: there are no parameters")
    if group.is_main:
        # The others wait ten minutes for the inner folder, which Orbax would make when the main process has written.
        (folder / "array_metadatas" if group.count > 1 else folder).mkdir(parents=True)
    group.agree()
    handler = ocp.PyTreeCheckpointHandler()
    with _named_errors(), _reached(folder) as path:
        try:
            handler.save(epath.Path(path), args=ocp.args.PyTreeSave(traverse_util.unflatten_dict(dict(tree), sep="/")))
            group.agree()
            if group.is_main:
                handler.finalize(epath.Path(path))
            group.agree()
        finally:
            handler.close()


@contextmanager
def _reached(folder: Path) -> Iterator[Path]:
    """A path to write to, as `_plain_path`.

    After an error the descriptor stays open: TensorStore's threads may be writing still, and would write to whatever
    had its number next.
    """
    descriptor = _open_folder(folder)
    yield _plain_path(folder, descriptor)
    os.close(descriptor)


@contextmanager
def _named_errors() -> Iterator[None]:
    """Turn errors of TensorStore and Orbax, which are `ValueError`s and `RuntimeError`s, into ours."""
    try:
        yield
    except (CheckpointError, OSError):
        raise
    except Exception as error:
        if code := re.search(r"os_error_code='(\d+)'", str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
        raise CheckpointError(f"Orbax failed to save ({type(error).__name__}: {_first_line(error)})") from error

"""Keras weights in HDF5 files, `tf_model.h5` on the Hub.

h5py finds the datasets, and their bytes are read from the file itself. Keras writes each dataset in one piece, and
no other storage is read: in all others a few bytes can claim any size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxmodels.errors import CheckpointError
from flaxmodels.files.arrays import addressable, read_box
from flaxmodels.files.reading import MAX_NAME, damaged, open_bytes
from interop.errors import LONGEST, listed, shown
from interop.source import Header, Index

_MAX_DEPTH = 64
_MAX_OBJECTS = 1 << 15  # groups and datasets: the largest models of TensorFlow have some thousand variables
_DTYPES = tuple(np.dtype(f"<{code}") for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"))
_REMEDY = "Save it again as Keras does, or run: h5repack -f NONE -l CONTI in.h5 out.h5"


@dataclass(frozen=True)
class _Dataset:
    """A dataset as the file describes it.

    Attributes:
        shape: None if it has none.
        dtype: None if numpy has none whose bytes are those of the file.
        start: where its bytes begin, if they are in this file and in one piece.
        stored: how many there are.
        is_elsewhere: whether other files have them.
    """

    shape: tuple[int, ...] | None
    dtype: np.dtype | None
    start: int | None
    stored: int
    is_elsewhere: bool

    @property
    def header(self) -> Header:
        """Its header, once it has no `problem`."""
        return Header(self.shape or (), self.dtype or _DTYPES[0])

    def problem(self, size: int) -> str:
        """Why it cannot be read from a file of that size; empty if it can."""
        if self.shape is None or self.dtype not in _DTYPES or not addressable(self.shape, self.header.dtype):
            return "is not an array of plain, little-endian numbers"
        nbytes = self.header.nbytes
        if self.stored != nbytes or (nbytes and self.start is None):
            return f"does not store its {nbytes} bytes in one piece"
        if nbytes and (self.start or 0) + nbytes > size:
            return f"ends at byte {(self.start or 0) + nbytes} but the file has {size}"
        return ""


class H5File:
    """A `Source` over the datasets of an HDF5 file. Names are their paths: `bert/tf_bert_model/bert/.../kernel:0`.

    Args:
        path: the file.
        mmap: map the file; if false, `read` copies what it is asked for (see `open_bytes`).

    Attributes:
        path: the file.
        headers: shape and dtype of every dataset.

    Raises:
        CheckpointError: h5py or the file is absent, or the file is damaged, keeps its data elsewhere, or stores
            datasets otherwise than Keras does.
    """

    def __init__(self, path: str | os.PathLike[str], *, mmap: bool = True):
        self.path = Path(path)
        self._data = open_bytes(self.path, mmap=mmap)
        datasets = _datasets(self.path)
        _check(self.path, datasets, len(self._data))
        self.headers = {name: dataset.header for name, dataset in datasets.items()}
        self._starts = {name: dataset.start or 0 for name, dataset in datasets.items()}

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """The dataset, or the box of it that `index` names; a read-only view of the file if it is mapped."""
        return read_box(self._data, self._starts[name], self.headers[name], index)


def _check(path: Path, datasets: Mapping[str, _Dataset], size: int) -> None:
    """Refuses datasets that are not in the file, whole, as Keras writes them."""
    if elsewhere := [name for name, dataset in datasets.items() if dataset.is_elsewhere]:
        problem = f"keeps data in other files: {listed(elsewhere)}"
        raise CheckpointError(f"{shown(path.name)}: {problem}. Save it as one file.")
    problems = [(name, problem) for name, dataset in datasets.items() if (problem := dataset.problem(size))]
    if problems:
        lines = [f"{shown(name)} {problem}" for name, problem in problems]
        raise CheckpointError(f"{shown(path.name)}: {listed(lines, longest=2 * LONGEST)}. {_REMEDY}")
    if (total := sum(dataset.stored for dataset in datasets.values())) > size:
        raise damaged(path, f"its datasets hold {total} bytes but the file has {size}")


def _datasets(path: Path) -> dict[str, _Dataset]:
    """All datasets by name."""
    try:
        import h5py
    except ImportError as error:
        remedy = 'pip install "flaxmodels-jax[tf]"'
        raise CheckpointError(f"{shown(path.name)}: HDF5 files need the h5py package. Run: {remedy}") from error
    try:
        with h5py.File(path, "r") as file:
            return {name: _describe(found) for name, found in _walk(path, file, "", 0, {file["/"].id})}
    except CheckpointError:
        raise
    except Exception as error:  # h5py lets through whatever a corrupt file makes libhdf5 and Python raise
        raise damaged(path, f"truncated or not an HDF5 file ({shown(error)})") from error


def _walk(path: Path, group: Any, prefix: str, depth: int, seen: set[Any]) -> Iterator[tuple[str, Any]]:
    """Paths and datasets below a group, links aside.

    Each object is visited once, as groups may contain each other. `visititems` of h5py does the same, but overruns
    the stack where groups are nested deeply.
    """
    import h5py

    if depth > _MAX_DEPTH:
        raise damaged(path, f"groups are nested deeper than {_MAX_DEPTH}")
    for key in group:
        name = prefix + key
        name.encode()  # raises an error if it is not UTF-8
        if not isinstance(group.get(key, getlink=True), h5py.HardLink) or (child := group[key]).id in seen:
            continue
        seen.add(child.id)
        if len(seen) > _MAX_OBJECTS or len(name) > MAX_NAME:
            problem = f"more than {_MAX_OBJECTS} groups and datasets, or a name of more than {MAX_NAME} characters"
            raise damaged(path, problem)
        if isinstance(child, h5py.Group):
            yield from _walk(path, child, f"{name}/", depth + 1, seen)
        elif isinstance(child, h5py.Dataset):
            yield name, child


def _describe(found: Any) -> _Dataset:
    import h5py

    try:
        dtype = found.dtype
        is_plain = found.id.get_type() == h5py.h5t.py_create(dtype, logical=True)
    except TypeError:
        dtype, is_plain = None, False
    is_elsewhere = bool(found.external or found.is_virtual)
    return _Dataset(
        found.shape, dtype if is_plain else None, found.id.get_offset(), found.id.get_storage_size(), is_elsewhere
    )

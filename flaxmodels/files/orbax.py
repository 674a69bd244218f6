"""Orbax checkpoints: trees of arrays in folders, written in parts by every host and read in any parts.

Written by Orbax itself. Read through TensorStore, the library below it, which gives any box of an array without
the rest of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flaxmodels.errors import CheckpointError
from flaxmodels.files.reading import damaged, read_json
from interop.source import Header, Index

METADATA = "_METADATA"
"""The file that makes a folder a tree of Orbax."""


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
        self._arrays = {name: self._open(stored) for name, stored in _names(self.path / METADATA).items()}
        self.headers = {
            name: Header(tuple(array.shape), np.dtype(array.dtype.numpy_dtype)) for name, array in self._arrays.items()
        }

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """The array, or the box of it that `index` names, in fresh memory."""
        array = self._arrays[name]
        try:
            return (array if index is None else array[(*index, ...)]).read().result()
        except ValueError as error:
            raise damaged(self.path, f"{name}: {str(error).splitlines()[0]}") from error

    def _open(self, stored: str) -> Any:
        import tensorstore

        if (self.path / "manifest.ocdbt").exists():
            store = {"driver": "ocdbt", "base": f"file://{self.path}/", "path": f"{stored}/"}
        else:
            store = {"driver": "file", "path": f"{self.path}/{stored}/"}
        try:
            return tensorstore.open({"driver": "auto", "kvstore": store}, read=True, open=True).result()
        except ValueError as error:
            raise damaged(self.path, f"{stored}: {str(error).splitlines()[0]}") from error


def _names(path: Path) -> dict[str, str]:
    """From our name of each array to the name under which Orbax stored it."""
    tree: Any = read_json(path).get("tree_metadata")
    try:
        keys = [tuple(str(part["key"]) for part in entry["key_metadata"]) for entry in tree.values()]
    except (AttributeError, KeyError, TypeError):
        raise damaged(path, "tree_metadata does not describe a tree of arrays") from None
    found = {"/".join(key): ".".join(key) for key in keys}
    params = {name.removeprefix("params/"): stored for name, stored in found.items() if name.startswith("params/")}
    return params or found


def write_orbax(folder: Path, tree: Mapping[str, Any]) -> None:
    """Save arrays (of numpy or jax, in whatever sharding) by "/"-joined name as one tree. Every host takes part."""
    import orbax.checkpoint as ocp
    from flax import traverse_util

    if not tree:
        raise CheckpointError("Orbax does not save an empty tree: there are no parameters")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(folder.absolute(), traverse_util.unflatten_dict(dict(tree), sep="/"))

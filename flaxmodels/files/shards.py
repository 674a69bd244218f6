"""Checkpoints in several files: how tensors are assigned to them, and their index."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from flaxmodels.errors import CheckpointError, CheckpointNotFound, FlaxModelsError
from flaxmodels.files.arrays import contiguous
from flaxmodels.files.committed import current, folder_of
from flaxmodels.files.reading import damaged, read_json
from interop.errors import listed, shown
from interop.source import Header, Index, Source

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(?:([KMGT])(I?))?B?")


def parse_size(size: int | str) -> int:
    """A positive number of bytes, from a number or a string: "5GB" is 5 * 10**9 bytes, "5GiB" is 5 * 2**30.

    Raises:
        FlaxModelsError: the size is zero, negative, or not a size.
    """
    match = _SIZE.fullmatch(str(size).upper())
    number, prefix, binary = match.groups() if match else ("0", None, None)
    unit = (1024 if binary else 1000) ** ("KMGT".index(prefix) + 1 if prefix else 0)
    if (count := int(Decimal(number) * unit)) < 1:
        raise FlaxModelsError(f"{size!r} is not a size in bytes. Use a number, '200MB', '5GB' or '1GiB', for example.")
    return count


def plan_shards(headers: Mapping[str, Header], max_shard_size: int) -> list[list[str]]:
    """Assigns the names, in their order, to shards of at most `max_shard_size` bytes of data.

    A tensor that is larger than that has a shard of its own. There is always one shard, if an empty one.
    """
    shards: list[list[str]] = [[]]
    size = 0
    for name, header in headers.items():
        if shards[-1] and size + header.nbytes > max_shard_size:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += header.nbytes
    return shards


def shard_names(stem: str, suffix: str, count: int) -> list[str]:
    """File names as on the Hub: `model.safetensors`, or `model-00001-of-00003.safetensors` and so on."""
    if count == 1:
        return [stem + suffix]
    return [f"{stem}-{number:05d}-of-{count:05d}{suffix}" for number in range(1, count + 1)]


def index_json(shards: Mapping[str, Sequence[str]], headers: Mapping[str, Header]) -> dict[str, Any]:
    """The content of the index file: `shards` maps each file name to the names of the tensors in it."""
    weight_map = {name: file for file, names in shards.items() for name in names}
    return {
        "metadata": {"total_size": sum(headers[name].nbytes for name in weight_map)},
        "weight_map": weight_map,
    }


class ShardedFiles:
    """A `Source` over an index file and the shards that it names.

    Attributes:
        path: the index file.
        headers: shape and dtype of every tensor of the index, and then of those that only the shards know.

    Raises:
        CheckpointError: the index is absent or invalid, names files outside its folder, or names shards or
            tensors that are not there; or two shards have tensors of one name that differ.
    """

    def __init__(
        self,
        index_path: str | os.PathLike[str],
        opener: Callable[[Path], Source],
        rename: Callable[[str], str] = str,
    ):
        """Opens every shard with `opener`, which gives names that `rename` makes of those in the index."""
        self.path = Path(index_path)
        weight_map = {rename(name): file for name, file in read_weight_map(self.path).items()}
        shards = {file: opener(path) for file, path in _shard_paths(self.path, weight_map).items()}
        absent = [f"{name} ({file})" for name, file in weight_map.items() if name not in shards[file].headers]
        if absent:
            raise damaged(self.path, f"the shards lack tensors that the index names: {listed(absent)}")
        self._shards = {name: shards[file] for name, file in weight_map.items()}
        for shard in shards.values():
            for name in shard.headers:
                self._shards.setdefault(name, shard)
        _check_repeated(self.path, self._shards, shards)
        self.headers = {name: shard.headers[name] for name, shard in self._shards.items()}

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """The tensor, or the box of it that `index` names, as its shard gives it."""
        return self._shards[name].read(name, index)


def _check_repeated(path: Path, chosen: Mapping[str, Source], shards: Mapping[str, Source]) -> None:
    """Refuses tensors of which two shards have different values: other readers take the one or the other."""
    differing = [
        f"{name} ({file})"
        for file, shard in shards.items()
        for name in shard.headers
        if shard is not chosen[name] and not _same(name, shard, chosen[name])
    ]
    if differing:
        problem = f"shards have other values for tensors that another shard has: {listed(differing)}"
        raise CheckpointError(f"{shown(path.name)}: {problem}. Delete shards that are not of this checkpoint.")


def _same(name: str, first: Source, second: Source) -> bool:
    if first.headers[name] != second.headers[name]:
        return False
    left, right = (contiguous(shard.read(name)).reshape(-1).view(np.uint8) for shard in (first, second))
    return np.array_equal(left, right)


def read_weight_map(path: Path) -> dict[str, str]:
    """File names by tensor name, every one a plain name in the folder of the index.

    Raises:
        CheckpointError: the index is absent or invalid, or names anything else.
    """
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise damaged(path, "weight_map is not a map of tensor names to file names")
    if not weight_map:
        raise damaged(path, "weight_map is empty")
    files = dict.fromkeys(weight_map.values())
    if foreign := sorted(file for file in files if not _is_plain(file)):
        problem = f"names files outside its folder: {_quoted(foreign)}"
        raise CheckpointError(f"{shown(path.name)}: {problem}. Fix its weight_map.")
    if indices := sorted(file for file in files if file.endswith(".json")):
        raise CheckpointError(f"{shown(path.name)}: names {_quoted(indices)} as shards. Fix its weight_map.")
    return weight_map


def _quoted(names: Iterable[str]) -> str:
    return listed([f"'{shown(name)}'" for name in names])


def _is_plain(file: str) -> bool:
    """Whether this is a name and not a path. The file may still be a link, as all are in the Hub's cache."""
    return file not in ("", ".", "..") and not set(file) & set("/\\:\0")


def _shard_paths(path: Path, weight_map: Mapping[str, str]) -> dict[str, Path]:
    """Paths of the shards by file name; all of them are there."""
    paths = {file: current(folder_of(path), file) for file in dict.fromkeys(weight_map.values())}
    absent = [file for file, shard in paths.items() if shard is None]
    if absent:
        problem = f"shards that it names are absent: {listed(absent)}"
        raise CheckpointNotFound(f"{shown(path.name)}: {problem}. Download them too.")
    return {file: shard for file, shard in paths.items() if shard is not None}

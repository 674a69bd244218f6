"""The weights of a model as its files hold them: found, opened, and freed of the names of wrappers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from flaxmodels.errors import CheckpointError, CheckpointNotFound
from flaxmodels.files.committed import current, folder_of, of_one_save
from flaxmodels.files.formats import ORBAX, SUFFIXES, Layout, format_of, is_index, suffix_of
from flaxmodels.files.location import Location
from flaxmodels.files.mxfp4 import dequantised
from flaxmodels.files.reading import checkpoint_errors
from flaxmodels.files.selection import Selection
from flaxmodels.files.shards import ShardedFiles, read_weight_map
from flaxmodels.files.unsupported import part_of_a_run
from interop.errors import listed, shown
from interop.rules import Mapped, Rule
from interop.source import Source

_WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:base_model\.model|module|_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\."
)
"""What torch.compile, DataParallel, FSDP, activation checkpointing and peft put into the names of parameters."""


@dataclass(frozen=True)
class Weights:
    """An opened checkpoint.

    Attributes:
        path: the file, the index of several, or the folder of a tree.
        source: its tensors.
        layout: whether they are in `"torch"` or `"flax"` names and layout.
        files: the files that hold them, and the size and time of the last change of each when it was opened.
    """

    path: Path
    source: Source
    layout: Layout
    files: Mapping[Path, tuple[int, int]] = field(default_factory=dict)

    def check_unchanged(self) -> None:
        """Compare the files with what they were when they were opened.

        Raises:
            CheckpointError: a file has changed or gone since.
        """
        changed = [path.name for path, then in self.files.items() if _state(_now_at(path)) != then]
        if changed:
            problem = f"changed while {'it was' if len(changed) == 1 else 'they were'} read"
            raise CheckpointError(f"{listed(changed)} {problem}: try again when nothing writes there")

    @property
    def separator(self) -> str:
        """What joins the path of a tensor in Flax names: "/" or "."."""
        return "/" if any("/" in name for name in self.source.headers) else "."

    @classmethod
    def of_state(cls, source: Source, layout: Layout = "torch") -> Weights:
        """Tensors that are in memory, under the names of a state dict of torch or of a tree of Flax."""
        return _unwrapped(cls(Path("state_dict"), source, layout))


def find_weights(
    location: Location,
    *,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    from_pt: bool = False,
    from_flax: bool = False,
    from_tf: bool = False,
    mmap: bool = True,
) -> Weights:
    """The first weights that a model has in the order of `FORMATS`, each sharded or not, or those of `location.file`.

    The arguments select among them, as the attributes of `Selection` say; `mmap` is that of `open_weights`.

    Raises:
        CheckpointNotFound: there are none.
        CheckpointError: they are not what is selected, or an adapter is beside them.
        FlaxModelsError: arguments that exclude each other.
    """
    selection = Selection(variant, use_safetensors, from_pt, from_flax, from_tf)
    if location.file is not None:
        weights = open_weights(Path(location.root) / location.file, mmap=mmap)
        selection.check(location.file, weights.layout)
        return weights
    path = next(filter(None, map(location.find, selection.file_names())), None)
    location.check_adapter(has_weights=path is not None)
    if path is not None:
        return open_weights(path, location, mmap=mmap)
    if location.is_local and (kind := part_of_a_run(Path(location.root))):
        raise CheckpointError(kind)
    expected = ", ".join(format.file_name for format in selection.formats())
    of_variant = f", of variant {variant!r}" if variant else ""
    raise CheckpointNotFound(
        f"{location.lacks('weights')}: expected {expected}, or one of these in shards with an index{of_variant}"
        + location.consolidated()
    )


def open_weights(path: Path, location: Location | None = None, *, mmap: bool = True) -> Weights:
    """Open one file of weights by its suffix, or the shards of an index, which are at `location` if not beside it.

    Tensors in MXFP4 are dequantised.

    Args:
        path: the file, an index of several, or the folder of an Orbax tree.
        location: where the shards of an index are.
        mmap: map the files: nothing is copied, and what is read later shows what has become of the files by then. One
            that is rewritten in place changes arrays that were read before, too; one that is truncated ends the
            process with SIGBUS. Files that are replaced by renaming others, as this library does, are safe. If false,
            arrays are copies of their own and a truncated file is a `CheckpointError`.

    Raises:
        CheckpointError: the file is absent, damaged, of an unknown kind, or one that another tool has to convert.
    """
    path = current(folder_of(path), path.name) or path
    weights = _open(path, location or Location(str(folder_of(path)), True), mmap)
    return _unwrapped(replace(weights, source=dequantised(weights.source)))


def _open(path: Path, location: Location, mmap: bool) -> Weights:
    if kind := part_of_a_run(path):
        raise CheckpointError(kind)
    if path.is_dir():
        files = {file: _state(file) for file in sorted(path.rglob("*")) if file.is_file()}
        return Weights(path, *ORBAX.open(path, mmap), files)
    if is_index(path.name):
        return _open_index(path, location, mmap)
    format = format_of(path.name)
    if format is None:
        *others, last = SUFFIXES
        raise CheckpointError(f"{shown(path.name)} is not a file of weights: expected {', '.join(others)} or {last}")
    files = {path: _state(path)}
    with checkpoint_errors():
        return Weights(path, *format.open(path, mmap), files)


def _open_index(path: Path, location: Location, mmap: bool) -> Weights:
    files = sorted(set(read_weight_map(path).values()))
    suffix = suffix_of(path.name)
    if others := [file for file in files if not file.endswith(suffix)]:
        problem = f"names shards that are not {suffix} files: {listed(others)}"
        raise CheckpointError(f"{shown(path.name)}: {problem}. Fix its weight_map.")
    if not location.is_local:
        for name in files:
            location.find(name)
    return of_one_save(path, partial(_open_shards, location=location, mmap=mmap))


def _open_shards(path: Path, *, location: Location, mmap: bool) -> Weights:
    opened: dict[str, Weights] = {}

    def opener(shard: Path) -> Source:
        opened[shard.name] = _open(shard, location, mmap)
        return opened[shard.name].source

    format = format_of(path.name)
    source = ShardedFiles(path, opener, str if format is None else format.index_key)
    states = {file: state for weights in opened.values() for file, state in weights.files.items()}
    return Weights(path, source, _one_layout(path, opened), states)


def _one_layout(path: Path, shards: Mapping[str, Weights]) -> Layout:
    layouts: set[Layout] = {weights.layout for weights in shards.values()}
    if len(layouts) > 1:
        kinds = listed([f"{name} ({weights.layout})" for name, weights in shards.items()])
        problem = f"its shards are in different layouts: {kinds}"
        raise CheckpointError(f"{shown(path.name)}: {problem}. Save them in one.")
    return layouts.pop()


def _now_at(path: Path) -> Path:
    """Where a file is that a save may have moved into place since."""
    return path if path.exists() else folder_of(path) / path.name


def _state(path: Path) -> tuple[int, int]:
    """Size and time of the last change of a file; zeros if there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def renamed(weights: Weights, key_mapping: Mapping[str, str]) -> Weights:
    """The same tensors under other names: in each, the first regular expression found there is replaced.

    An empty mapping changes nothing.

    Raises:
        CheckpointError: two tensors would have one name.
    """

    def rename(name: str) -> str:
        found = (pattern for pattern in key_mapping if re.search(pattern, name))
        return next((re.sub(pattern, key_mapping[pattern], name) for pattern in found), name)

    return _renamed(weights, rename, "key_mapping") if key_mapping else weights


def _unwrapped(weights: Weights) -> Weights:
    """The same tensors under names without those of wrappers around modules."""
    if weights.layout != "torch" or not any(map(_WRAPPERS.search, weights.source.headers)):
        return weights
    return _renamed(weights, lambda name: _WRAPPERS.sub("", name), f"{weights.path.name} without wrappers")


def _renamed(weights: Weights, rename: Callable[[str], str], who: str) -> Weights:
    names = {name: rename(name) for name in weights.source.headers}
    if repeated := sorted(new for new, count in Counter(names.values()).items() if count > 1):
        raise CheckpointError(f"{who} gives several tensors the same name: {listed(repeated)}")
    rules = [Rule((name,), (new,)) for name, new in names.items()]
    return replace(weights, source=Mapped(weights.source, rules))

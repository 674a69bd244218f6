"""Where the files of a model are: a folder, a single file, or a repository of the Hugging Face Hub."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from flaxmodels.errors import CheckpointError
from flaxmodels.files import foreign
from flaxmodels.files.committed import current, folder_of, of_one_save
from flaxmodels.files.gguf import GGUFFile
from flaxmodels.files.h5 import H5File
from flaxmodels.files.msgpack import MsgpackFile
from flaxmodels.files.mxfp4 import dequantised, plain_config
from flaxmodels.files.orbax import METADATA, OrbaxFolder
from flaxmodels.files.reading import read_json
from flaxmodels.files.safetensors import SafetensorsFile
from flaxmodels.files.selection import Selection
from flaxmodels.files.shards import ShardedFiles, read_weight_map
from flaxmodels.files.training_runs import parts_of_a_run
from interop import torch_bridge
from interop.dialects import gguf, tf
from interop.errors import InteropError, listed, shown
from interop.rules import Mapped, Rule
from interop.source import Source

HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:base_model\.model|module|_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\."
)
"""What torch.compile, DataParallel, FSDP, activation checkpointing and peft put into the names of parameters."""

CONFIG_NAME = "config.json"
SAFETENSORS = "model.safetensors"
MSGPACK = "flax_model.msgpack"
FLAX_SAFETENSORS = "flax_model.safetensors"
ORBAX = "flax_model.orbax"
"""A folder."""
WEIGHT_FILES = (SAFETENSORS, FLAX_SAFETENSORS, MSGPACK, ORBAX, "pytorch_model.bin", "tf_model.h5")
"""Names of unsharded weights, in the order in which they are looked for."""
_INDEX = re.compile(r"\.index\.(.+\.)?json$")


def split_hub_kwargs(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keywords that are for the Hub, and the others."""
    hub = {name: value for name, value in kwargs.items() if name in HUB_KWARGS}
    return hub, {name: value for name, value in kwargs.items() if name not in HUB_KWARGS}


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
    layout: str
    files: Mapping[Path, tuple[int, int]] = field(default_factory=dict)

    def check_unchanged(self) -> None:
        """Raise `CheckpointError` if a file has changed or gone since it was opened."""
        changed = [path.name for path, then in self.files.items() if _state(_now_at(path)) != then]
        if changed:
            problem = f"changed while {'it was' if len(changed) == 1 else 'they were'} read"
            raise CheckpointError(f"{listed(changed)} {problem}: try again when nothing writes there")

    @classmethod
    def of_state(cls, source: Source, layout: str = "torch") -> Weights:
        """Tensors that are in memory, under the names of a state dict of torch or of a tree of Flax."""
        return _unwrapped(cls(Path("state_dict"), source, layout))


@dataclass(frozen=True)
class Location:
    """A model's files: in a local folder, or in a Hub repository; `file` is set if a single file was named."""

    root: str
    is_local: bool
    file: str | None = None
    hub: dict[str, Any] = field(default_factory=dict)

    def find(self, name: str) -> Path | None:
        """The local path of the file called `name`, downloaded if need be; `None` if the model has no such file."""
        if not self.root:
            return None
        if self.is_local:
            return current(Path(self.root), name)
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(self.root, name, **self.hub))
        except LocalEntryNotFoundError as error:
            if self._is_cached():
                return None
            raise CheckpointError(
                f"{self.root!r} is not in the local cache, and could not be downloaded: {error}"
            ) from error
        except EntryNotFoundError:
            return None
        except (HFValidationError, OSError) as error:
            raise CheckpointError(
                f"{self.root!r} is neither a local folder or file nor a model that the Hub gives: {error}"
            ) from error

    def _is_cached(self) -> bool:
        """Whether some files of the model are in the local cache of the Hub."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        which = {name: self.hub[name] for name in ("cache_dir", "revision") if name in self.hub}
        try:
            return bool(snapshot_download(self.root, local_files_only=True, **which))
        except LocalEntryNotFoundError:
            return False

    def named(self, file: str | None) -> Location:
        """The location of one file among these; itself if none is named."""
        if file is None:
            return self
        path = self.find(file)
        if path is None:
            raise CheckpointError(f"{self.root} has no {file}: check the name")
        return _at(path)

    def config(self) -> dict[str, Any]:
        """The contents of `config.json`, or what a GGUF file says in its place."""
        if self.file is not None and self.file.endswith(".gguf"):
            source = GGUFFile(Path(self.root) / self.file)
            return _as_checkpoint_error(lambda: gguf.config(source.metadata, source.headers))
        path = self.find(CONFIG_NAME)
        if path is None:
            if (adapter := self.find(foreign.ADAPTER_CONFIG)) is not None:
                foreign.check_adapter(read_json(adapter), self.root, beside=False)
            raise CheckpointError(f"{self.root} has no {CONFIG_NAME}: add it, or pass config={self._consolidated()}")
        return plain_config(read_json(path))

    def weights(
        self,
        *,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        from_pt: bool = False,
        from_flax: bool = False,
        from_tf: bool = False,
        mmap: bool = True,
    ) -> Weights:
        """The first weights there are in the order of `WEIGHT_FILES`, each sharded or not, or those of `file`.

        The arguments select among them, as the attributes of `Selection` say; `mmap` is that of `open_weights`.

        Raises:
            CheckpointError: there are none, they are not what is selected, or an adapter is beside them.
        """
        selection = Selection(variant, use_safetensors, from_pt, from_flax, from_tf)
        if self.file is not None:
            weights = open_weights(Path(self.root) / self.file, mmap=mmap)
            selection.check(self.file, weights.layout)
            return weights
        path = self._first(selection)
        if (adapter := self.find(foreign.ADAPTER_CONFIG)) is not None:
            foreign.check_adapter(read_json(adapter), self.root, beside=path is not None)
        if path is not None:
            return open_weights(path, self, mmap=mmap)
        if self.is_local and (kind := parts_of_a_run(Path(self.root))):
            raise CheckpointError(kind)
        wanted = ", ".join(filter(selection.includes, WEIGHT_FILES))
        variant = f", of variant {selection.variant!r}" if selection.variant else ""
        raise CheckpointError(
            f"{self.root} has no weights: expected {wanted}, or one of these in shards with an index{variant}"
            + self._consolidated()
        )

    def _first(self, selection: Selection) -> Path | None:
        middle = f".{selection.variant}" if selection.variant else ""
        for name in filter(selection.includes, WEIGHT_FILES):
            stem, suffix = name.rsplit(".", 1)
            for candidate in (f"{stem}{middle}.{suffix}", f"{stem}.{suffix}.index{middle}.json"):
                if path := self.find(candidate):
                    return path
        return None

    def _consolidated(self) -> str:
        """What an error says of files in the format of Meta and Mistral, if there are any."""
        found = next(filter(self.find, foreign.CONSOLIDATED), None)
        return f"; it has {found}, whose format is not read" if found else ""

    def _open_index(self, path: Path, mmap: bool) -> Weights:
        files = sorted(set(read_weight_map(path).values()))
        suffix = Path(_INDEX.sub("", path.name)).suffix
        if others := [file for file in files if not file.endswith(suffix)]:
            problem = f"names shards that are not {suffix} files: {listed(others)}"
            raise CheckpointError(f"{shown(path.name)}: {problem}. Fix its weight_map.")
        if not self.is_local:
            for name in files:
                self.find(name)
        return of_one_save(path, partial(self._open_shards, mmap=mmap))

    def _open_shards(self, path: Path, *, mmap: bool) -> Weights:
        opened: dict[str, Weights] = {}

        def opener(shard: Path) -> Source:
            opened[shard.name] = _open(shard, self, mmap)
            return opened[shard.name].source

        source = ShardedFiles(path, opener, tf.torch_name if ".h5." in path.name else str)
        states = {file: state for weights in opened.values() for file, state in weights.files.items()}
        return Weights(path, source, _one_layout(path, opened), states)


def _one_layout(path: Path, shards: Mapping[str, Weights]) -> str:
    layouts = {weights.layout for weights in shards.values()}
    if len(layouts) > 1:
        kinds = listed([f"{name} ({weights.layout})" for name, weights in shards.items()])
        problem = f"its shards are in different layouts: {kinds}"
        raise CheckpointError(f"{shown(path.name)}: {problem}. Save them in one.")
    return layouts.pop()


NOWHERE = Location("", False)
"""The location of a model that has no files."""


def resolve(name_or_path: str | Path, **hub: Any) -> Location:
    """The location of a model, from a folder, a file of weights, or a Hub id."""
    path = Path(name_or_path).expanduser()
    is_folder = path.is_dir() and not (path / METADATA).is_file()
    if not is_folder and (file := current(path.parent, path.name)):
        return _at(file)
    if is_folder:
        folder = path / (hub.get("subfolder") or "")
        ggufs = [] if current(folder, CONFIG_NAME) else list(folder.glob("*.gguf"))
        return Location(str(folder), True, ggufs[0].name if len(ggufs) == 1 else None)
    if path.is_absolute() or str(name_or_path).startswith((".", "~")):
        raise CheckpointError(f"{name_or_path} does not exist: check the path")
    return Location(str(name_or_path), False, hub=hub)


def _at(path: Path) -> Location:
    """The location of one file, or tree of Orbax, that `current` has found."""
    folder = folder_of(path)
    return Location(str(folder), True, str(path.relative_to(folder)))


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
    if kind := parts_of_a_run(path):
        raise CheckpointError(kind)
    if path.is_dir():
        files = {file: _state(file) for file in sorted(path.rglob("*")) if file.is_file()}
        return Weights(path, OrbaxFolder(path), "flax", files)
    if _INDEX.search(path.name):
        return location._open_index(path, mmap)
    files = {path: _state(path)}
    source, layout = _as_checkpoint_error(lambda: _open_file(path, mmap))
    return Weights(path, source, layout, files)


def _open_file(path: Path, mmap: bool) -> tuple[Source, str]:
    """The tensors of one file, and their layout."""
    match path.suffix:
        case ".safetensors":
            source = SafetensorsFile(path, mmap=mmap)
            is_flax = source.metadata.get("format") == "flax" or path.name.startswith("flax_model")
            return source, "flax" if is_flax else "torch"
        case ".msgpack":
            return MsgpackFile(path, mmap=mmap), "flax"
        case ".gguf":
            stored = GGUFFile(path, mmap=mmap)
            return Mapped(stored, gguf.rules(stored.metadata, stored.headers)), "torch"
        case ".h5":
            variables = H5File(path, mmap=mmap)
            return Mapped(variables, tf.rules(variables)), "torch"
        case ".bin" | ".pt" | ".pth" | ".ckpt":
            return torch_bridge.TorchPickle(path, mmap=mmap), "torch"
    expected = ".safetensors, .msgpack, .bin, .pt, .pth, .ckpt, .h5 or .gguf"
    raise CheckpointError(f"{shown(path.name)} is not a file of weights: expected {expected}")


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


def _as_checkpoint_error(action):
    try:
        return action()
    except InteropError as error:
        raise CheckpointError(str(error)) from error

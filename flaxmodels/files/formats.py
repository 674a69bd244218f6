"""The formats of weights: what their files are called, who reads and writes them, and which one is preferred.

Readers and writers are imported when they are first needed: configurations are found without any of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.files.process_group import ProcessGroup
from interop.source import Header, Source

ORBAX_METADATA = "_METADATA"
"""The file that makes a folder a tree of Orbax."""

Layout = Literal["torch", "flax"]
"""Whose names and layout the tensors of a file have: those of torch, or of Flax modules."""
View = Literal["torch", "flax", "own"]
"""Likewise of a file that is written: "flax" is as the retired classes of transformers, "own" as modules are here."""
Opener = Callable[[Path, bool], tuple[Source, Layout]]
"""Opens a file, mapped if told so: its tensors, and their layout."""


class Writer(Protocol):
    """Writes the tensors of `headers`, each as `read` gives it by name, to one file."""

    def __call__(self, path: Path, headers: Mapping[str, Header], read: Callable[[str], np.ndarray]) -> None: ...


TreeWriter = Callable[[Path, Mapping[str, Any], ProcessGroup], None]
"""Writes arrays by name as one folder, together with the other processes of a group."""


@dataclass(frozen=True)
class Format:
    """A format of weights.

    Attributes:
        name: what `save_pretrained(format=...)` and the command line call it.
        file_name: the name of an unsharded file, or of the folder of a tree; "" if files have names of their own.
        suffixes: the suffixes of its files.
        framework: the argument of `from_pretrained` that asks for it.
        open: the reader.
        index_key: what makes the name that a shard gives to a tensor of that in an index.
        write: the writer of one file; `None` if the format is only read, and for trees.
        write_tree: the writer of a tree, a folder that shards and writes itself.
        view: whose names and layout the tensors have that are written; `None` if the format is only read.
        read_config: reads the values of `config.json` from a file that holds them too.
    """

    name: str
    file_name: str
    suffixes: tuple[str, ...]
    framework: str
    open: Opener
    index_key: Callable[[str], str] = str
    write: Writer | None = None
    write_tree: TreeWriter | None = None
    view: View | None = None
    read_config: Callable[[Path], dict[str, Any]] | None = None

    @property
    def is_tree(self) -> bool:
        """Whether it is one folder, a tree of Orbax, and no file."""
        return self.write_tree is not None

    @property
    def is_safetensors(self) -> bool:
        """Whether its files are of safetensors, in whatever layout."""
        return self.suffixes == (".safetensors",)

    def stem_and_suffix(self, variant: str | None) -> tuple[str, str]:
        """What comes before and after the number of a shard: "model.fp16" and ".safetensors" of variant "fp16"."""
        stem, suffix = self.file_name.rsplit(".", 1)
        return f"{stem}.{variant}" if variant else stem, f".{suffix}"

    def file_names(self, variant: str | None = None) -> tuple[str, str]:
        """What the unsharded file and the index of shards are called for a variant."""
        middle = f".{variant}" if variant else ""
        return "".join(self.stem_and_suffix(variant)), f"{self.file_name}.index{middle}.json"


def _open_safetensors(path: Path, mmap: bool) -> tuple[Source, Layout]:
    from flaxmodels.files.safetensors import SafetensorsFile

    source = SafetensorsFile(path, mmap=mmap)
    is_flax = source.metadata.get("format") == "flax" or path.name.startswith("flax_model")
    return source, "flax" if is_flax else "torch"


def _open_msgpack(path: Path, mmap: bool) -> tuple[Source, Layout]:
    from flaxmodels.files.msgpack import MsgpackFile

    return MsgpackFile(path, mmap=mmap), "flax"


def _open_orbax(path: Path, mmap: bool) -> tuple[Source, Layout]:
    from flaxmodels.files.orbax import OrbaxFolder

    return OrbaxFolder(path), "flax"


def _open_torch_pickle(path: Path, mmap: bool) -> tuple[Source, Layout]:
    from interop.torch_bridge import TorchPickle

    return TorchPickle(path, mmap=mmap), "torch"


def _open_tensorflow(path: Path, mmap: bool) -> tuple[Source, Layout]:
    from flaxmodels.files.h5 import H5File
    from interop.dialects import tf
    from interop.rules import Mapped

    variables = H5File(path, mmap=mmap)
    return Mapped(variables, tf.rules(variables)), "torch"


def _open_gguf(path: Path, mmap: bool) -> tuple[Source, Layout]:
    from flaxmodels.files.gguf import GGUFFile
    from interop.dialects import gguf
    from interop.rules import Mapped

    stored = GGUFFile(path, mmap=mmap)
    return Mapped(stored, gguf.rules(stored.metadata, stored.headers)), "torch"


def _gguf_config(path: Path) -> dict[str, Any]:
    from flaxmodels.files.gguf import GGUFFile
    from interop.dialects import gguf

    stored = GGUFFile(path)
    return gguf.config(stored.metadata, stored.headers)


def _tensorflow_key(name: str) -> str:
    from interop.dialects import tf

    return tf.torch_name(name)


def _safetensors_writer(layout: Literal["pt", "flax"]) -> Writer:
    def write(path: Path, headers: Mapping[str, Header], read: Callable[[str], np.ndarray]) -> None:
        from flaxmodels.files.safetensors import write_safetensors

        write_safetensors(path, headers, read, {"format": layout})

    return write


def _write_msgpack(path: Path, headers: Mapping[str, Header], read: Callable[[str], np.ndarray]) -> None:
    from flaxmodels.files.msgpack import write_msgpack

    write_msgpack(path, headers, read)


def _write_orbax(folder: Path, tree: Mapping[str, Any], group: ProcessGroup) -> None:
    from flaxmodels.files.orbax import write_orbax

    write_orbax(folder, tree, group)


ORBAX = Format("orbax", "flax_model.orbax", (), "from_flax", _open_orbax, write_tree=_write_orbax, view="own")
FORMATS = (
    Format(
        "torch",
        "model.safetensors",
        (".safetensors",),
        "from_pt",
        _open_safetensors,
        write=_safetensors_writer("pt"),
        view="torch",
    ),
    Format(
        "flax-safetensors",
        "flax_model.safetensors",
        (".safetensors",),
        "from_flax",
        _open_safetensors,
        write=_safetensors_writer("flax"),
        view="flax",
    ),
    Format("flax", "flax_model.msgpack", (".msgpack",), "from_flax", _open_msgpack, write=_write_msgpack, view="flax"),
    ORBAX,
    Format("torch-pickle", "pytorch_model.bin", (".bin", ".pt", ".pth", ".ckpt"), "from_pt", _open_torch_pickle),
    Format("tensorflow", "tf_model.h5", (".h5",), "from_tf", _open_tensorflow, index_key=_tensorflow_key),
    Format("gguf", "", (".gguf",), "from_gguf", _open_gguf, read_config=_gguf_config),
)
"""All formats, in the order in which a folder is searched for them."""

SUFFIXES = tuple(dict.fromkeys(suffix for format in FORMATS for suffix in format.suffixes))
"""The suffixes of all files of weights."""

WRITTEN = {format.name: format for format in FORMATS if format.view is not None}
"""The formats that can be written, by name."""


def written_format(name: str) -> Format:
    """The format of that name.

    Raises:
        FlaxModelsError: there is none that can be written.
    """
    if name not in WRITTEN:
        raise FlaxModelsError(f"format={name!r} cannot be written: expected one of {', '.join(WRITTEN)}")
    return WRITTEN[name]


_INDEX = re.compile(r"\.index\.(.+\.)?json$")


def is_index(name: str) -> bool:
    """Whether a file of that name is the index of shards."""
    return _INDEX.search(name) is not None


def suffix_of(name: str) -> str:
    """The suffix of a file of weights, or of those that an index of that name names."""
    return Path(_INDEX.sub("", name)).suffix


def format_of(name: str) -> Format | None:
    """The format of a file, or of those that an index names, by its suffix; torch's for any safetensors."""
    return next((format for format in FORMATS if suffix_of(name) in format.suffixes), None)


def is_self_contained(name: str) -> bool:
    """Whether a file of that name holds the configuration of a model and its tokenizer too, as GGUF does."""
    return any(format.read_config is not None and Path(name).suffix in format.suffixes for format in FORMATS)


def _alternatives(texts: list[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, dict.fromkeys(texts)))})"


_NAMED = [format for format in FORMATS if format.file_name]
_FILES = [format.file_name.rsplit(".", 1) for format in _NAMED if not format.is_tree]
_STEM, _SUFFIX = (_alternatives(list(parts)) for parts in zip(*_FILES, strict=True))
_TREE = re.compile(r"flax_model(?:\.(?P<of_tree>.+))?\.orbax")
_WEIGHTS = re.compile(
    rf"{_STEM}(?:\.(?P<of_file>.+?))?(?:-\d{{5}}-of-\d{{5}})?\.{_SUFFIX}"
    rf"|{_STEM}\.{_SUFFIX}\.index(?:\.(?P<of_index>.+))?\.json"
    rf"|{_TREE.pattern}"
)


def is_weight_file(name: str) -> bool:
    """Whether a file or folder of that name holds weights, or their index, as the usual tools name them."""
    return _WEIGHTS.fullmatch(name) is not None


def is_tree(name: str) -> bool:
    """Whether that is the name of a tree of Orbax, which is a folder."""
    return _TREE.fullmatch(name) is not None


def variant_of(name: str) -> str | None:
    """The variant of a file of weights: "fp16" of `model.fp16.safetensors`."""
    match = _WEIGHTS.fullmatch(name)
    return match and next(filter(None, match.groups()), None)


def search_order(variant: str | None = None) -> list[str]:
    """The names of weights and indices that a folder is searched for, in order."""
    return [name for format in _NAMED for name in format.file_names(variant)]

"""Where the files of a model are: a folder, a single file, or a repository of the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxmodels.errors import CheckpointNotFound
from flaxmodels.files.committed import current, folder_of
from flaxmodels.files.formats import ORBAX_METADATA, format_of, is_self_contained
from flaxmodels.files.reading import checkpoint_errors, read_json
from flaxmodels.files.repository import Repository
from flaxmodels.files.unsupported import ADAPTER_CONFIG, CONSOLIDATED, check_adapter, without_dequantised

CONFIG_NAME = "config.json"


@dataclass(frozen=True)
class Location:
    """A model's files: in a local folder, or in a Hub repository.

    Attributes:
        root: the folder, or the id of the repository; "" if the model has no files.
        is_local: whether `root` is a folder.
        file: the name in `root` of a single file, or of a tree of Orbax, if one was named.
        repository: that of the Hub, unless `root` is a folder.
    """

    root: str
    is_local: bool
    file: str | None = None
    repository: Repository | None = None

    def find(self, name: str) -> Path | None:
        """The local path of the file called `name`, downloaded if need be; `None` if the model has no such file.

        Raises:
            CheckpointError: the name is that of something else than a file or a tree; or what `Repository.find` raises.
        """
        if not self.root:
            return None
        return current(Path(self.root), name) if self.repository is None else self.repository.find(name)

    def lacks(self, what: str) -> str:
        """What an error says of files that were not found."""
        if self.repository is None:
            return f"{self.root} has no {what}"
        unreachable, where = self.repository.unreachable, self.repository.path("").rstrip("/")
        in_folder = f" in its folder {where}" if where else ""
        in_cache = f" in the local cache, and the Hub cannot be asked ({unreachable})" if unreachable else ""
        return f"{self.root} has no {what}{in_folder}{in_cache}"

    def named(self, file: str | None) -> Location:
        """The location of one file among these; itself if none is named.

        Raises:
            CheckpointNotFound: there is no such file.
        """
        if file is None:
            return self
        path = self.find(file)
        if path is None:
            raise CheckpointNotFound(f"{self.lacks(file)}: check the name")
        return _at(path)

    def config(self) -> dict[str, Any]:
        """The values of `config.json`, or what a file of weights says in its place.

        Raises:
            CheckpointNotFound: there is neither.
            CheckpointError: the folder is that of an adapter.
        """
        format = None if self.file is None else format_of(self.file)
        if self.file is not None and format is not None and format.read_config is not None:
            with checkpoint_errors():
                return format.read_config(Path(self.root) / self.file)
        path = self.find(CONFIG_NAME)
        if path is None:
            self.check_adapter(has_weights=False)
            raise CheckpointNotFound(f"{self.lacks(CONFIG_NAME)}: add it, or pass config={self.consolidated()}")
        return without_dequantised(read_json(path))

    def check_adapter(self, *, has_weights: bool) -> None:
        """Refuse the folder of an adapter.

        Raises:
            CheckpointError: it is one.
        """
        if (adapter := self.find(ADAPTER_CONFIG)) is not None:
            check_adapter(read_json(adapter), self.root, beside=has_weights)

    def consolidated(self) -> str:
        """What an error says of files in the format of Meta and Mistral, if there are any."""
        found = next(filter(self.find, CONSOLIDATED), None)
        return f"; it has {found}, whose format is not read" if found else ""


NOWHERE = Location("", False)
"""The location of a model that has no files."""


def resolve(name_or_path: str | Path, **hub: Any) -> Location:
    """The location of a model, from a folder, a file of weights, or a Hub id.

    Raises:
        CheckpointNotFound: what is certainly a path leads to nothing.
    """
    path = Path(name_or_path).expanduser()
    is_folder = path.is_dir() and not (path / ORBAX_METADATA).is_file()
    if not is_folder and (file := current(path.parent, path.name)):
        return _at(file)
    if is_folder:
        folder = path / (hub.get("subfolder") or "")
        names = [] if current(folder, CONFIG_NAME) else [path.name for path in folder.glob("*")]
        whole = list(filter(is_self_contained, names))
        return Location(str(folder), True, whole[0] if len(whole) == 1 else None)
    if path.is_absolute() or str(name_or_path).startswith((".", "~")):
        raise CheckpointNotFound(f"{name_or_path} does not exist: check the path")
    return Location(str(name_or_path), False, repository=Repository(str(name_or_path), hub))


def _at(path: Path) -> Location:
    """The location of one file, or tree of Orbax, that `current` has found."""
    folder = folder_of(path)
    return Location(str(folder), True, str(path.relative_to(folder)))

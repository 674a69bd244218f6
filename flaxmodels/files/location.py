"""Where the files of a model are: a folder, a single file, or a repository of the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flaxmodels.errors import CheckpointError
from flaxmodels.files.committed import current, folder_of
from flaxmodels.files.formats import ORBAX_METADATA, format_of, is_self_contained
from flaxmodels.files.reading import checkpoint_errors, read_json
from flaxmodels.files.unsupported import ADAPTER_CONFIG, CONSOLIDATED, check_adapter, without_dequantised

CONFIG_NAME = "config.json"
HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def split_hub_kwargs(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keywords that are for the Hub, and the others."""
    hub = {name: value for name, value in kwargs.items() if name in HUB_KWARGS}
    return hub, {name: value for name, value in kwargs.items() if name not in HUB_KWARGS}


@dataclass(frozen=True)
class Location:
    """A model's files: in a local folder, or in a Hub repository.

    Attributes:
        root: the folder, or the id of the repository; "" if the model has no files.
        is_local: whether `root` is a folder.
        file: the name in `root` of a single file, or of a tree of Orbax, if one was named.
        hub: the keywords for the Hub.
    """

    root: str
    is_local: bool
    file: str | None = None
    hub: dict[str, Any] = field(default_factory=dict)

    def find(self, name: str) -> Path | None:
        """The local path of the file called `name`, downloaded if need be; `None` if the model has no such file.

        Raises:
            CheckpointError: the repository does not exist or cannot be reached, or the name is that of something else
                than a file or a tree.
        """
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
        """The location of one file among these; itself if none is named.

        Raises:
            CheckpointError: there is no such file.
        """
        if file is None:
            return self
        path = self.find(file)
        if path is None:
            raise CheckpointError(f"{self.root} has no {file}: check the name")
        return _at(path)

    def config(self) -> dict[str, Any]:
        """The values of `config.json`, or what a file of weights says in its place.

        Raises:
            CheckpointError: there is neither, or the folder is that of an adapter.
        """
        format = None if self.file is None else format_of(self.file)
        if self.file is not None and format is not None and format.read_config is not None:
            with checkpoint_errors():
                return format.read_config(Path(self.root) / self.file)
        path = self.find(CONFIG_NAME)
        if path is None:
            self.check_adapter(has_weights=False)
            raise CheckpointError(f"{self.root} has no {CONFIG_NAME}: add it, or pass config={self.consolidated()}")
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
        CheckpointError: what is certainly a path leads to nothing.
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
        raise CheckpointError(f"{name_or_path} does not exist: check the path")
    return Location(str(name_or_path), False, hub=hub)


def _at(path: Path) -> Location:
    """The location of one file, or tree of Orbax, that `current` has found."""
    folder = folder_of(path)
    return Location(str(folder), True, str(path.relative_to(folder)))

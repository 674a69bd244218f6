"""Files of a repository of the Hugging Face Hub, in the local cache of `huggingface_hub` and downloaded into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flaxmodels import __version__
from flaxmodels.errors import CheckpointNotFound, FlaxModelsError, HubError
from flaxmodels.files.formats import ORBAX_METADATA, is_tree

HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
"""Keywords of the loading methods that say which files of the Hub are meant, and how they come."""
LOGIN = "log in with `hf auth login`, or pass token="


def split_hub_kwargs(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keywords that are for the Hub, and the others. `use_auth_token` is an older name of `token`.

    Raises:
        FlaxModelsError: both names of the token are given, and differ.
    """
    hub = {name: value for name, value in kwargs.items() if name in HUB_KWARGS}
    others = {name: value for name, value in kwargs.items() if name not in HUB_KWARGS}
    if "use_auth_token" in others:
        hub["token"] = one_token(hub.get("token"), others.pop("use_auth_token"))
    return hub, others


def one_token(token: Any, use_auth_token: Any) -> Any:
    """The token, of which `use_auth_token` is an older name.

    Raises:
        FlaxModelsError: both are given, and differ.
    """
    if None not in (token, use_auth_token) and token != use_auth_token:
        raise FlaxModelsError("use_auth_token is an older name of token, and both are given: leave it out")
    return use_auth_token if token is None else token


@dataclass
class Repository:
    """A repository at one commit: that which the revision names when the first file is asked for.

    What has been found, or found to be absent, is not asked for again: a cached model takes one request.

    Attributes:
        repo_id: "organization/name".
        options: the keywords of `hf_hub_download`: those of `HUB_KWARGS`.
        commit: the hash of the commit; `None` until a file has been asked for.
        unreachable: why files that are not in the cache could not be asked for; "" if none was missed.
    """

    repo_id: str
    options: dict[str, Any] = field(default_factory=dict)
    commit: str | None = None
    unreachable: str = ""
    _found: dict[str, Path | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if subfolder := self.options.get("subfolder"):
            self.options = self.options | {"subfolder": str(subfolder).strip("/")}

    def find(self, name: str) -> Path | None:
        """The path in the cache of a file, or of a tree of Orbax, downloaded if need be; `None` if there is none.

        Raises:
            CheckpointNotFound: there is no such repository or revision, or it is not in the cache and the Hub cannot
                be asked.
            HubError: the user may not see it, or the download fails.
        """
        if name not in self._found:
            self._found[name] = self._find_tree(name) if is_tree(name) else self._find_file(name)
        return self._found[name]

    def path(self, name: str) -> str:
        """The path in the repository of a file, which is in the subfolder if there is one."""
        subfolder = self.options.get("subfolder")
        return f"{subfolder}/{name}" if subfolder else name

    def _find_tree(self, name: str) -> Path | None:
        metadata = self.find(f"{name}/{ORBAX_METADATA}")
        if metadata is None:
            return None
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        options = {key: value for key, value in self._options().items() if key != "subfolder"}
        try:
            with self._errors():
                snapshot_download(self.repo_id, allow_patterns=f"{self.path(name)}/*", **options)
        except LocalEntryNotFoundError as error:
            return self._not_cached(error)
        return metadata.parent

    def _find_file(self, name: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.constants import HUGGINGFACE_HEADER_X_REPO_COMMIT
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        if self._is_known_to_lack(name):
            return None
        try:
            with self._errors():
                path = Path(hf_hub_download(self.repo_id, name, **self._options()))
        except LocalEntryNotFoundError as error:
            return self._not_cached(error)
        except EntryNotFoundError as error:
            headers = getattr(getattr(error, "response", None), "headers", {})
            self.commit = self.commit or headers.get(HUGGINGFACE_HEADER_X_REPO_COMMIT)
            return None
        self.commit = self.commit or path.parents[len(Path(self.path(name)).parts) - 1].name
        return path

    def _options(self) -> dict[str, Any]:
        pinned = {"revision": self.commit} if self.commit else {}
        offline = {"local_files_only": True} if self.unreachable else {}
        about = {"library_name": "flaxmodels", "library_version": __version__}
        return self.options | pinned | offline | about

    def _is_known_to_lack(self, name: str) -> bool:
        """Whether the cache says that the commit has no such file."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        if self.commit is None:
            return False
        where = self.path(name), self.options.get("cache_dir"), self.commit
        return try_to_load_from_cache(self.repo_id, *where) is _CACHED_NO_EXIST

    def _not_cached(self, error: Exception) -> None:
        """Note that a file may exist, but could not be asked for.

        Raises:
            CheckpointNotFound: no file of the repository is in the cache.
        """
        cause = error.__cause__
        self.unreachable = _in_one_line(cause) if cause else "local_files_only=True"
        if self.commit is None:
            self.commit = self._cached_commit()
        if self.commit is None:
            at = f" at revision {revision!r}" if (revision := self.options.get("revision")) else ""
            raise CheckpointNotFound(
                f"{self.repo_id!r} is neither a local folder or file nor in the local cache{at}, and was not "
                f"downloaded: {self.unreachable}. Load it once where the Hub can be reached."
            ) from error

    def _cached_commit(self) -> str | None:
        """The commit that the revision named when it was last asked for, if some of its files are in the cache."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        which = {name: self.options[name] for name in ("cache_dir", "revision") if name in self.options}
        try:
            return Path(snapshot_download(self.repo_id, local_files_only=True, ignore_patterns="*", **which)).name
        except LocalEntryNotFoundError:
            return None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what `huggingface_hub` raises as errors of this library, but for files that are absent."""
        from huggingface_hub import errors

        try:
            yield
        except errors.EntryNotFoundError:
            raise
        except errors.GatedRepoError as error:
            raise HubError(f"{self.repo_id!r} is gated: ask for access on its page of the Hub, then {LOGIN}") from error
        except errors.RepositoryNotFoundError as error:
            raise CheckpointNotFound(
                f"{self.repo_id!r} is neither a local folder or file nor a repository that the Hub shows: check the "
                f"name; if it is private, {LOGIN}"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise CheckpointNotFound(
                f"{self.repo_id!r} has no revision {self.options.get('revision')!r}: name a branch, a tag, the hash of "
                "a commit, or refs/pr/ and the number of a pull request"
            ) from error
        except errors.HFValidationError as error:
            raise CheckpointNotFound(
                f"{self.repo_id!r} is neither a local folder or file nor the id of a repository of the Hub: "
                f"{_in_one_line(error)}"
            ) from error
        except Exception as error:
            reason = _in_one_line(error)
            raise HubError(f"{self.repo_id!r} could not be loaded from the Hub: {reason}") from error


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).removesuffix(".") or type(error).__name__

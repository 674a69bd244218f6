"""From a folder to a repository of the Hugging Face Hub, in one commit."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flaxmodels import __version__
from flaxmodels.errors import FlaxModelsError, HubError
from flaxmodels.files.formats import is_tree, is_weight_file, variant_of
from flaxmodels.files.repository import LOGIN
from flaxmodels.files.saved_files import recorded_files, superseded_among
from flaxmodels.hub.request import PushRequest

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

logger = logging.getLogger("flaxmodels")

README = "README.md"
_CONFIG = "config.json"


def create_repository(request: PushRequest) -> PushRequest:
    """Make the repository unless it exists; the request with its full name.

    Raises:
        HubError: the Hub refuses, or cannot be reached.
    """
    with _errors(request.repo_id):
        url = _api(request).create_repo(request.repo_id, private=request.private, exist_ok=True)
        return replace(request, repo_id=url.repo_id)


def push_files(
    folder: Path, names: Iterable[str], request: PushRequest, card: Callable[[str | None, Iterable[str]], str | None]
) -> CommitInfo:
    """Commit files of a folder to a repository that exists: all at once or not at all.

    Of the weights of the same variant that are in the repository, those are deleted in the same commit that an earlier
    push has written, and those that would be loaded in place of the new ones, as a save into a folder does. The commit
    is refused if another one has come in between.

    Args:
        folder: the folder.
        names: paths of the files in it, joined by "/".
        request: where to, and how.
        card: makes the new text of the model card, or `None`, of the one that is there and the names of all files that
            the repository will have.

    Raises:
        HubError: the Hub refuses, or cannot be reached.
        FlaxModelsError: the model card that is there cannot be read.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    names = sorted(names)
    with _errors(request.repo_id):
        branch = _Branch.of(request)
        deleted = branch.superseded_by(names)
        kept = {path for path in branch.sizes if not _is_among(path, deleted)}
        text = card(branch.text(README), kept | set(names))
        files: dict[str, Path | bytes] = {name: folder / name for name in names}
        files |= {} if text is None else {README: text.encode()}
        commit = branch.api.create_commit(
            request.repo_id,
            [
                *(CommitOperationDelete(path) for path in deleted),
                *(CommitOperationAdd(name, content) for name, content in files.items()),
            ],
            commit_message=request.commit_message,
            commit_description=request.commit_description,
            revision=request.revision,
            create_pr=request.create_pr,
            parent_commit=branch.commit,
        )
    for path in deleted:
        logger.warning("%s: deleted %s, which holds weights from before this push", request.repo_id, path)
    return commit


@dataclass(frozen=True)
class _Branch:
    """A branch of a repository as it is before a push.

    Attributes:
        api: the client.
        request: the push.
        commit: the hash of its last commit.
        sizes: bytes of its files by path.
    """

    api: HfApi
    request: PushRequest
    commit: str | None
    sizes: Mapping[str, int | None]

    @classmethod
    def of(cls, request: PushRequest) -> _Branch:
        """The branch of a request, made if it is absent."""
        api = _api(request)
        if request.revision is not None and not request.revision.startswith("refs/pr/"):
            _make_branch(api, request)
        info = api.model_info(request.repo_id, revision=request.revision, files_metadata=True)
        return cls(api, request, info.sha, {file.rfilename: file.size for file in info.siblings or ()})

    @cached_property
    def _entries(self) -> dict[str, int]:
        """Bytes of the files and folders at its root."""
        found: dict[str, int] = {}
        for path, size in self.sizes.items():
            root = path.split("/")[0]
            found[root] = found.get(root, 0) + (size or 0)
        return found

    def text(self, name: str) -> str | None:
        """The contents of a text file; `None` if there is none."""
        if name not in self.sizes:
            return None
        with tempfile.TemporaryDirectory() as cache:
            path = self.api.hf_hub_download(self.request.repo_id, name, revision=self.commit, cache_dir=cache)
            return read_text(Path(path))

    def superseded_by(self, names: Iterable[str]) -> list[str]:
        """The paths that are deleted when files of these names are pushed; those of folders end in a slash."""
        roots = {name.split("/")[0] for name in names}
        written = [root for root in roots if is_weight_file(root)]
        if not written:
            return []
        variant = variant_of(written[0])
        before = [name for name in self._entries if is_weight_file(name) and variant_of(name) == variant]
        found = superseded_among(before, self._saved_files(before), written, variant)
        stale = {path for path in self.sizes if is_tree(root := path.split("/")[0]) and root in roots} - set(names)
        return [f"{name}/" if is_tree(name) else name for name in found.removed] + sorted(stale)

    def _saved_files(self, before: Iterable[str]) -> dict[str, int]:
        """Names and sizes of the weights that an earlier push has written and nobody has changed since."""
        if not before or (text := self.text(_CONFIG)) is None:
            return {}
        try:
            config = json.loads(text)
        except ValueError:
            return {}
        return recorded_files(config if isinstance(config, dict) else {}, self._entries.get)


def _make_branch(api: HfApi, request: PushRequest) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    assert request.revision is not None
    try:
        api.create_branch(request.repo_id, branch=request.revision, exist_ok=True)
    except HfHubHTTPError as error:
        # Whoever may open pull requests only needs no permission to make branches.
        if not (request.create_pr and error.response.status_code == 403):
            raise


def _api(request: PushRequest) -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(token=request.token, library_name="flaxmodels", library_version=__version__)


def _is_among(path: str, deleted: Iterable[str]) -> bool:
    return any(path == each or (each.endswith("/") and path.startswith(each)) for each in deleted)


def read_text(path: Path) -> str | None:
    """The contents of a text file with the line ends that it has; `None` if there is none."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8-sig", newline="") as file:
        return file.read()


@contextmanager
def _errors(repo_id: str) -> Iterator[None]:
    """Raise what `huggingface_hub` raises as errors of this library.

    It raises errors of its own, of the HTTP library that it uses, and builtin ones.
    """
    try:
        yield
    except FlaxModelsError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        reason = " ".join(str(cause).split()).removesuffix(".") or type(cause).__name__
        raise HubError(
            f"could not push to {repo_id!r}: {reason}. The repository holds what it held before, or all of the new "
            f"files. {_remedy(cause)}"
        ) from error


def _remedy(error: BaseException) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"For a repository that you may write to, {LOGIN} with permission to write."
    if status == 412:
        return "Another commit has come in between: push again."
    return "Push again: what has been uploaded already is not uploaded twice."

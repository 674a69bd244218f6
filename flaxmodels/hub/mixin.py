"""The mixins that give a class `push_to_hub`: one for whatever has `save_pretrained`, and one for models."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from flaxmodels.files.commit import replace_text
from flaxmodels.hub.card import card_text, completed_card, metadata_of
from flaxmodels.hub.push import README, create_repository, push_files, read_text
from flaxmodels.hub.request import PushRequest

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


class PushToHubMixin:
    """Pushes what `save_pretrained` writes to a repository of the Hugging Face Hub.

    Attributes:
        pushed_as: what a commit is said to upload.
    """

    pushed_as: ClassVar[str] = "files"

    if TYPE_CHECKING:

        def save_pretrained(self, *args: Any, **kwargs: Any) -> Any: ...

    def push_to_hub(
        self,
        repo_id: str,
        use_temp_dir: bool | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        *,
        token: bool | str | None = None,
        max_shard_size: int | str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        revision: str | None = None,
        commit_description: str | None = None,
        tags: Iterable[str] | str | None = None,
        variant: str | None = None,
        use_auth_token: bool | str | None = None,
        organization: str | None = None,
        ignore_metadata_errors: bool = False,
        **base_model_card_args: Any,
    ) -> CommitInfo | None:
        """Save into a folder and upload what was written, in one commit: the repository has all of it or none.

        Weights of the same variant that are in the repository are deleted in that commit if an earlier push has written
        them, or if they would be loaded in place of the new ones; its history keeps them. The text of a model card that
        is there is kept, and its metadata completed.

        Args:
            repo_id: "organization/name", or a name in your own namespace. The repository is made if absent.
            use_temp_dir: save into a temporary folder; if false, into one named like the repository in the working
                directory. By default true unless there is such a folder, or several processes run under
                `jax.distributed`: those need one that all of them see.
            commit_message: the first line of the message of the commit; "Upload model", "Upload config" or "Upload
                tokenizer" by default.
            private: whether a repository that is made is private; by default as its owner's settings say.
            token: a token with permission to write; by default that of `hf auth login`.
            max_shard_size, safe_serialization, variant: as in `save_pretrained`, of models alone.
            create_pr: open a pull request instead of committing to the branch.
            revision: the branch, made if absent; the main one by default.
            commit_description: the rest of the message of the commit.
            tags: added to those of the model card.
            use_auth_token: older name of `token`.
            organization: that of a `repo_id` that does not name one.
            ignore_metadata_errors: drop results of evaluations in the metadata of the model card that cannot be read,
                instead of raising.
            base_model_card_args: arguments of `create_model_card`, and further ones of `save_pretrained`.

        Returns:
            Where the commit is: a string with the attributes `oid`, `pr_url` and others. `None` in processes under
            `jax.distributed` but the first one, which pushes for all.

        Raises:
            HubError: the Hub refuses or cannot be reached. The repository holds what it held before, or all of the new
                files.
            FlaxModelsError: arguments that exclude each other, or what `save_pretrained` raises.
            TypeError: an argument that neither this nor `save_pretrained` has.
        """
        parameters = inspect.signature(self.save_pretrained).parameters
        of_models = {"max_shard_size": max_shard_size, "safe_serialization": safe_serialization, "variant": variant}
        for_saving = {name: value for name, value in of_models.items() if name in parameters and value is not None}
        for_saving |= {name: value for name, value in base_model_card_args.items() if name in parameters}
        options = {name: value for name, value in base_model_card_args.items() if name not in parameters}
        options |= {
            "repo_id": repo_id,
            "commit_message": commit_message,
            "private": private,
            "token": token,
            "create_pr": create_pr,
            "revision": revision,
            "commit_description": commit_description,
            "tags": tags,
            "use_auth_token": use_auth_token,
            "organization": organization,
            "ignore_metadata_errors": ignore_metadata_errors,
        }
        with _folder_for(repo_id, use_temp_dir) as folder, self.pushing(folder, True, options) as commits:
            self.save_pretrained(folder, **for_saving)
        return commits[0] if commits else None

    @contextmanager
    def pushing(self, folder: Path, push_to_hub: bool, options: Mapping[str, Any]) -> Iterator[Sequence[CommitInfo]]:
        """Push what the block writes into `folder`, if asked to: for the `save_pretrained` of a class.

        The repository is made before, so that a token that may not write is noticed before a long save. Of several
        processes, the first one pushes for all.

        Args:
            folder: the folder, after which the repository is named if `options` do not name it.
            push_to_hub: whether to push; `options` are checked in any case.
            options: arguments of `push_to_hub`.

        Yields:
            The commit, when the block has ended and this process has pushed.

        Raises:
            HubError, FlaxModelsError, TypeError: as `push_to_hub`.
        """
        request = PushRequest.of(folder.absolute().name, f"Upload {self.pushed_as}", options)
        commits: list[CommitInfo] = []
        is_alone, is_first = _processes()
        if push_to_hub and is_alone:
            request = create_repository(request)
        before = _entries(folder) if push_to_hub else {}
        yield commits
        if push_to_hub and is_first:
            request = request if is_alone else create_repository(request)
            commits.append(push_files(folder, _changed(folder, before), request, partial(self._card, request, folder)))

    def _card(self, request: PushRequest, folder: Path, existing: str | None, files: Iterable[str]) -> str | None:
        """The new text of the model card, of which `existing` is in the repository; `None` to leave that as it is."""
        if not (request.tags or request.card):
            return None
        return completed_card(
            existing,
            f"\n# {request.repo_id.split('/')[-1]}\n",
            {"library_name": "flaxmodels"},
            metadata_of(request.card),
            request.tags,
            ignore_metadata_errors=request.ignore_metadata_errors,
        )


class ModelCardMixin(PushToHubMixin):
    """Pushes a model, with a card that says what its files say.

    Attributes:
        model_tags: tags of the card.
        loaded_from: the repository of the Hub that the model was loaded from, if it was.
    """

    pushed_as = "model"
    model_tags: tuple[str, ...] = ()
    loaded_from: str | None = None

    def add_model_tags(self, tags: Iterable[str] | str) -> None:
        """Add tags to those that the model card gets when the model is pushed; none is removed."""
        added = [tags] if isinstance(tags, str) else tags
        self.model_tags = tuple(dict.fromkeys([*self.model_tags, *added]))

    def create_model_card(
        self,
        output_dir: str | os.PathLike[str],
        model_name: str | None = None,
        language: str | None = None,
        license: str | None = None,
        tags: Iterable[str] | str | None = None,
        finetuned_from: str | None = None,
        tasks: Sequence[str] | str | None = None,
        dataset_tags: Sequence[str] | str | None = None,
        dataset: Sequence[str] | str | None = None,
        dataset_args: Sequence[str] | str | None = None,
    ) -> None:
        """Write `README.md` into the folder of a saved model: what its files say, and how it is loaded.

        If there is a card, its text is kept, and its metadata completed.

        Args:
            output_dir: the folder, made if absent.
            model_name: the title, and what `from_pretrained` takes in the example; by default the name of the folder.
            language: a code of ISO 639, such as "en".
            license: an identifier as the Hub has them, such as "apache-2.0".
            tags: added to those that the card and the model have.
            finetuned_from: id of the model that this one was made of; by default the repository that it was loaded
                from.
            tasks: what the model does, such as "text-classification".
            dataset_tags: ids of the data sets that it was trained with.
            dataset, dataset_args: their names in prose, and which parts of them.

        Raises:
            CheckpointError: the disk is full, or the folder is not writable.
            FlaxModelsError: the metadata of the card that is there cannot be read.
        """
        folder = Path(output_dir)
        name = model_name or folder.absolute().name
        card = {
            "language": language,
            "license": license,
            "finetuned_from": finetuned_from,
            "tasks": tasks,
            "dataset_tags": dataset_tags,
            "dataset": dataset,
            "dataset_args": dataset_args,
        }
        request = PushRequest.of(name, "", card | {"tags": tags})
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        if text := self._card(request, folder, None, files):
            replace_text(folder, README, text)

    def _card(self, request: PushRequest, folder: Path, existing: str | None, files: Iterable[str]) -> str | None:
        base_model = self.loaded_from if self.loaded_from != request.repo_id else None
        given = metadata_of(request.card)
        name = request.card.get("model_name", request.repo_id.split("/")[-1])
        base = given.get("base_model", base_model)
        local = read_text(folder / README) if existing is None else None
        found = existing or local
        text = "" if found else card_text(name, request.repo_id, type(self), folder, files, base, request.card)
        completed = completed_card(
            found,
            text,
            {"library_name": "flaxmodels", "base_model": base_model},
            given,
            [*([] if found else ["flax", "jax"]), *self.model_tags, *request.tags],
            ignore_metadata_errors=request.ignore_metadata_errors,
        )
        return completed or local


def _processes() -> tuple[bool, bool]:
    """Whether this process is the only one, and whether it is the first. Starts no backend if it is the only one."""
    import jax

    if not jax.distributed.is_initialized():
        return True, True
    return jax.process_count() == 1, jax.process_index() == 0


@contextmanager
def _folder_for(repo_id: str, use_temp_dir: bool | None) -> Iterator[Path]:
    """Where to save what is pushed."""
    folder = Path(repo_id.split("/")[-1])
    if use_temp_dir is None:
        is_alone, _ = _processes()
        use_temp_dir = is_alone and not folder.is_dir()
    if not use_temp_dir:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def _entries(folder: Path) -> dict[str, tuple[int, int, int]]:
    """The names in a folder that are not hidden, and what differs when they are written again."""
    if not folder.is_dir():
        return {}
    found = {path.name: path.stat() for path in folder.iterdir() if path.exists() and path.name[0] != "."}
    return {name: (status.st_ino, status.st_mtime_ns, status.st_size) for name, status in found.items()}


def _changed(folder: Path, before: Mapping[str, Any]) -> list[str]:
    """The paths of the files that have been written since, also in folders that have been."""
    roots = [folder / name for name, state in _entries(folder).items() if before.get(name) != state and name != README]
    files = [path for root in roots for path in ([root] if root.is_file() else root.rglob("*")) if path.is_file()]
    return [path.relative_to(folder).as_posix() for path in files]

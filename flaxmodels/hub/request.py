"""What a caller says of a push: the documented arguments, under their present names and their older ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from flaxmodels.errors import FlaxModelsError
from flaxmodels.files.repository import one_token

CARD_ARGUMENTS = frozenset(
    {"model_name", "language", "license", "finetuned_from", "tasks", "dataset_tags", "dataset", "dataset_args"}
)
"""Arguments of `create_model_card`, which a push takes too."""

_RETIRED = {"repo_path_or_name": "give repo_id=", "repo_url": "give repo_id=", "use_temp_dir": "push_to_hub() takes it"}
"""Arguments of older versions of transformers, and what to do in place of them."""


@dataclass(frozen=True)
class PushRequest:
    """A push.

    Attributes:
        repo_id: "organization/name", or a name in the namespace of the token's owner.
        commit_message: the first line of the message of the commit.
        commit_description: the rest of it.
        private: whether a repository that is made is private; `None` leaves that to the organization's settings.
        token: a token; true for that of `hf auth login`, which `None` means too if there is one; false for none.
        revision: the branch, made if absent; `None` is the main one.
        create_pr: open a pull request instead of committing to the branch.
        tags: added to those of the model card.
        ignore_metadata_errors: drop what of the metadata of the card cannot be read, instead of raising.
        card: arguments of `create_model_card`.
    """

    repo_id: str
    commit_message: str
    commit_description: str | None = None
    private: bool | None = None
    token: bool | str | None = None
    revision: str | None = None
    create_pr: bool = False
    tags: tuple[str, ...] = ()
    ignore_metadata_errors: bool = False
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, repo_id: str, commit_message: str, options: Mapping[str, Any]) -> PushRequest:
        """The request that the arguments of a call make, of which those that are `None` are not given.

        Args:
            repo_id, commit_message: where `options` do not give them.
            options: any of the attributes, of `CARD_ARGUMENTS`, and `use_auth_token` and `organization`.

        Raises:
            FlaxModelsError: two names of one thing that differ, or retired arguments.
            TypeError: arguments that are none of these.
        """
        if retired := sorted(_RETIRED.keys() & options.keys()):
            lines = ", ".join(f"{name}= ({_RETIRED[name]})" for name in retired)
            raise FlaxModelsError(f"arguments that are not taken here: {lines}")
        known = {each.name for each in fields(cls)} - {"card"} | CARD_ARGUMENTS | {"use_auth_token", "organization"}
        if unknown := sorted(options.keys() - known):
            raise TypeError(f"neither saving nor pushing takes {', '.join(unknown)}: check the spelling")
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        card = {name: given.pop(name) for name in CARD_ARGUMENTS & given.keys()}
        token = one_token(given.pop("token", None), given.pop("use_auth_token", None))
        organization = given.pop("organization", None)
        given = {"repo_id": repo_id, "commit_message": commit_message, **given}
        given["repo_id"] = _in_organization(given["repo_id"], organization)
        tags = given.pop("tags", ())
        return cls(**given, token=token, tags=(tags,) if isinstance(tags, str) else tuple(tags), card=card)


def _in_organization(repo_id: str, organization: str | None) -> str:
    if organization is None or repo_id.startswith(f"{organization}/"):
        return repo_id
    if "/" in repo_id:
        raise FlaxModelsError(f"repo_id={repo_id!r} is not in organization={organization!r}: leave organization out")
    return f"{organization}/{repo_id}"

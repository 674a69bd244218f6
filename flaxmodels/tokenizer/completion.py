"""What the files of a tokenizer say, completed by what its family knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flaxmodels.tokenizer.families import Family
from flaxmodels.tokenizer.settings import is_token, token_text_of
from flaxmodels.tokenizer.special_tokens import ROLES


def complete(
    family: Family | None, stated: Mapping[str, Any], vocabulary: Iterable[str] | None, own: Sequence[str] = ()
) -> dict[str, Any]:
    """Settings in which the special tokens have their roles.

    A token that is usual in the family, and that no file states, is left out if it is not in the vocabulary: the model
    would have no embedding for it.

    Args:
        family: what is known of the tokenizer.
        stated: what files and arguments say.
        vocabulary: texts of the tokens that there are; None if they are not known yet.
        own: special tokens without a role that the family has in any case.
    """
    settings = {name: value for name, value in stated.items() if value is not None}
    extra = settings.pop("extra_special_tokens", ())
    if isinstance(extra, dict):  # roles that only this model has
        settings |= {role: token for role, token in extra.items() if role.endswith("_token")}
        extra = [token for role, token in extra.items() if not role.endswith("_token")]
    if extra:
        settings.setdefault("additional_special_tokens", list(extra))
    if family is not None:
        names = {"model_input_names": family.model_input_names, "padding_side": family.padding_side}
        settings = names | dict(family.settings) | settings | _usual_tokens(family, stated, vocabulary)
    known = list(settings.get("additional_special_tokens", ()))
    texts = {token_text_of(token) for token in known}
    if own or known:
        settings["additional_special_tokens"] = known + [token for token in own if token not in texts]
    return settings


def special_tokens_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the special tokens in settings, by role."""
    others = [name for name in settings if name.endswith("_token") and name not in ROLES]
    given = {role: settings[role] for role in [*ROLES, *others] if role in settings}
    return {role: text for role, token in given.items() if is_token(token) and (text := token_text_of(token))}


def _usual_tokens(family: Family, stated: Mapping[str, Any], vocabulary: Iterable[str] | None) -> dict[str, Any]:
    """Tokens that are usual in a family; how they are found in a text counts for those too that a file names alike."""
    known = None if vocabulary is None else set(vocabulary)
    tokens = {}
    for role, token in family.special_tokens.items():
        text = token_text_of(token)
        is_usual = role not in stated and (known is None or text in known)
        if is_usual or stated.get(role) == text:
            tokens[role] = token
    return tokens

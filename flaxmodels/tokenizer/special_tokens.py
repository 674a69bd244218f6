"""Tokens with a role, such as the one that ends a sequence, as attributes of a tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flaxmodels.errors import FlaxModelsError

if TYPE_CHECKING:
    from flaxmodels.tokenizer.vocabulary import VocabularyMixin

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The roles that every tokenizer knows."""


def token_text(name: str, token: Any) -> str:
    """The text of a token that is a str or a `tokenizers.AddedToken`.

    Raises:
        FlaxModelsError: it is neither.
    """
    text = getattr(token, "content", token)
    if not isinstance(text, str):
        raise FlaxModelsError(f"{name}: expected a str or a tokenizers.AddedToken, got {token!r}.")
    return text


class SpecialToken:
    """The text of the token with a role, or None. Setting it adds no token to the vocabulary."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, tokenizer: VocabularyMixin, owner: type) -> str | None:
        return tokenizer.special_tokens.get(self._name)

    def __set__(self, tokenizer: VocabularyMixin, token: Any) -> None:
        if token is None:
            tokenizer.special_tokens.pop(self._name, None)
        else:
            tokenizer.special_tokens[self._name] = token_text(self._name, token)


class SpecialTokenId:
    """The id of the token with a role, or None. Setting it gives the role to the token with that id."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._role = name.removesuffix("_id")

    def __get__(self, tokenizer: VocabularyMixin, owner: type) -> int | None:
        token = tokenizer.special_tokens.get(self._role)
        return None if token is None else tokenizer.convert_tokens_to_ids(token)

    def __set__(self, tokenizer: VocabularyMixin, index: int | None) -> None:
        token = None if index is None else tokenizer.convert_ids_to_tokens(index)
        if index is not None and token is None:
            raise FlaxModelsError(f"{self._role}_id: no token has the id {index}.")
        setattr(tokenizer, self._role, token)

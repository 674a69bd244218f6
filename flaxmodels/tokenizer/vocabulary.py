"""The tokens that a tokenizer knows, by text and by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.tokenizer.library import named_errors
from flaxmodels.tokenizer.special_tokens import ROLES, SpecialToken, SpecialTokenId, token_text

if TYPE_CHECKING:
    import tokenizers


class VocabularyMixin:
    """Tokens and ids, special tokens by their roles, and tokens that are added.

    Attributes:
        backend: the `tokenizers.Tokenizer` that does the work.
        special_tokens: texts of the special tokens by role, "bos_token", "eos_token", ...; a chat template can use
            these names. A model may have roles of its own, such as "image_token".
        additional_special_tokens: texts of special tokens without a role. transformers 5 calls them
            `extra_special_tokens`.
        bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token: texts of the special tokens, or
            None; they can be set.
        bos_token_id, eos_token_id, unk_token_id, sep_token_id, pad_token_id, cls_token_id, mask_token_id: their ids, or
            None; they can be set.
    """

    backend: tokenizers.Tokenizer
    special_tokens: dict[str, str]
    additional_special_tokens: list[str]

    bos_token, bos_token_id = SpecialToken(), SpecialTokenId()
    eos_token, eos_token_id = SpecialToken(), SpecialTokenId()
    unk_token, unk_token_id = SpecialToken(), SpecialTokenId()
    sep_token, sep_token_id = SpecialToken(), SpecialTokenId()
    pad_token, pad_token_id = SpecialToken(), SpecialTokenId()
    cls_token, cls_token_id = SpecialToken(), SpecialTokenId()
    mask_token, mask_token_id = SpecialToken(), SpecialTokenId()

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer:
        """The backend, by transformers' name."""
        return self.backend

    @property
    def vocab_size(self) -> int:
        """How many tokens there are without the added ones; `len` counts those too."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    def get_vocab(self) -> dict[str, int]:
        """The id of each token by its text, added tokens among them."""
        return self.backend.get_vocab(with_added_tokens=True)

    @property
    def vocab(self) -> dict[str, int]:
        """As `get_vocab`."""
        return self.get_vocab()

    def get_added_vocab(self) -> dict[str, int]:
        """The id of each added token by its text."""
        return {token.content: index for index, token in sorted(self.added_tokens_decoder.items())}

    @property
    def added_tokens_decoder(self) -> dict[int, tokenizers.AddedToken]:
        """Each added token by its id."""
        return self.backend.get_added_tokens_decoder()

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int | None: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int | None]: ...
    def convert_tokens_to_ids(self, tokens: str | list[str]) -> int | list[int | None] | None:
        """The id of a token, or of several; that of `unk_token` for one that there is not."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        index = self.backend.token_to_id(tokens)
        unknown = self.special_tokens.get("unk_token")
        return self.backend.token_to_id(unknown) if index is None and unknown is not None else index

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str | None: ...
    @overload
    def convert_ids_to_tokens(
        self, ids: Sequence[int] | np.ndarray, skip_special_tokens: bool = False
    ) -> list[str | None]: ...
    def convert_ids_to_tokens(
        self, ids: int | Sequence[int] | np.ndarray, skip_special_tokens: bool = False
    ) -> str | list[str | None] | None:
        """The token with an id, or those with several, `[q_len]`; None for an id that no token has.

        Raises:
            FlaxModelsError: an id is negative or too large for a tokenizer.
        """
        with named_errors("the tokenizer has no tokens of these ids"):
            rows: Any = ids
            if np.ndim(rows) == 0:
                return self.backend.id_to_token(int(rows))
            skipped = set(self.all_special_ids) if skip_special_tokens else ()
            return [self.backend.id_to_token(int(index)) for index in rows if int(index) not in skipped]

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """As `special_tokens`, in a dict of its own and in the order of the roles."""
        ordered = [*ROLES, *(role for role in self.special_tokens if role not in ROLES)]
        return {role: self.special_tokens[role] for role in ordered if role in self.special_tokens}

    @property
    def extra_special_tokens(self) -> list[str]:
        """`additional_special_tokens`, by the name of transformers 5."""
        return self.additional_special_tokens

    @property
    def additional_special_tokens_ids(self) -> list[int | None]:
        """Ids of the special tokens without a role."""
        return self.convert_tokens_to_ids(self.additional_special_tokens)

    extra_special_tokens_ids = additional_special_tokens_ids

    @property
    def all_special_tokens(self) -> list[str]:
        """Texts of all special tokens, each once: those with a role first."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self.additional_special_tokens]))

    @property
    def all_special_ids(self) -> list[int | None]:
        """Ids of all special tokens, in the order of `all_special_tokens`."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens are added to a text, or to two."""
        return self.backend.num_special_tokens_to_add(pair)

    def get_special_tokens_mask(
        self, token_ids_0: Sequence[int], token_ids_1: None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 for each id of a row `[q_len]` that is of a special token, 0 for each other, as data collators ask for it.

        Raises:
            FlaxModelsError: the row has no special tokens yet; `return_special_tokens_mask=True` is for texts.
        """
        if not already_has_special_tokens or token_ids_1 is not None:
            raise FlaxModelsError(
                "get_special_tokens_mask: expected one row with already_has_special_tokens=True. Call the tokenizer "
                "with return_special_tokens_mask=True on texts."
            )
        special = set(self.all_special_ids)
        return [int(int(index) in special) for index in token_ids_0]

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Adds tokens that there are not yet, with the next ids, and returns how many.

        A model takes them after `model.resize_token_embeddings(len(tokenizer))`.

        Args:
            new_tokens: a str or a `tokenizers.AddedToken`, or several.
            special_tokens: whether they are special: skipped by `decode(skip_special_tokens=True)`, and found in texts
                as they are written.

        Raises:
            FlaxModelsError: something is no token.
        """
        tokens = new_tokens if isinstance(new_tokens, (list, tuple)) else [new_tokens] if new_tokens else []
        for token in tokens:
            token_text("new_tokens", token)
        add = self.backend.add_special_tokens if special_tokens else self.backend.add_tokens
        with named_errors("the tokenizer cannot take these tokens"):
            return add(list(tokens))

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, Any],
        replace_additional_special_tokens: bool = True,
        replace_extra_special_tokens: bool | None = None,
    ) -> int:
        """Gives roles to tokens, adds those that there are not yet, and returns how many.

        Args:
            special_tokens_dict: a token by each role, such as `{"pad_token": "<pad>"}`; a list of them for
                "additional_special_tokens", which is called "extra_special_tokens" too.
            replace_additional_special_tokens: whether that list takes the place of the one there is, or is added to it.
            replace_extra_special_tokens: the same, by the name of transformers 5.

        Raises:
            FlaxModelsError: a role is unknown, or something is no token.
        """
        replaces = replace_additional_special_tokens
        replaces = replaces if replace_extra_special_tokens is None else replace_extra_special_tokens
        tokens: list[Any] = []
        for role, given in special_tokens_dict.items():
            if role in ("additional_special_tokens", "extra_special_tokens"):
                texts = [token_text(role, token) for token in given]
                known = [] if replaces and texts else self.additional_special_tokens
                self.additional_special_tokens = [*known, *(text for text in texts if text not in known)]
                tokens += given
            elif role in {*ROLES, *self.special_tokens}:
                self.special_tokens[role] = token_text(role, given)
                tokens.append(given)
            else:
                known = ", ".join([*ROLES, "additional_special_tokens"])
                raise FlaxModelsError(f"add_special_tokens: expected roles among {known}, got {role!r}.")
        return self.add_tokens(tokens, special_tokens=True)

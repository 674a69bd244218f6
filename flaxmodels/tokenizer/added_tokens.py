"""Tokens that are added to a vocabulary after it was learned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxmodels.errors import CheckpointError
from flaxmodels.files.location import Location
from flaxmodels.files.reading import read_json
from flaxmodels.tokenizer.completion import special_tokens_of
from flaxmodels.tokenizer.excerpts import excerpt
from flaxmodels.tokenizer.json_limits import MAX_ADDED_CHARS
from flaxmodels.tokenizer.library import named_errors
from flaxmodels.tokenizer.settings import added_token, token_text_of

if TYPE_CHECKING:
    import tokenizers


def tokens_added_before(location: Location, settings: Mapping[str, Any]) -> dict[int, Any]:
    """The tokens in `added_tokens.json` by id, which older versions of transformers wrote.

    Raises:
        CheckpointError: it cannot be read, or has something else than ids.
    """
    file = location.find("added_tokens.json")
    if file is None or "added_tokens_decoder" in settings:
        return {}
    found = read_json(file)
    for token, index in found.items():
        if type(index) is not int:
            raise CheckpointError(f"{file}: {excerpt(token)}: expected a token id, got {excerpt(index)}. Correct it.")
    special = {*special_tokens_of(settings).values()}
    special |= {token_text_of(token) for token in settings.get("additional_special_tokens", ())}
    return {
        index: {"content": token, "special": token in special, "normalized": token not in special}
        for token, index in found.items()
    }


def add_tokens(
    root: str | Path, backend: tokenizers.Tokenizer, settings: Mapping[str, Any], before: Mapping[int, Any] = {}
) -> None:
    """Adds the tokens that settings name and that the backend does not have, or has in another way.

    Args:
        root: where they are from, for errors.
        backend: what gets them.
        settings: what has the special tokens, and those of "added_tokens_decoder".
        before: further tokens, by the ids that they must get.

    Raises:
        CheckpointError: they are too long, or one does not get its id.
    """
    listed = {int(index): token for index, token in settings.get("added_tokens_decoder", {}).items()} | dict(before)
    special = [settings[role] for role in special_tokens_of(settings)]
    special += settings.get("additional_special_tokens", ())
    ordered = [{"special": False, **token} for _, token in sorted(listed.items())] + special
    if (chars := sum(map(len, map(token_text_of, ordered)))) > MAX_ADDED_CHARS:
        raise CheckpointError(f"{root}: added tokens have {chars:,} characters, more than {MAX_ADDED_CHARS:,}.")
    with named_errors(f"{root} makes no tokenizer", CheckpointError, "Fetch it again."):
        backend.add_tokens(_new(backend, ordered, len(listed)))
    for index, token in before.items():
        if (found := backend.token_to_id(token["content"])) != index:
            raise CheckpointError(
                f"{root}: the added token {excerpt(token['content'])} has the id {index}, and would get {found}: the "
                "vocabulary is of another size. Fetch the files again."
            )


def _new(backend: tokenizers.Tokenizer, tokens: list[Any], listed: int) -> list[tokenizers.AddedToken]:
    """Those of tokens that the backend does not have; the first ones also if it finds them in another way."""
    have = {token.content: repr(token) for token in backend.get_added_tokens_decoder().values()}
    new = {}
    for number, token in enumerate(tokens):
        added = added_token(token)
        is_known = have.get(added.content) == repr(added) if number < listed else added.content in have
        if added.content and not is_known:
            new.setdefault(added.content, added)
    return list(new.values())

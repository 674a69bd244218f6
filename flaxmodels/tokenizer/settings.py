"""`tokenizer_config.json` and `special_tokens_map.json`: what of them is used, and what it may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flaxmodels.errors import CheckpointError, FlaxModelsError
from flaxmodels.files.location import Location
from flaxmodels.files.reading import read_json
from flaxmodels.tokenizer.excerpts import excerpt, is_text
from flaxmodels.tokenizer.special_tokens import ROLES

if TYPE_CHECKING:
    import tokenizers

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
"""How an added token is found in a text."""

_Check = tuple[Callable[[Any], bool], str]


def is_token(value: Any) -> bool:
    """Whether a value is a token: a text, an object with a text as "content", or a `tokenizers.AddedToken`."""
    if isinstance(value, dict):
        return is_text(value.get("content")) and all(type(value.get(flag, False)) is bool for flag in FLAGS)
    return is_text(value) or type(value).__name__ == "AddedToken"


def _is_template(value: Any) -> bool:
    if isinstance(value, list):
        return all(
            isinstance(each, dict) and is_text(each.get("name")) and is_text(each.get("template")) for each in value
        )
    return is_text(value)


def _is_id_map(value: Any) -> bool:
    return isinstance(value, dict) and all(
        str(index).isdecimal() and isinstance(token, dict) and is_token(token) for index, token in value.items()
    )


def _is_tokens(value: Any) -> bool:
    tokens = value.values() if isinstance(value, dict) else value
    return isinstance(value, (list, tuple, dict)) and all(map(is_token, tokens))


def _is_length(value: Any) -> bool:
    return type(value) in (int, float) and 1 <= value < 1e40


_TOKEN = (is_token, 'a string, or an object with a string as "content"')
_TEMPLATE = (_is_template, 'a string, or a list of objects with a string as "name" and as "template"')
_TOKENS = (_is_tokens, 'a list of tokens: strings, or objects with a string as "content"')
_FLAG: _Check = (lambda value: type(value) is bool, "true or false")
_SIDE: _Check = (lambda value: value in ("left", "right"), '"left" or "right"')
_TEXT: _Check = (is_text, "a string")
_COUNT: _Check = (lambda value: type(value) is int and 0 <= value <= 10_000, "an integer from 0 to 10,000")

CHECKS: Mapping[str, _Check] = {
    **dict.fromkeys(ROLES, _TOKEN),
    "chat_template": _TEMPLATE,
    **dict.fromkeys(("additional_special_tokens", "extra_special_tokens"), _TOKENS),
    "added_tokens_decoder": (_is_id_map, "an object with an added token for each id"),
    "model_max_length": (_is_length, "a number of tokens"),
    **dict.fromkeys(("padding_side", "truncation_side"), _SIDE),
    "model_input_names": (
        lambda value: isinstance(value, (list, tuple)) and all(map(is_text, value)),
        "a list of strings",
    ),
    "tokenizer_class": _TEXT,
    **dict.fromkeys(("clean_up_tokenization_spaces", "split_special_tokens"), _FLAG),
    **dict.fromkeys(("do_lower_case", "strip_accents", "tokenize_chinese_chars", "keep_accents"), _FLAG),
    **dict.fromkeys(("add_prefix_space", "add_bos_token", "add_eos_token", "legacy", "trim_offsets"), _FLAG),
    **dict.fromkeys(("extra_ids", "offset"), _COUNT),
    "src_lang": _TEXT,
}
"""By name what a setting may be, if it is not null. Files may have others, which are kept as they are."""


def problems_of(settings: Mapping[str, Any]) -> Iterator[str]:
    """What in settings is not what it may be."""
    for name, (is_right, expected) in CHECKS.items():
        value = settings.get(name)
        if value is not None and not is_right(value):
            yield f"{name}: expected {expected}, got {excerpt(value)}"


def read_settings(location: Location) -> dict[str, Any]:
    """What the two files say together; the map of special tokens counts where both say something.

    Raises:
        CheckpointError: one cannot be read, or has a value of a wrong type.
    """
    return _read(location, "tokenizer_config.json") | _read(location, "special_tokens_map.json")


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Refuse arguments of `from_pretrained` that are no settings.

    Raises:
        FlaxModelsError: names each of them.
    """
    unknown = [name for name in overrides if name not in CHECKS and not name.endswith("_token")]
    problems = [f"{name}: not an argument of from_pretrained" for name in unknown] + [*problems_of(overrides)]
    if problems:
        raise FlaxModelsError("; ".join(problems) + f". Settings are {', '.join(CHECKS)}.")


def token_text_of(token: Any) -> str:
    """The text of a token."""
    return token["content"] if isinstance(token, Mapping) else getattr(token, "content", token)


def added_token(token: Any) -> tokenizers.AddedToken:
    """A special token as the backend takes it, from a text, from an object in a file, or from such a token itself."""
    from tokenizers import AddedToken

    if isinstance(token, str):
        return AddedToken(token, special=True, normalized=False)
    if isinstance(token, Mapping):
        return AddedToken(token["content"], **({"special": True} | {f: token[f] for f in FLAGS if f in token}))
    return token


def _read(location: Location, name: str) -> dict[str, Any]:
    file = location.find(name)
    settings = {} if file is None else read_json(file)
    problems = [*problems_of(settings)]
    if problems:
        raise CheckpointError(f"{file}: {'; '.join(problems)}. Correct it, or fetch it again.")
    return settings

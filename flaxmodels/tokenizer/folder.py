"""Tokenizers in folders: `tokenizer.json`, and the files beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flaxmodels.errors import CheckpointError
from flaxmodels.files.committed import current
from flaxmodels.files.reading import read_json
from flaxmodels.tokenizer.json_limits import check
from flaxmodels.tokenizer.parts import SPECIAL_TOKENS, Parts, build, excerpt, is_text


def read_folder(folder: Path) -> Parts:
    """Backend, special tokens and chat template of a folder.

    Raises:
        CheckpointError: there is no `tokenizer.json`, or one of the files cannot be read, has a value of a wrong
            type, or asks for time or memory out of proportion to its size.
    """
    file = current(folder, "tokenizer.json")
    if file is None:
        raise CheckpointError(
            f"there is no tokenizer.json in {folder}. Name a folder with one, or a .gguf file. transformers' "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...) makes one of older files."
        )
    from tokenizers import Tokenizer as Backend

    check(file, read_json(file))
    backend = build(file, lambda: Backend.from_file(str(file)))
    config = _settings(folder, "tokenizer_config.json") | _settings(folder, "special_tokens_map.json")
    # A token is a string, or a dict that says how the text is matched.
    stated = {name: config.get(name) for name in SPECIAL_TOKENS}
    texts = {name: token["content"] if isinstance(token, dict) else token for name, token in stated.items()}
    tokens = {name: text for name, text in texts.items() if text}
    return backend, tokens, _chat_template(current(folder, "chat_template.jinja"), config.get("chat_template"))


def _is_token(value: Any) -> bool:
    return value is None or is_text(value) or (isinstance(value, dict) and is_text(value.get("content")))


def _is_template(value: Any) -> bool:
    if isinstance(value, list):
        return all(
            isinstance(each, dict) and is_text(each.get("name")) and is_text(each.get("template")) for each in value
        )
    return value is None or is_text(value)


_Check = tuple[Callable[[Any], bool], str]
_CHECKS: Mapping[str, _Check] = {
    **dict.fromkeys(SPECIAL_TOKENS, (_is_token, 'a string, or an object with a string as "content"')),
    "chat_template": (_is_template, 'a string, or a list of objects with a string as "name" and as "template"'),
}
"""What is used of the files beside `tokenizer.json`, and what it may be."""


def _settings(folder: Path, name: str) -> dict[str, Any]:
    file = current(folder, name)
    settings = {} if file is None else read_json(file)
    problems = [
        f"{key}: expected {expected}, got {excerpt(settings[key])}"
        for key, (is_right, expected) in _CHECKS.items()
        if key in settings and not is_right(settings[key])
    ]
    if problems:
        raise CheckpointError(f"{file}: {'; '.join(problems)}. Correct it, or fetch it again.")
    return settings


def _chat_template(file: Path | None, stated: str | list[dict[str, str]] | None) -> str | None:
    if file is not None:
        return _text(file)
    if isinstance(stated, list):
        return {named["name"]: named["template"] for named in stated}.get("default")
    return stated


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: byte {error.start} is not UTF-8. Correct it, or fetch it again.") from error
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}. Check the path and its permissions.") from error

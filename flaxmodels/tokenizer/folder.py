"""Tokenizers in folders: `tokenizer.json` or an older vocabulary, and the files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxmodels.errors import CheckpointError, FlaxModelsError
from flaxmodels.files.location import Location
from flaxmodels.files.reading import read_json
from flaxmodels.tokenizer.added_tokens import add_tokens, tokens_added_before
from flaxmodels.tokenizer.completion import complete, special_tokens_of
from flaxmodels.tokenizer.conversion import SENTENCEPIECE_FILES, find_vocabulary, own_special_tokens, post_processor
from flaxmodels.tokenizer.conversion.byte_pairs import clip_decoder
from flaxmodels.tokenizer.conversion.post_processors import bos_eos_processor
from flaxmodels.tokenizer.families import Family, family_of
from flaxmodels.tokenizer.json_limits import check
from flaxmodels.tokenizer.library import named_errors
from flaxmodels.tokenizer.parts import Parts, build, check_backend
from flaxmodels.tokenizer.settings import read_settings
from flaxmodels.tokenizer.steps import set_steps
from flaxmodels.tokenizer.templates import TEMPLATE_FILE, by_name, read_templates

TOKENIZER_NAME = "tokenizer.json"
VOCABULARY_FILES = (TOKENIZER_NAME, "vocab.txt", "vocab.json", "merges.txt", *SENTENCEPIECE_FILES)
"""What a folder may have the tokens in."""
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", TEMPLATE_FILE)
"""What counts beside them."""


def read_folder(location: Location, overrides: Mapping[str, Any]) -> Parts:
    """Backend, special tokens, chat template and settings of a folder, or of a repository of the Hub.

    Args:
        location: the folder or the repository.
        overrides: settings that count in place of those in the files.

    Raises:
        CheckpointError: there is no vocabulary, or one of the files cannot be read, has a value of a wrong type, or
            asks for time or memory out of proportion to its size.
    """
    stated = read_settings(location) | dict(overrides)
    family = family_of(stated.get("tokenizer_class"), _model_type(location))
    file = location.find(TOKENIZER_NAME)
    from_json = None if file is None else _from_json(file, family, stated, overrides)
    parts = from_json or _from_vocabulary(location, family, stated)
    check_backend(Path(location.root), parts.backend)
    template = parts.settings.pop("chat_template", None)
    is_given = overrides.get("chat_template") is not None
    return parts._replace(chat_template=by_name(template) if is_given else read_templates(location, template))


def _from_json(file: Path, family: Family | None, stated: dict[str, Any], overrides: Mapping[str, Any]) -> Parts:
    from tokenizers import Tokenizer as Backend

    document = read_json(file)
    check(file, document)
    # What a class says counts before the file, as in transformers; that of no class says nothing.
    if set_steps(document, stated if family is not None else overrides, overrides):
        backend = build(file, lambda: Backend.from_str(json.dumps(document)))
    else:
        backend = build(file, lambda: Backend.from_file(str(file)))
    settings = complete(family, stated, backend.get_vocab())
    add_tokens(file.parent, backend, settings)
    tokens = special_tokens_of(settings)
    if family is not None and family.kind == "clip":
        backend.decoder = clip_decoder()
    if {"add_bos_token", "add_eos_token"} & overrides.keys():
        backend.post_processor = bos_eos_processor(backend, tokens, overrides)
    if overrides.get("src_lang") is not None:
        backend.post_processor = _with_language(file, backend, family, tokens, settings)
    return Parts(backend, tokens, None, settings)


def _with_language(
    file: Path, backend: Any, family: Family | None, tokens: dict[str, str], settings: dict[str, Any]
) -> Any:
    """What marks texts with another language than the file's."""
    if family is None or not family.kind.startswith("mbart"):
        raise FlaxModelsError("src_lang: only a tokenizer of mBART marks its texts with a language. Leave it out.")
    with named_errors(f"{file} makes no tokenizer", CheckpointError, "Say a language that it has."):
        return post_processor(family.kind, backend, tokens, settings)


def _from_vocabulary(location: Location, family: Family | None, stated: dict[str, Any]) -> Parts:
    file, family, convert = find_vocabulary(location, family, bool(stated.get("tokenizer_class")))
    settings = complete(family, stated, None)
    backend = convert(location, file, family, settings, special_tokens_of(settings))
    settings = complete(family, stated, backend.get_vocab(), own_special_tokens(family.kind, settings))
    tokens = special_tokens_of(settings)
    add_tokens(location.root, backend, settings, tokens_added_before(location, settings))
    with named_errors(f"{file} makes no tokenizer", CheckpointError, "Fetch or convert it again."):
        backend.post_processor = post_processor(family.kind, backend, tokens, settings)
    if family.vocabulary == "sentencepiece":
        # Classes of transformers 5 make other tokens of such a vocabulary; this one, what a saved tokenizer.json says.
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    return Parts(backend, tokens, None, settings)


def _model_type(location: Location) -> Any:
    file = location.find("config.json")
    return None if file is None else read_json(file).get("model_type")

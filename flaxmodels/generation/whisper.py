"""What Whisper (arXiv 2212.04356) does before it decodes: the tokens with which the transcript of 30 seconds begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation.config import GenerationConfig


def begin(
    settings: GenerationConfig,
    decoder_input_ids: Any,
    batch: int,
    max_positions: int,
    detect: Callable[[], np.ndarray],
) -> tuple[GenerationConfig, Any]:
    """The settings of decoding, and the first tokens of the transcript, int `[batch, some]`.

    The tokens say which language is spoken, what is to be done and whether there are timestamps; `decoder_input_ids`
    are taken in their place. `max_length` counts the tokens after them, as in transformers.

    Args:
        settings: the settings of the call, merged.
        decoder_input_ids: int `[batch, some]`, or `None`.
        batch: the number of rows.
        max_positions: the positions of the decoder.
        detect: gives the token of each row's language; it is called if nothing else says it.

    Raises:
        FlaxModelsError: a language or a task that the model does not have, or settings that lack its tables.
    """
    if settings.return_timestamps and settings.no_timestamps_token_id is None:
        raise FlaxModelsError("return_timestamps needs no_timestamps_token_id in generation_config")
    if decoder_input_ids is None:
        rows = [[start for start in row if start is not None] for row in _first_tokens(settings, batch, detect)]
        before = np.asarray([] if settings.prompt_ids is None else settings.prompt_ids, np.int32)
        decoder_input_ids = np.concatenate([np.tile(before, (batch, 1)), np.array(rows, np.int32)], axis=1)
    changes: dict[str, Any] = {"forced_decoder_ids": None}
    if settings.max_new_tokens is None and settings.max_length is not None:
        given = min(np.shape(decoder_input_ids)[1], max_positions // 2 - 1)
        changes["max_length"] = min(settings.max_length + given, max_positions)
    return settings.updated(changes), decoder_input_ids


def _first_tokens(settings: GenerationConfig, batch: int, detect: Callable[[], np.ndarray]) -> list[list[int | None]]:
    _check(settings)
    start, quiet = settings.decoder_start_token_id, settings.no_timestamps_token_id
    old = settings.task is None and settings.language is None
    first = [start, *_forced(settings)] if old else [start]
    rows: list[list[int | None]] = [list(first) for _ in range(batch)]
    languages = None
    if settings.language is not None:
        languages = _language_ids(settings, settings.language, batch)
    elif settings.lang_to_id and (len(first) == 1 or first[1] is None):
        languages = detect()
    if languages is not None:
        for row, language in zip(rows, languages, strict=True):
            row[1:2] = [int(language)]
    tasks = settings.task_to_id or {}
    for row in rows:
        if settings.task is not None:
            row.append(tasks[settings.task])
        elif settings.language is not None and "transcribe" in tasks:
            row.append(tasks["transcribe"])
        if settings.return_timestamps:
            row[:] = row[:-1] if row[-1] == quiet else row
        elif quiet is not None and row[-1] != quiet:
            row.append(quiet)
    return rows


def _check(settings: GenerationConfig) -> None:
    """Refuse a language or a task that the model does not have."""
    wanted = [name for name in ("language", "task") if getattr(settings, name) is not None]
    if settings.is_multilingual is False and wanted:
        raise FlaxModelsError(f"{wanted[0]}: the model knows English alone (is_multilingual=False); leave it out")
    for name, table in (("language", "lang_to_id"), ("task", "task_to_id")):
        if name in wanted and not getattr(settings, table):
            raise FlaxModelsError(f"{name} needs {table} in generation_config")
    if settings.task is not None and settings.task not in settings.task_to_id:
        known = ", ".join(map(repr, sorted(settings.task_to_id)))
        raise FlaxModelsError(f"task={settings.task!r}: expected one of {known}")


def _forced(settings: GenerationConfig) -> list[int | None]:
    """The tokens after the first one that old files give as `forced_decoder_ids`; `None` for one to be found."""
    pairs = [tuple(pair) for pair in settings.forced_decoder_ids or ()]
    if pairs and [position for position, _ in pairs] != list(range(1, len(pairs) + 1)):
        raise FlaxModelsError(f"forced_decoder_ids: expected the positions 1, 2, ... in order, got {pairs}")
    return [token for _, token in pairs]


def _language_ids(settings: GenerationConfig, language: str | list[str], batch: int) -> list[int]:
    languages = [language] * batch if isinstance(language, str) else list(language)
    if len(languages) != batch:
        raise FlaxModelsError(f"language: expected one string, or one for each of {batch} rows, got {len(languages)}")
    return [_language_id(settings, each) for each in languages]


def _language_id(settings: GenerationConfig, language: str) -> int:
    """The token of a language given as "english", "en" or "<|en|>"."""
    name = language.lower()
    token = name if name in settings.lang_to_id else f"<|{_CODES.get(name, name)}|>"
    if token not in settings.lang_to_id:
        known = ", ".join(key.strip("<|>") for key in settings.lang_to_id)
        raise FlaxModelsError(f"language={language!r}: the model knows {known}")
    return settings.lang_to_id[token]


_LANGUAGES = """
af afrikaans, am amharic, ar arabic, as assamese, az azerbaijani, ba bashkir, be belarusian, bg bulgarian, bn
bengali, bo tibetan, br breton, bs bosnian, ca catalan/valencian, cs czech, cy welsh, da danish, de german, el
greek, en english, es spanish/castilian, et estonian, eu basque, fa persian, fi finnish, fo faroese, fr french, gl
galician, gu gujarati, ha hausa, haw hawaiian, he hebrew, hi hindi, hr croatian, ht haitian creole/haitian, hu
hungarian, hy armenian, id indonesian, is icelandic, it italian, ja japanese, jw javanese, ka georgian, kk kazakh,
km khmer, kn kannada, ko korean, la latin, lb luxembourgish/letzeburgesch, ln lingala, lo lao, lt lithuanian, lv
latvian, mg malagasy, mi maori, mk macedonian, ml malayalam, mn mongolian, mr marathi, ms malay, mt maltese, my
myanmar/burmese, ne nepali, nl dutch/flemish, nn nynorsk, no norwegian, oc occitan, pa punjabi/panjabi, pl polish,
ps pashto/pushto, pt portuguese, ro romanian/moldavian/moldovan, ru russian, sa sanskrit, sd sindhi, si
sinhala/sinhalese, sk slovak, sl slovenian, sn shona, so somali, sq albanian, sr serbian, su sundanese, sv swedish,
sw swahili, ta tamil, te telugu, tg tajik, th thai, tk turkmen, tl tagalog, tr turkish, tt tatar, uk ukrainian, ur
urdu, uz uzbek, vi vietnamese, yi yiddish, yo yoruba, yue cantonese, zh chinese/mandarin
"""
"""Codes and English names of the languages that Whisper was trained on."""

_CODES = {
    name: code
    for code, names in (entry.split(" ", 1) for entry in " ".join(_LANGUAGES.split()).split(", "))
    for name in names.split("/")
}
"""From name to code."""

"""The tokens that each family puts before, among and after those of a model of unigrams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flaxmodels.tokenizer.conversion.languages import MBART, MBART50

NEVER = -100.0
"""Added to the score of a piece that is not to be taken."""

_Pieces = list[tuple[str, float]]
_Vocabulary = Callable[[_Pieces, int, Mapping[str, str], Mapping[str, Any]], tuple[_Pieces, int]]


def _t5(pieces: _Pieces, unk_id: int, tokens: Mapping[str, str], settings: Mapping[str, Any]) -> tuple[_Pieces, int]:
    count = settings.get("extra_ids") or 0
    return pieces + [(f"<extra_id_{index}>", 0.0) for index in reversed(range(count))], unk_id


def _albert(
    pieces: _Pieces, unk_id: int, tokens: Mapping[str, str], settings: Mapping[str, Any]
) -> tuple[_Pieces, int]:
    """Digits and a comma after them are two tokens."""
    joined = [len(text) > 1 and text[-1] == "," and text[-2].isdigit() for text, _ in pieces]
    return [(text, score + NEVER * is_joined) for (text, score), is_joined in zip(pieces, joined, strict=True)], unk_id


def _fairseq(languages: Sequence[str]) -> _Vocabulary:
    """The first four tokens are not those of the file, which has three; languages and the mask follow."""

    def vocabulary(
        pieces: _Pieces, unk_id: int, tokens: Mapping[str, str], settings: Mapping[str, Any]
    ) -> tuple[_Pieces, int]:
        first = [(tokens[f"{role}_token"], 0.0) for role in ("bos", "pad", "eos", "unk")]
        return [*first, *pieces[3:], *((code, 0.0) for code in languages), (tokens["mask_token"], 0.0)], 3

    return vocabulary


def _camembert(
    pieces: _Pieces, unk_id: int, tokens: Mapping[str, str], settings: Mapping[str, Any]
) -> tuple[_Pieces, int]:
    """Five tokens come first, three of which are not used: those that are follow in the file."""
    first = [("<s>NOTUSED", 0.0), (tokens["pad_token"], 0.0), ("</s>NOTUSED", 0.0), (tokens["unk_token"], 0.0)]
    return [*first, ("<unk>NOTUSED", NEVER), *pieces[1:], (tokens["mask_token"], 0.0)], 3


def _pegasus(
    pieces: _Pieces, unk_id: int, tokens: Mapping[str, str], settings: Mapping[str, Any]
) -> tuple[_Pieces, int]:
    """Masks, and tokens that only the pretraining used, are before those of the file."""
    offset = settings.get("offset") or 103
    first = [(tokens["pad_token"], 0.0), (tokens["eos_token"], 0.0), ("<mask_1>", 0.0), (tokens["mask_token"], 0.0)]
    return [*first, *((f"<unk_{index}>", NEVER) for index in range(2, offset)), *pieces[2:]], unk_id + offset


VOCABULARIES: Mapping[str, _Vocabulary] = {
    "t5": _t5,
    "albert": _albert,
    "xlm-roberta": _fairseq(()),
    "camembert": _camembert,
    "mbart": _fairseq(MBART),
    "mbart50": _fairseq(MBART50),
    "pegasus": _pegasus,
}
"""Tokens and scores by id, and the id of the unknown one, by kind."""


def own_special_tokens(kind: str, settings: Mapping[str, Any]) -> list[str]:
    """Special tokens without a role that a family has beside those in its files."""
    if kind == "t5":
        return [f"<extra_id_{index}>" for index in range(settings.get("extra_ids") or 0)]
    if kind == "pegasus":
        return ["<mask_1>", *(f"<unk_{index}>" for index in range(2, settings.get("offset") or 103))]
    return list({"mbart": MBART, "mbart50": MBART50}.get(kind, ()))

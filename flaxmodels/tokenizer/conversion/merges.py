"""Merges of byte pairs that a model of SentencePiece does not list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def halves(tokens: Sequence[str], scores: Sequence[float], mergeable: Iterable[int]) -> list[tuple[str, str]]:
    """Every way to halve a token as a merge, in the order of the tokens' scores.

    Args:
        tokens: all of them, by id.
        scores: of each.
        mergeable: ids of the tokens that are made of others.
    """
    known = set(tokens)
    scored = sorted(mergeable, key=lambda index: -scores[index])
    pairs = ((tokens[index][:at], tokens[index][at:]) for index in scored for at in range(1, len(tokens[index])))
    return [pair for pair in pairs if pair[0] in known and pair[1] in known]

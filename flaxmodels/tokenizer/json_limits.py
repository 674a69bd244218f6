"""What a `tokenizer.json` may ask for. The library `tokenizers` has no limits of its own, and aborts without memory."""

from __future__ import annotations

import binascii
import math
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flaxmodels.errors import CheckpointError
from flaxmodels.tokenizer.excerpts import excerpt

MAX_GROWTH = 10_000
"""How many times as long as a text its steps may make it together. Those of ALBERT, the longest of the well-known
ones, are counted as about 1,500, because each counts as if it changed every character."""

MAX_ADDED_CHARS = 1_000_000
"""Characters of all added tokens. The library takes about 100 bytes for each; Gemma's have fewer than 100,000."""

_STEPS = {"encode": ("normalizer", "pre_tokenizer", "post_processor"), "decode": ("decoder",)}
_GROWTH = {"NFC": 3, "NFD": 3, "NFKC": 11, "NFKD": 11, "BertNormalizer": 6, "Lowercase": 2, "ByteLevel": 2}
"""Bytes that a step makes of one at most: decompositions as of Unicode 16, others by their definition."""


def check(path: Path, document: Mapping[str, Any]) -> None:
    """Refuse a `tokenizer.json` whose loading or use would take more than the limits allow.

    Raises:
        CheckpointError: names every limit.
    """
    problems = [
        *(problem for use, steps in _STEPS.items() if (problem := _growth_problem(document, use, steps))),
        *_expression_problems(document),
    ]
    if (chars := _added_chars(document)) > MAX_ADDED_CHARS:
        problems.append(f"added_tokens have {chars:,} characters, more than {MAX_ADDED_CHARS:,}")
    if problems:
        raise CheckpointError(f"{path}: {'; '.join(problems)}. Use the files of a publisher that you trust.")


def _growth_problem(document: Mapping[str, Any], use: str, steps: tuple[str, ...]) -> str | None:
    growth = math.prod((_growth(step) for name in steps for step in objects(document.get(name))), start=1.0)
    return f"its steps to {use} make a text up to {growth:.0e} times as long" if growth > MAX_GROWTH else None


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in a value, however deep."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield value
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _growth(step: Mapping[str, Any]) -> float:
    """How many bytes one step makes of one, at most; 1 for those that add a few."""
    match step.get("type"):
        case "Replace":
            return _growth_of_replace(step.get("pattern"), step.get("content"))
        case "Precompiled":
            return _longest_replacement(step.get("precompiled_charsmap"))
        case "TemplateProcessing":
            templates = (step.get("single"), step.get("pair"))
            return max(sum("Sequence" in piece for piece in objects(template)) for template in templates) or 1
        case str(kind):
            return _GROWTH.get(kind, 1)
    return 1


def _growth_of_replace(pattern: Any, content: Any) -> float:
    if not isinstance(pattern, dict) or not isinstance(content, str):
        return 1
    if isinstance(text := pattern.get("String"), str) and text:
        return max(1, len(content.encode(errors="replace")) / len(text.encode(errors="replace")))
    return 1 + len(content.encode(errors="replace"))  # an expression may match between all characters


def _longest_replacement(charsmap: Any) -> float:
    """The last part of a map of SentencePiece has all replacements, with a zero after each."""
    try:
        data = b64decode(charsmap)
    except (TypeError, ValueError, binascii.Error):
        return 1
    texts = data[4 + int.from_bytes(data[:4], "little") :]
    return max(1, *map(len, texts.split(b"\0")))


def _expression_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """Normalizers run on added tokens while the file is loaded, and decoders on every token that is generated."""
    for name in ("normalizer", "decoder"):
        for step in objects(document.get(name)):
            expression = step.get("Regex")
            if isinstance(expression, str) and _may_backtrack(expression):
                yield f"{name}: the regular expression {excerpt(expression)} may take exponential time"


def _may_backtrack(expression: str) -> bool:
    """Whether a group is repeated, or two repetitions follow each other: well-known normalizers have no such thing."""
    plain = re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "x", expression, flags=re.DOTALL)
    plain = re.sub(r"\(\?(?:[:=!>]|<[=!])", "(", plain)
    repeated_group = re.search(r"\)[*+?{]", plain)
    in_turn = any(len(re.findall(r"[*+?{]", option)) > 1 for option in plain.split("|"))
    return bool(repeated_group or in_turn)


def _added_chars(document: Mapping[str, Any]) -> int:
    contents = (token.get("content") for token in objects(document.get("added_tokens")))
    return sum(len(content) for content in contents if isinstance(content, str))

"""Settings that change the steps of a `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxmodels.errors import FlaxModelsError
from flaxmodels.tokenizer.json_limits import objects

_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_VALUES = {
    "add_prefix_space": (("ByteLevel", "add_prefix_space"), ("RobertaProcessing", "add_prefix_space")),
    "trim_offsets": (("RobertaProcessing", "trim_offsets"),),
    "do_lower_case": (("BertNormalizer", "lowercase"),),
    "strip_accents": (("BertNormalizer", "strip_accents"),),
    "tokenize_chinese_chars": (("BertNormalizer", "handle_chinese_chars"),),
}
"""By setting: types of steps, and what in them it is."""
_MADE_WITH = ("keep_accents", "legacy", "extra_ids", "offset")
"""What counts only where a `tokenizer.json` is made."""


def set_steps(document: dict[str, Any], settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> bool:
    """Changes the steps of a `tokenizer.json` in place, as settings say, and returns whether any was changed.

    Raises:
        FlaxModelsError: one of `overrides` changes nothing there.
    """
    is_changed = False
    for name, places in _VALUES.items():
        value = settings.get(name)
        if value is None:
            continue
        found = [
            (step, key) for step in objects([document.get(part) for part in _PARTS]) for key in _keys(step, places)
        ]
        if name in overrides and not found:
            raise FlaxModelsError(f"{name}: the tokenizer.json has no step that it changes. Leave it out.")
        is_changed |= any(step.get(key) != value for step, key in found)
        for step, key in found:
            step[key] = value
    if unused := [name for name in _MADE_WITH if overrides.get(name) is not None]:
        raise FlaxModelsError(f"{', '.join(unused)}: the tokenizer.json is made already. Leave it out.")
    return is_changed


def _keys(step: Mapping[str, Any], places: tuple[tuple[str, str], ...]) -> list[str]:
    return [key for kind, key in places if step.get("type") == kind and key in step]

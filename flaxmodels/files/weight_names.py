"""The names that files of weights have: `model.safetensors`, `model.fp16-00001-of-00002.safetensors` and the like."""

from __future__ import annotations

import re

_STEM = r"(?:model|flax_model|pytorch_model|tf_model)"
_SUFFIX = r"(?:safetensors|msgpack|bin|h5)"
_WEIGHTS = re.compile(
    rf"{_STEM}(?:\.(?P<of_file>.+?))?(?:-\d{{5}}-of-\d{{5}})?\.{_SUFFIX}"
    rf"|{_STEM}\.{_SUFFIX}\.index(?:\.(?P<of_index>.+))?\.json"
    r"|flax_model(?:\.(?P<of_tree>.+))?\.orbax"
)


def is_weight_file(name: str) -> bool:
    """Whether a file or folder of that name holds weights, or their index, as the usual tools name them."""
    return _WEIGHTS.fullmatch(name) is not None


def is_orbax_name(name: str) -> bool:
    """Whether that is the name of a tree of Orbax, which is a folder."""
    return is_weight_file(name) and name.endswith(".orbax")


def variant_of(name: str) -> str | None:
    """The variant of a file of weights: "fp16" of `model.fp16.safetensors`."""
    match = _WEIGHTS.fullmatch(name)
    return match and next(filter(None, match.groups()), None)


def names_of(file_name: str, variant: str | None) -> tuple[str, str]:
    """What the unsharded file `file_name` and its index are called for a variant."""
    stem, suffix = file_name.rsplit(".", 1)
    middle = f".{variant}" if variant else ""
    return f"{stem}{middle}.{suffix}", f"{file_name}.index{middle}.json"

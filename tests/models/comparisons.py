"""Whether arrays are the same, or nearly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util


def bits(arrays: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str, bytes]]:
    """Shape, dtype and bytes of each array of a flat or nested dict."""
    flat: dict[Any, Any] = traverse_util.flatten_dict(arrays, sep="/")
    return {name: (value.shape, str(value.dtype), np.asarray(value).tobytes()) for name, value in flat.items()}


def same_params(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Whether two dicts of arrays, flat or nested, are the same bit for bit."""
    return bits(left) == bits(right)


def assert_close(ours: Any, theirs: Any, tolerance: float, what: str = "") -> None:
    """The greatest difference is at most `tolerance` times the greatest value."""
    ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
    assert ours.shape == theirs.shape, what
    difference, scale = np.abs(ours - theirs).max(initial=0.0), np.abs(theirs).max(initial=0.0)
    assert difference <= tolerance * scale, f"{what}: {difference:.2e} apart at a scale of {scale:.2e}"

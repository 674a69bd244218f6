"""Lists of integers to arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from flaxmodels.errors import FlaxModelsError

_FLAT = ("length", "overflow_to_sample_mapping")
"""What has one number a row."""
_LIMITS = np.iinfo(np.int32)


def tensor_kind(return_tensors: Any) -> str | None:
    """ "np", "jax" or None, from a text or a member of an enumeration like transformers' `TensorType`.

    Raises:
        FlaxModelsError: it is something else.
    """
    kind = getattr(return_tensors, "value", return_tensors)
    if kind not in (None, "np", "jax"):
        remedy = (
            " Models here take arrays: ask for 'np'; torch.from_numpy makes tensors of them." if kind == "pt" else ""
        )
        raise FlaxModelsError(f"return_tensors: expected 'np', 'jax' or None, got {kind!r}.{remedy}")
    return kind


def to_tensor(key: str, value: Any, return_tensors: Any) -> Any:
    """An array of a list, of numpy or of JAX; int32 if it is of integers.

    Raises:
        FlaxModelsError: its rows have different lengths, a number is no int32, or it is asked for another kind.
    """
    kind = tensor_kind(return_tensors)
    if kind == "np":
        return _array(key, value)
    import jax.numpy as jnp

    return jnp.asarray(_array(key, value))


def _array(key: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        lengths = [len(row) for row in value if hasattr(row, "__len__")]
        raise FlaxModelsError(
            f"{key}: rows of {min(lengths)} to {max(lengths)} make no array. Say padding=True, and truncation=True "
            "where they may be too long."
        ) from None
    if array.size == 0:
        return np.zeros((0,) if key in _FLAT else (*array.shape, 0)[:2], np.int32)
    if array.dtype.kind not in "iu":
        return array
    for number in (int(array.min()), int(array.max())):
        if not _LIMITS.min <= number <= _LIMITS.max:
            what = "the tokenizer has the token id" if key == "input_ids" else f"{key} has"
            raise FlaxModelsError(f"{what} {number}, which is no int32.")
    return array.astype(np.int32)

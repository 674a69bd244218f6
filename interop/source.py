"""A source of tensors: the one interface between files, parameter trees and mappings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Index = tuple[slice, ...]
"""One slice a dimension, with step 1."""


@dataclass(frozen=True)
class Header:
    """Shape and dtype of a tensor, known before any of its bytes is read."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_floating(self) -> bool:
        """Whether these are real floating-point numbers, those of ml_dtypes included."""
        return self.dtype.name.startswith(("float", "bfloat"))


class Source(Protocol):
    """Named tensors whose headers are known at once and whose values are read on demand.

    `read(name)` returns the whole tensor, `read(name, index)` the box that `index` names. The array may be a view
    into a memory map: callers do not write to it.
    """

    @property
    def headers(self) -> Mapping[str, Header]:
        """Shape and dtype of every tensor, by name."""
        ...

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """The tensor, or the box that `index` names, in the dtype of its header."""
        ...

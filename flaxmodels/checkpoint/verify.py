"""Whether two checkpoints hold the same weights, from their files alone, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from flaxmodels.checkpoint import load
from flaxmodels.files.arrays import contiguous
from flaxmodels.files.reading import drop_pages
from flaxmodels.files.weights import Weights

_BLOCK = 1 << 20
"""Elements."""


@dataclass(frozen=True)
class Comparison:
    """One parameter in two checkpoints.

    Attributes:
        name: the "/"-joined path of the parameter.
        dtypes: the dtypes of the two.
        same: whether the bits are equal, those of the wider one when it is cast to the other's dtype.
        error: `relative_error` of the two.
    """

    name: str
    dtypes: tuple[np.dtype, np.dtype]
    same: bool
    error: float


@dataclass(frozen=True)
class Report:
    """What `compare` found: the parameters that both have, and the names that only one has or that differ in shape."""

    compared: tuple[Comparison, ...]
    unmatched: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether both hold the same weights."""
        return not self.unmatched and all(comparison.same for comparison in self.compared)


def compare(model, first: Weights, second: Weights) -> Report:
    """Compare two checkpoints of `model`, in whatever formats; its own parameters are not needed."""
    plans = [load.plan_loading(model, weights) for weights in (first, second)]
    ours, theirs = (plan.read_from(weights.source) for plan, weights in zip(plans, (first, second), strict=True))
    both = [name for name in ours.headers if name in theirs.headers]
    unmatched = sorted(set(ours.headers) ^ set(theirs.headers)) + [name for plan in plans for name in plan.unexpected]
    unmatched += [wrong.name for plan in plans for wrong in plan.mismatched]
    with ThreadPoolExecutor(load.WORKERS) as pool:
        compared = (_compare(name, ours.read(name), theirs.read(name), pool) for name in both)
        found = tuple(load.progress(compared, len(both), "Comparing weights"))
    return Report(found, tuple(dict.fromkeys(unmatched)))


def _compare(name: str, first: np.ndarray, second: np.ndarray, pool: ThreadPoolExecutor) -> Comparison:
    order = np.argsort([-stride for stride in first.strides], kind="stable")
    pairs = list(zip(*(_blocks(array.transpose(order)) for array in (first, second)), strict=True))
    same = all(pool.map(_same, *zip(*pairs, strict=True)))
    error = 0.0 if same else _ratio(*map(sum, zip(*pool.map(_squares, *zip(*pairs, strict=True)), strict=True)))
    drop_pages(first)
    drop_pages(second)
    return Comparison(name, (first.dtype, second.dtype), same, error)


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """The array in parts of about `_BLOCK` elements, so that comparing them takes little memory."""
    rows = array.reshape(1, *array.shape) if array.ndim < 2 else array
    step = max(1, _BLOCK * len(rows) // max(array.size, 1))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether the bits are equal, those of the wider one when it is cast to the other's dtype."""
    narrow = min(first.dtype, second.dtype, key=lambda dtype: dtype.itemsize)
    ours, theirs = (contiguous(array, narrow).view(f"u{min(narrow.itemsize, 8)}") for array in (first, second))
    return np.array_equal(ours, theirs)


def _squares(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The sums of squares of the difference and of the first, over what is finite in both; infinite if that differs."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return np.inf, 0.0
    a, b = a[finite], b[finite]
    return float(np.square(a - b).sum()), float(np.square(a).sum())


def _ratio(difference: float, size: float) -> float:
    if difference == 0:
        return 0.0
    return float(np.sqrt(difference / size)) if size else float("inf")


def relative_error(first: np.ndarray, second: np.ndarray) -> float:
    """`|first - second| / |first|` in Euclidean norms, computed in float64; infinite where only one is finite."""
    return _ratio(*_squares(np.asarray(first), np.asarray(second)))

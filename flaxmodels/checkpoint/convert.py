"""From one format of files to another, without a model in memory: one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from flaxmodels.checkpoint import load, save
from flaxmodels.files.formats import written_format
from flaxmodels.files.location import CONFIG_NAME
from flaxmodels.files.reading import drop_pages
from flaxmodels.files.weights import Weights
from interop.plan import Plan
from interop.source import Header, Index, Source


class Cast:
    """A `Source` whose floating tensors are cast to `dtype` when they are read."""

    def __init__(self, source: Source, dtype: np.dtype):
        self.source, self.dtype = source, dtype
        self.headers = {name: Header(h.shape, self._target(h.dtype)) for name, h in source.headers.items()}

    def _target(self, dtype: np.dtype) -> np.dtype:
        is_float = np.issubdtype(dtype, np.floating) or dtype.kind == "V"  # ml_dtypes are of kind V
        return self.dtype if is_float else dtype

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """The tensor, or the box that `index` names, in the dtype of its header; what overflows becomes infinite."""
        view = self.source.read(name, index)
        with np.errstate(over="ignore", invalid="ignore"):
            cast = view.astype(self.headers[name].dtype, copy=False)
        if cast is not view:
            drop_pages(view)
        return cast


def convert(
    model,
    weights: Weights,
    folder: Path,
    *,
    to: str,
    config: str,
    param_dtype: np.dtype | None = None,
    max_shard_size: int | str = "5GB",
    strict: bool = True,
    extra_files: Iterable[Path] = (),
) -> Plan:
    """Write the checkpoint `weights` of `model` into `folder` in another format.

    Args:
        model: its description; parameters are not needed.
        weights: opened with `mmap=False` if anything else might truncate their files meanwhile: a map of a file that
            becomes shorter ends the process.
        to: the name of a format in `WRITTEN`.
        config: the contents of `config.json`.
        param_dtype: floating tensors are cast to it; by default each keeps its own.
        max_shard_size: bytes, or "5GB" and the like.
        strict: refuse a checkpoint that lacks parameters of the model, or has tensors that it does not know; if
            false, what both have is converted.
        extra_files: copied along, such as a tokenizer.

    Returns:
        The plan that was followed.

    Raises:
        CheckpointError: a file of `weights` changed while it was converted; `folder` is then as it was.
        CheckpointMismatch: shapes differ, or, if strict, tensors are missing or unexpected.
    """
    plan = load.plan_loading(model, weights)
    load.check(plan, weights, strict=strict, ignore_missing=not strict)
    leaves: Source = plan.read_from(weights.source)
    if param_dtype is not None:
        leaves = Cast(leaves, param_dtype)
    format = written_format(to)
    texts = {CONFIG_NAME: config}
    save.save_checkpoint(
        folder,
        save.view_of(model, leaves, format),
        texts,
        format,
        max_shard_size,
        extra_files=extra_files,
        before_commit=weights.check_unchanged,
    )
    return plan

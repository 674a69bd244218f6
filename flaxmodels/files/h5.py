"""Keras weights in HDF5 files, `tf_model.h5` on the Hub, through h5py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from flaxmodels.errors import CheckpointError
from flaxmodels.files.reading import damaged
from interop.source import Header, Index


class H5File:
    """A `Source` over the datasets of an HDF5 file. Names are their paths: `bert/tf_bert_model/bert/.../kernel:0`.

    Attributes:
        path: the file.
        headers: shape and dtype of every dataset.

    Raises:
        CheckpointError: h5py or the file is absent, or the file is damaged or keeps its data elsewhere.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        try:
            import h5py
        except ImportError as error:
            remedy = 'pip install "flaxmodels-jax[tf]"'
            raise CheckpointError(f"{self.path.name}: HDF5 files need the h5py package. Run: {remedy}") from error
        self._datasets: dict[str, Any] = {}

        def visit(name: str, found: Any) -> None:
            if isinstance(found, h5py.Dataset):
                self._datasets[name] = found

        try:
            self._file = h5py.File(self.path, "r")
            self._file.visititems(visit)  # does not follow links
            self.headers = {name: Header(found.shape, found.dtype) for name, found in self._datasets.items()}
            elsewhere = [name for name, found in self._datasets.items() if found.external or found.is_virtual]
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise damaged(self.path, f"truncated or not an HDF5 file ({error})") from error
        if elsewhere:
            listed = ", ".join(elsewhere)
            raise CheckpointError(f"{self.path.name}: keeps data in other files: {listed}. Save it as one file.")

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """The dataset, or the box of it that `index` names, in fresh memory."""
        try:
            return np.asarray(self._datasets[name][(*(index or ()), ...)])
        except (OSError, RuntimeError) as error:
            raise damaged(self.path, f"{name} cannot be read ({error})") from error

"""The memory that parameters are read into."""

from __future__ import annotations

import math
import mmap
import threading

import numpy as np

from flaxmodels.files.arrays import copy_into
from flaxmodels.files.reading import ALIGNMENT

_LARGE_PAGE = 2 << 20
_CHUNK = 64 << 20


class Arena:
    """Hands out memory in large pages, where the system has them, for the parameters of one model.

    The first touch of fresh memory costs more than the copy that needs it; large pages halve the sum. What is handed
    out together is given back together: a chunk goes when the last array in it does.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunk = np.empty(0, np.uint8)

    def hold(self, view: np.ndarray, dtype: np.dtype, *, copy: bool = False) -> np.ndarray:
        """The view cast to `dtype`, in C order and aligned; itself if it is so already and `copy` is not asked for."""
        ready = view.dtype == dtype and view.flags.c_contiguous and view.ctypes.data % ALIGNMENT == 0
        if ready and not copy:
            return view
        held = self._empty(view.shape, dtype)
        copy_into(held, view)
        return held

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = math.prod(shape) * dtype.itemsize
        nbytes = -(-size // ALIGNMENT) * ALIGNMENT
        if nbytes > _CHUNK:
            return _pages(nbytes)[:size].view(dtype).reshape(shape)
        with self._lock:
            if nbytes > len(self._chunk):
                self._chunk = _pages(_CHUNK)
            taken, self._chunk = self._chunk[:nbytes], self._chunk[nbytes:]
        return taken[:size].view(dtype).reshape(shape)


def _pages(size: int) -> np.ndarray:
    """Fresh memory, uint8 [size], that begins with a large page."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(size, np.uint8)
    pages = mmap.mmap(-1, size + _LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_HUGEPAGE)
    data = np.frombuffer(pages, np.uint8)
    start = -data.ctypes.data % _LARGE_PAGE
    return data[start : start + size]

"""Damaged copies of a file, and what a reader may do with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from interop.source import Source

_EXTREMES = [b"\x00" * 8, b"\xff" * 4, b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\x7f" + b"\xff" * 7]


@st.composite
def damaged_copies(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes of `data` with some replaced, inserted or deleted, mostly near the start; sometimes cut short."""
    copy = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, min(len(copy), 256)) | st.integers(0, len(copy)))
        stop = start + draw(st.integers(0, 8))
        copy[start:stop] = draw(st.binary(max_size=8) | st.sampled_from(_EXTREMES))
    return bytes(copy[: draw(st.none() | st.integers(0, len(copy)))])


def read_or_refuse(opener: Callable[[Path], Source], path: Path, data: bytes, error: type[Exception]) -> None:
    """Opens and reads the damaged file; anything but success or `error` goes through to the test."""
    path.unlink(missing_ok=True)  # a map of the file before may be alive
    path.write_bytes(data)
    try:
        source = opener(path)
    except error:
        return
    for name, header in source.headers.items():
        array = source.read(name)
        assert (array.shape, array.dtype) == (header.shape, header.dtype)

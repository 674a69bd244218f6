"""Damaged copies of a file, and what a reader may do with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from interop.source import Source

_EXTREMES = [b"\x00" * 8, b"\xff" * 4, b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\x7f" + b"\xff" * 7]


@st.composite
def damaged_copies(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes of `data` with a few overwritten, mostly near the start; or some inserted, deleted or cut off."""
    copy = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, min(len(copy), 256)) | st.integers(0, len(copy)))
        patch = draw(st.binary(min_size=1, max_size=8) | st.sampled_from(_EXTREMES))
        match draw(st.sampled_from(["overwrite"] * 5 + ["insert", "delete", "cut"])):
            case "overwrite":
                copy[start : start + len(patch)] = patch[: len(copy) - start]
            case "insert":
                copy[start:start] = patch
            case "delete":
                del copy[start : start + len(patch)]
            case "cut":
                del copy[start:]
    return bytes(copy)


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

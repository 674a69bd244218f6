"""Damaged copies of a file, and what a reader may do with them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from interop.source import Source

_EXTREMES = [b"\x00" * 8, b"\xff" * 4, b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\x7f" + b"\xff" * 7]
_PIECES = [
    *_EXTREMES,
    *(b"\xde\xff\xff", b"\xdf\xff\xff\xff\xff", b"\0\0\0\0\0\1\0\0", b"../../x", b"/etc/passwd", b"\x1b[2J"),
    *(b'"../', b'"/etc/passwd"', b"[[[[[[[[", b'{"a":' * 8, b"-1", b"1e999", b"9" * 30, b"NaN", b"null", b"\\u0000"),
]
_AWKWARD: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**9, 10**30, -(10**30), 0.5, -0.5, 1e308, math.nan, math.inf),
    *("", "x", "0", "-1", "\0", "\x1b[2J", "\ud800", "🦙" * 100, "../../x", "/etc/passwd", "a" * 10_000),
    *([], [0], [None], ["x"], [[]], [[[[[[[[]]]]]]]], [1] * 1000, [2**63, -1], [{"a": 1}], [0.5, "x", None]),
    *({}, {"": 0}, {"0": "x"}, {"-1": None}, {"x": {"x": {"x": {}}}}, {"content": 1}, {"type": "x"}),
]
_KEYS = ["", "x", "0", "\0", "../x", "self", "cls", "__class__", "__dict__", "__init__", "type", "to_dict", "validate"]
_REPEATED = "\0repeated"
"""What makes of a key another key until the text is written, where it goes."""


def damaged_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """A copy with a few changes, mostly near the start."""
    copy = bytearray(data)
    for _ in range(rng.geometric(0.5)):
        start = int(rng.integers(0, len(copy) + 1) * (rng.random() if rng.random() < 0.5 else 1))
        piece = _PIECES[rng.integers(len(_PIECES))] if rng.random() < 0.3 else rng.bytes(int(rng.integers(1, 9)))
        match rng.integers(8):
            case 0:
                copy[start:start] = piece
            case 1:
                del copy[start : start + len(piece)]
            case 2:
                del copy[start:]
            case 3:
                copy[start : start + 8] = copy[: len(copy[start : start + 8])]
            case 4 if start < len(copy):
                copy[start] ^= 1 << int(rng.integers(8))
            case _:
                copy[start : start + len(piece)] = piece
    return bytes(copy)


def damaged_json(data: bytes, rng: np.random.Generator) -> bytes:
    """The JSON text with a few values replaced, removed, added, moved or repeated."""
    content = json.loads(data)
    for _ in range(min(rng.geometric(0.5), 5)):
        containers = list(_containers(content))
        _change(containers[rng.integers(len(containers))], containers, rng)
    return json.dumps(content).replace(json.dumps(_REPEATED)[1:-1], "").encode()


def damaged_header(data: bytes, rng: np.random.Generator) -> bytes:
    """The safetensors file with such changes in its header."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = damaged_json(data[8:end], rng)
    return len(header).to_bytes(8, "little") + header + data[end:]


def damaged_copy(name: str, data: bytes, rng: np.random.Generator) -> bytes:
    """A copy of the file of that name with damages in its bytes, or in its values if it has JSON."""
    if rng.random() < 0.7 and data[:1] == b"{":
        return damaged_json(data, rng)
    if rng.random() < 0.5 and name.endswith(".safetensors"):
        return damaged_header(data, rng)
    return damaged_bytes(data, rng)


def _containers(value: Any) -> Iterator[dict[str, Any] | list[Any]]:
    """All objects and arrays that are not empty; the whole in any case, which is an object."""
    yield value
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        for child in inner.values() if isinstance(inner, dict) else inner:
            if isinstance(child, dict | list) and child:
                yield child
                waiting.append(child)


def _change(container: Any, others: list[Any], rng: np.random.Generator) -> None:
    """One change of one entry of the container."""
    keys = list(container) if isinstance(container, dict) else list(range(len(container)))
    key = keys[rng.integers(len(keys))] if keys else None
    value = json.loads(json.dumps(_AWKWARD[rng.integers(len(_AWKWARD))]))
    match rng.integers(6):
        case 0 if keys:
            del container[key]
        case 1 if isinstance(container, dict):
            container[_KEYS[rng.integers(len(_KEYS))]] = value
        case 1:
            container.append(value)
        case 2 if isinstance(container, dict) and keys:
            container[f"{key}{_REPEATED}"] = value
        case 3 if keys:
            other = others[rng.integers(len(others))]
            container[key] = json.loads(json.dumps(other))
        case _ if keys:
            container[key] = value


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

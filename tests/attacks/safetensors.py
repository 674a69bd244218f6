"""Safetensors files that break the rules."""

from __future__ import annotations

import json
import struct

from attacks.attack import Attack, Content, damaged, refused

FILE = "model.safetensors"
DTYPES = "U64, I64, F64, C64, F32, U32, I32, BF16, F16, U16, I16, F8_E8M0, F8_E4M3, F8_E5M2, I8, U8, BOOL"


def raw(header: object, data: bytes = b"") -> bytes:
    """A file of any header, however wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int, stop: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, object]:
    """The description of a tensor in a header."""
    return {
        "dtype": dtype,
        "shape": [(stop - start) // 4] if shape is None else shape,
        "data_offsets": [start, stop],
    }


def _blocks(**tensors: list[int]) -> bytes:
    """Tensors of zeros, uint8, of these shapes."""
    header, end = {}, 0
    for name, shape in tensors.items():
        size = 1
        for length in shape:
            size *= length
        header[name], end = entry(end, end + size, shape, "U8"), end + size
    return raw(header, bytes(end))


_INCOMPLETE = "lacks a valid dtype, shape and data_offsets"
_BROKEN: dict[str, tuple[Content, str]] = {
    "empty": (b"", "0 bytes are too few for a safetensors file"),
    "header beyond the file": (raw({})[:8] + b"{", "the header claims 2 bytes but the file has 9"),
    "header of 2**64 bytes": (b"\xff" * 8, f"the header claims {2**64 - 1} bytes but the file has 8"),
    "not JSON": (
        raw(b"{nonsense"),
        "invalid JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
    ),
    "not UTF-8": (
        raw(b'{"\xff": 1}'),
        "invalid JSON ('utf-8' codec can't decode byte 0xff in position 2: invalid start byte)",
    ),
    "half a character": (
        raw(b'{"\\ud800": 1}'),
        "invalid JSON ('utf-8' codec can't encode character '\\ud800' in position 2: surrogates not allowed)",
    ),
    "a list": (raw([1]), "invalid JSON (not an object)"),
    "duplicate keys": (raw(b'{"x": 1, "x": 1}'), "invalid JSON (duplicate keys)"),
    "nested": (
        raw(b'{"a":' * 100_000),
        "invalid JSON (maximum recursion depth exceeded while decoding a JSON object from a unicode string)",
    ),
    "a number of 10,000 digits": (
        raw(b'{"x": ' + b"9" * 10_000 + b"}"),
        "invalid JSON (Exceeds the limit (4300 digits) for integer string conversion: value has 10000 digits; "
        "use sys.set_int_max_str_digits() to increase the limit)",
    ),
    "metadata": (raw({"__metadata__": {"x": 1}}), "__metadata__ is not a map of strings"),
    "no offsets": (raw({"x": {"dtype": "F32", "shape": [1]}}), f"tensor 'x' {_INCOMPLETE}"),
    "negative": (raw({"x": entry(0, 4, [-1])}), f"tensor 'x' {_INCOMPLETE}"),
    "a bool": (raw({"x": entry(0, 4, [True])}), f"tensor 'x' {_INCOMPLETE}"),
    "name with control characters": (raw({"\x1b[31m\r\n": 1}), f"tensor '\\x1b[31m\\r\\n' {_INCOMPLETE}"),
    "name of a megabyte": (raw({"x" * 2**20: 1}), f"tensor '{'x' * 200}...' {_INCOMPLETE}"),
    "other size": (raw({"x": entry(0, 4, [2])}, b"1234"), "tensor 'x' is F32 [2] but its offsets span 4 bytes"),
    "huge": (
        raw({"x": entry(0, 0, [2**62, 2**62, 0])}),
        f"tensor 'x' is F32 [{2**62}, {2**62}, 0] but its offsets span 0 bytes",
    ),
    "rank of a million": (
        raw({"x": entry(0, 4, [1] * 10**6)}, b"1234"),
        f"tensor 'x' is F32 {str([1] * 100)[:200]}... but its offsets span 4 bytes",
    ),
    "overlap": (
        raw({"x": entry(0, 8), "y": entry(4, 12)}, b"123456789012"),
        "tensor 'y' starts at byte 4 of the data, expected 8 (tensors overlap or leave a hole)",
    ),
    "hole": (
        raw({"x": entry(0, 4), "y": entry(8, 12)}, b"123456789012"),
        "tensor 'y' starts at byte 8 of the data, expected 4 (tensors overlap or leave a hole)",
    ),
    "trailing bytes": (raw({"x": entry(0, 4)}, b"12345"), "the header describes 73 bytes but the file has 74"),
    "truncated": (raw({"x": entry(0, 4)}, b"123"), "the header describes 73 bytes but the file has 72"),
    "99 MB of empty entries": (
        lambda: raw(b"{" + b'"a":{},' * 14_000_000 + b'"b":{}}'),
        "the header describes some 14000002 tensors, more than 262144",
    ),
    "99 MB of empty lists": (
        lambda: raw(b'{"a":[' + b"[]," * 33_000_000 + b"[]]}"),
        "JSON of some 66000003 values, more than 3000000",
    ),
    "header above the limit of the format": (
        lambda: struct.pack("<Q", 100_000_001) + bytes(100_000_001),
        "100000001 bytes of JSON, more than 100000000",
    ),
}

ATTACKS: dict[str, Attack] = {name: damaged(FILE, *broken) for name, broken in _BROKEN.items()} | {
    "unknown dtype": refused(
        FILE,
        raw({"x": entry(0, 4, [1], "F4\x1b")}, b"1234"),
        f"{FILE}: tensor 'x' has the unknown dtype 'F4\\x1b'. Save it as one of {DTYPES}.",
    ),
    "a pointer of Git LFS": refused(
        FILE,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        f"{FILE}: a Git LFS pointer, not the file itself. Run `git lfs pull`.",
    ),
    "a tensor both in MXFP4 and as it is": refused(
        FILE,
        _blocks(w_blocks=[1, 2, 1, 16], w_scales=[1, 2, 1], w=[3]),
        "in MXFP4 and as they are, too: w. Delete one of both.",
    ),
}

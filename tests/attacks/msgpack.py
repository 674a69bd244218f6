"""Msgpack files that break the rules."""

from __future__ import annotations

import struct

import msgpack
from attacks.attack import Attack, Content, damaged, refused

FILE = "flax_model.msgpack"
GOLDEN = (
    b"\x82"
    b"\xa1b\x81\xa6kernel\xc7\x13\x01\x93\x92\x01\x02\xa8bfloat16\xc4\x04\x80\x3f\x40\x40"
    b"\xa5scale\xd8\x01\x93\x90\xa7float32\xc4\x04\x00\x00\x00\xc0"
)
DTYPES = (
    "bool, uint8, uint16, uint32, uint64, int8, int16, int32, int64, float16, float32, float64, complex64, "
    "complex128, bfloat16, float8_e4m3fn, float8_e5m2, float8_e8m0fnu"
)


def packed(value: object) -> bytes:
    """The value as msgpack."""
    data = msgpack.packb(value)
    assert data is not None
    return data


def ext(*parts: object, code: int = 1) -> msgpack.ExtType:
    """An array of Flax with any content, however wrong."""
    return msgpack.ExtType(code, packed(parts))


def chunked(shape: list[int], *chunks: object) -> dict:
    """A large array as Flax writes it."""
    numbered = [dict(zip("0123456789", values, strict=False)) for values in (shape, chunks)]
    return {"__msgpack_chunked_array__": True, "shape": numbered[0], "chunks": numbered[1]}


def deep(levels: int, key: str = "k") -> dict:
    """Maps in maps."""
    node: dict = {}
    for _ in range(levels):
        node = {key: node}
    return node


def _many_maps(count: int) -> bytes:
    return b"\xdf" + struct.pack(">I", count) + b"".join(b"\xa8%08x\x80" % number for number in range(count))


FOUR = ext((4,), "uint8", b"1234")
_NOT_CHUNKED = "'x' is not a chunked array of Flax"
_BROKEN: dict[str, tuple[Content | object, str]] = {
    "garbage": (b"garbage", "the root should be of type map"),
    "empty": (b"", "truncated or corrupt at byte 0 (1 more expected, 0 left)"),
    "truncated": (GOLDEN[:-1], "truncated or corrupt at byte 53 (4 more expected, 3 left)"),
    "truncated map": (GOLDEN[:33], "truncated or corrupt at byte 33 (1 more expected, 0 left)"),
    "trailing": (GOLDEN + b"\0", "the tree ends at byte 57 but 1 more follow"),
    "huge map": (b"\xdf\xff\xff\xff\xff", f"its maps claim {2**32 - 1} keys, more than 524288"),
    "huge key": (b"\x81\xdb\xff\xff\xff\xff", "a key in the root is not a short string"),
    "key not text": ({1: FOUR}, "a key in the root is not a short string"),
    "key not UTF-8": (b"\x81\xa1\xff", "corrupt at byte 2: a name is not UTF-8"),
    "key half a character": (b"\x81\xa3\xed\xa0\x80", "corrupt at byte 2: a name is not UTF-8"),
    "duplicate key": (
        b"\x82" + packed("x") + packed(FOUR) + packed("x") + packed(FOUR),
        "the key 'x' in the root is there twice or holds a '/'",
    ),
    "separator": ({"a": {"x/y": FOUR}}, "the key 'x/y' in 'a' is there twice or holds a '/'"),
    "key with control characters": (
        {"\x1b[2J": {"/": FOUR}},
        "the key '/' in '\\x1b[2J' is there twice or holds a '/'",
    ),
    "too deep": (deep(66), "maps are nested deeper than 64"),
    "60 levels of 64 KB keys": (lambda: packed(deep(60, "k" * 65535)), "a key in the root is not a short string"),
    "60 levels of 1 KB keys": (
        packed(deep(60, "k" * 1000)),
        f"the path '{'k' * 200}...' has more than 1024 characters",
    ),
    "600,000 maps": (lambda: _many_maps(600_000), "its maps claim 600000 keys, more than 524288"),
    "foreign ext": ({"x": ext((4,), "uint8", b"1234", code=2)}, "'x' is not an array of Flax"),
    "no triple": ({"x": ext((4,), "uint8")}, "'x' is not an array of Flax"),
    "rank": ({"x": ext((1,) * 33, "uint8", b"1")}, "'x' has 33 dimensions, more than 32"),
    "rank of a million": ({"x": ext((1,) * 10**6, "uint8", b"1")}, "'x' has 1000000 dimensions, more than 32"),
    "no shape": ({"x": ext("shape", "uint8", b"1")}, "the shape of 'x' should be of type array"),
    "negative": ({"x": ext((-4,), "uint8", b"1")}, "the shape of 'x' should be of type int"),
    "no data": ({"x": ext((4,), "uint8", 5)}, "the data of 'x' should be of type bytes"),
    "size": ({"x": ext((5,), "uint8", b"1234")}, "'x' is uint8 (5,) but holds 4 bytes"),
    "huge": (
        {"x": ext((2**63, 2**63, 0), "uint8", b"")},
        f"'x' is uint8 ({2**63}, {2**63}, 0) but holds 0 bytes",
    ),
    "loose ext": (
        {"x": msgpack.ExtType(1, packed(((4,), "uint8", b"1234")) + b"\0")},
        "'x' is uint8 (4,) but holds 4 bytes",
    ),
    "marker false": ({"x": chunked([4], FOUR) | {"__msgpack_chunked_array__": False}}, _NOT_CHUNKED),
    "no chunks": (
        {"x": {"__msgpack_chunked_array__": True, "shape": {"0": 4}, "chunk": {"0": FOUR}}},
        _NOT_CHUNKED,
    ),
    "numbering": (
        {"x": {"__msgpack_chunked_array__": True, "shape": {"1": 4}, "chunks": {"0": FOUR}}},
        _NOT_CHUNKED,
    ),
    "short chunks": (
        {"x": chunked([3, 3], FOUR, FOUR)},
        "the chunks of 'x' do not make up an array of shape (3, 3)",
    ),
    "no chunk": ({"x": chunked([0])}, "the chunks of 'x' do not make up an array of shape (0,)"),
    "mixed chunks": (
        {"x": chunked([8], FOUR, ext((4,), "int8", b"1234"))},
        "the chunks of 'x' do not make up an array of shape (8,)",
    ),
}

ATTACKS: dict[str, Attack] = {
    name: damaged(FILE, content if callable(content) or isinstance(content, bytes) else packed(content), problem)
    for name, (content, problem) in _BROKEN.items()
}
ATTACKS |= {
    f"dtype {dtype!r}": refused(
        FILE,
        packed({"a": {"x": ext((1,), dtype, b"12345678")}}),
        f"{FILE}: 'a/x' has the unknown dtype '{dtype}'. Save it as one of {DTYPES}.",
    )
    for dtype in ("object", "U4", "datetime64[ns]", "O", ">f4", "float128")
}
ATTACKS |= {
    f"a leaf {value!r}": refused(
        FILE,
        packed({"params": {"x": FOUR}, "opt": {"step": value}}),
        f"{FILE}: 'opt/step' is neither a map nor an array. "
        "Save parameters alone: flax.serialization.to_bytes(params).",
    )
    for value in (3, -3, 2.5, None, "text", b"bytes", True)
}

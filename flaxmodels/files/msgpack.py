"""Flax msgpack files, read as views of a memory map and written one tensor at a time.

The format is that of `flax.serialization.to_bytes(params)`: nested maps whose leaves are arrays, on the Hub
`flax_model.msgpack`. Flax itself reads such a file into memory whole, and writes it from a copy.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import msgpack
import numpy as np

from flaxmodels.errors import CheckpointError
from flaxmodels.files.arrays import (
    MAX_NDIM,
    addressable,
    box,
    check_dtypes,
    checked,
    contiguous,
    read_box,
    write_array,
)
from flaxmodels.files.reading import MAX_NAME, MAX_TENSORS, Cursor, FileBytes, damaged, open_bytes
from interop.errors import shown
from interop.source import Header, Index

MAX_CHUNK_BYTES = 2**30
"""Larger arrays are written in pieces, as Flax does: a msgpack object ends at 2**32 bytes."""

_CHUNKED = "__msgpack_chunked_array__"
_NDARRAY, _SCALAR = 1, 3  # Flax's extension types
_MAX_DEPTH = 64
_MAX_KEYS = 2 * MAX_TENSORS  # of all maps: few maps hold just one array

_DTYPES: dict[str, np.dtype] = {
    dtype.name: dtype
    for dtype in map(
        np.dtype,
        [
            np.bool_,
            *(np.uint8, np.uint16, np.uint32, np.uint64),
            *(np.int8, np.int16, np.int32, np.int64),
            *(np.float16, np.float32, np.float64, np.complex64, np.complex128),
            *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e8m0fnu),
        ],
    )
}
_OTHER = ("other", 0, 0)
# What each byte begins: kind, size or value, and the width of the size that follows, if one does.
# https://github.com/msgpack/msgpack/blob/master/spec.md
_TAGS: dict[int, tuple[str, int, int]] = {
    **{0x00 + value: ("int", value, 0) for value in range(128)},
    **{0x80 + size: ("map", size, 0) for size in range(16)},
    **{0x90 + size: ("array", size, 0) for size in range(16)},
    **{0xA0 + size: ("text", size, 0) for size in range(32)},
    0xC3: ("true", 0, 0),
    **{0xC4 + power: ("bytes", 0, 1 << power) for power in range(3)},
    **{0xC7 + power: ("ext", 0, 1 << power) for power in range(3)},
    **{0xCC + power: ("int", 0, 1 << power) for power in range(4)},
    **{0xD4 + power: ("ext", 1 << power, 0) for power in range(5)},
    **{0xD9 + power: ("text", 0, 1 << power) for power in range(3)},
    **{0xDC + power: ("array", 0, 2 << power) for power in range(2)},
    **{0xDE + power: ("map", 0, 2 << power) for power in range(2)},
}


@dataclass(frozen=True)
class _Leaf:
    """Where an array lies: first byte and element count of each chunk; one chunk unless Flax split it."""

    header: Header
    chunks: tuple[tuple[int, int], ...]


class MsgpackFile:
    """A `Source` over one Flax msgpack file: `read` returns views of its memory map.

    Names are the keys of the tree joined by "/": `model/layers/0/mlp/up_proj/kernel`.

    Args:
        path: the file.
        mmap: map the file; if false, `read` copies what it is asked for (see `open_bytes`).

    Attributes:
        path: the file.
        headers: shape and dtype of every array, in the order of the file.

    Raises:
        CheckpointError: the file is absent, truncated, or anything but nested maps of arrays; or it has
            longer names than any model, or more of them.
    """

    def __init__(self, path: str | os.PathLike[str], *, mmap: bool = True):
        self.path = Path(path)
        self._data = open_bytes(self.path, mmap=mmap)
        self._leaves = dict(_Walker(self.path, self._data).walk())
        self.headers = {name: leaf.header for name, leaf in self._leaves.items()}

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """The array, or the box of it that `index` names; joined in fresh memory if that box lies in several chunks."""
        leaf = self._leaves[name]
        if len(leaf.chunks) == 1:
            return read_box(self._data, leaf.chunks[0][0], leaf.header, index)
        length, *rest = leaf.header.shape
        first, stop, _ = (index or (slice(None),))[0].indices(length)
        rows = max(stop - first, 0)
        row_size = math.prod(rest)
        elements = self._elements(leaf, first * row_size, (first + rows) * row_size)
        return box(elements.reshape(rows, *rest), (slice(None), *(index or ())[1:]))

    def _elements(self, leaf: _Leaf, first: int, stop: int) -> np.ndarray:
        """Elements `first` to `stop` of the flattened array, from the chunks that hold them."""
        parts, chunk_first = [], 0
        for start, count in leaf.chunks:
            low, high = max(first - chunk_first, 0), min(stop - chunk_first, count)
            if low < high:
                parts.append(read_box(self._data, start, Header((count,), leaf.header.dtype), (slice(low, high),)))
            chunk_first += count
        parts = parts or [np.empty(0, leaf.header.dtype)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class _Walker:
    """Finds every array of the tree without reading any of them."""

    def __init__(self, path: Path, data: FileBytes):
        self._path = path
        self._cursor = Cursor(path, data, "big")
        self._keys = 0

    def walk(self) -> Iterator[tuple[str, _Leaf]]:
        """Names and offsets of the arrays, in the order of the file."""
        yield from self._map("", 0, self._expect("map", "", ""))
        if self._cursor.remaining:
            end = self._cursor.position
            raise damaged(self._path, f"the tree ends at byte {end} but {self._cursor.remaining} more follow")

    def _map(self, name: str, depth: int, count: int) -> Iterator[tuple[str, _Leaf]]:
        """The arrays below `name`, after the head of its map."""
        if depth > _MAX_DEPTH:
            raise damaged(self._path, f"maps are nested deeper than {_MAX_DEPTH}")
        self._count_keys(count)
        seen: set[str] = set()
        for _ in range(count):
            key = self._text("a key in ", name)
            if key == _CHUNKED and not seen:
                yield name, self._chunked(name, count)
                return
            if key in seen or "/" in key:
                raise damaged(self._path, f"the key '{shown(key)}' in {_place(name)} is there twice or holds a '/'")
            seen.add(key)
            path = f"{name}/{key}" if depth else key
            if len(path) > MAX_NAME:
                raise damaged(self._path, f"the path {_place(path)} has more than {MAX_NAME} characters")
            yield from self._value(path, depth + 1)

    def _value(self, name: str, depth: int) -> Iterator[tuple[str, _Leaf]]:
        kind, size = self._head()
        if kind == "map":
            yield from self._map(name, depth, size)
        elif kind == "ext":
            yield name, self._array(name, size)
        else:
            raise CheckpointError(
                f"{shown(self._path.name)}: {_place(name)} is neither a map nor an array. "
                "Save parameters alone: flax.serialization.to_bytes(params)."
            )

    def _array(self, name: str, size: int) -> _Leaf:
        """An extension object: a packed (shape, dtype name, bytes)."""
        end = self._cursor.position + 1 + size
        if self._cursor.uint(1) not in (_NDARRAY, _SCALAR) or self._expect("array", "", name) != 3:
            raise damaged(self._path, f"{_place(name)} is not an array of Flax")
        rank = self._rank(name, self._expect("array", "the shape of ", name))
        shape = tuple([self._expect("int", "the shape of ", name) for _ in range(rank)])
        dtype = self._dtype(name)
        nbytes = self._expect("bytes", "the data of ", name)
        header = Header(shape, dtype)
        if not addressable(shape, dtype) or header.nbytes != nbytes or self._cursor.position + nbytes != end:
            raise damaged(self._path, f"{_place(name)} is {dtype} {shape} but holds {nbytes} bytes")
        start = self._cursor.position
        self._cursor.skip(nbytes)
        return _Leaf(header, ((start, math.prod(shape)),))

    def _rank(self, name: str, rank: int) -> int:
        if rank > MAX_NDIM:
            raise damaged(self._path, f"{_place(name)} has {rank} dimensions, more than {MAX_NDIM}")
        return rank

    def _dtype(self, name: str) -> np.dtype:
        dtype = self._text("the dtype of ", name)
        if dtype not in _DTYPES:
            problem = f"{_place(name)} has the unknown dtype '{shown(dtype)}'"
            raise CheckpointError(f"{shown(self._path.name)}: {problem}. Save it as one of {', '.join(_DTYPES)}.")
        return _DTYPES[dtype]

    def _chunked(self, name: str, count: int) -> _Leaf:
        """A large array, as maps of its sizes and of its flat chunks; called after its marker."""
        if count != 3 or self._head() != ("true", 0) or self._text("", name) != "shape":
            raise self._not_chunked(name)
        rank = self._rank(name, self._expect("map", "", name))
        shape = tuple([self._expect("int", "the shape of ", name) for _ in self._numbered(name, rank)])
        if self._text("", name) != "chunks":
            raise self._not_chunked(name)
        numbers = self._numbered(name, self._expect("map", "", name))
        chunks = [self._array(name, self._expect("ext", "", name)) for _ in numbers]
        dtypes = {chunk.header.dtype for chunk in chunks}
        sizes = [chunk.chunks[0][1] for chunk in chunks]
        header = Header(shape, next(iter(dtypes), np.dtype(bool)))
        fits = len(dtypes) == 1 and all(sizes) and sum(sizes) == math.prod(shape)
        if not fits or not addressable(shape, header.dtype):
            raise damaged(self._path, f"the chunks of {_place(name)} do not make up an array of shape {shape}")
        return _Leaf(header, tuple(span for chunk in chunks for span in chunk.chunks))

    def _numbered(self, name: str, count: int) -> Iterator[int]:
        """Steps through the keys of a map of that size, which must be "0", "1", ..."""
        self._count_keys(count)
        for number in range(count):
            if self._text("", name) != str(number):
                raise self._not_chunked(name)
            yield number

    def _count_keys(self, more: int) -> None:
        self._keys += more
        if self._keys > _MAX_KEYS:
            raise damaged(self._path, f"its maps claim {self._keys} keys, more than {_MAX_KEYS}")

    def _not_chunked(self, name: str) -> CheckpointError:
        return damaged(self._path, f"{_place(name)} is not a chunked array of Flax")

    def _text(self, what: str, name: str) -> str:
        kind, size = self._head()
        if kind not in ("text", "bytes") or size > MAX_NAME:
            raise damaged(self._path, f"{what}{_place(name)} is not a short string")
        return self._cursor.text(size)

    def _expect(self, kind: str, what: str, name: str) -> int:
        """The size, or for an int the value, of the next object, which must be of this kind."""
        found, size = self._head()
        if found != kind:
            raise damaged(self._path, f"{what}{_place(name)} should be of type {kind}")
        return size

    def _head(self) -> tuple[str, int]:
        """Kind of the next object, and its size or value."""
        kind, size, width = _TAGS.get(self._cursor.uint(1), _OTHER)
        return (kind, size + self._cursor.uint(width)) if width else (kind, size)


def _place(name: str) -> str:
    return f"'{shown(name)}'" if name else "the root"


def write_msgpack(
    path: str | os.PathLike[str], headers: Mapping[str, Header], read: Callable[[str], np.ndarray]
) -> None:
    """Writes the bytes of `flax.serialization.to_bytes(tree)`, holding one array at a time.

    Args:
        path: the file to create or replace; write elsewhere and rename, if it must never be seen unfinished.
        headers: shape and dtype of every array, by its "/"-joined path in the tree. Their order is kept.
        read: gives the array of a name; called once an array, in the order of the file.

    Raises:
        CheckpointError: a dtype that Flax could not read, a name that is also the path of others, or an array
            that does not match its header.
    """
    check_dtypes(headers, _DTYPES)
    tree = _nest(headers)
    with open(path, "wb") as file:
        _Writer(file, headers, read).write(tree)


def _nest(names: Iterable[str]) -> dict[str, Any]:
    """The nested maps of the "/"-joined names; the leaves are the names themselves."""
    tree: dict[str, Any] = {}
    for name in names:
        *parents, leaf = name.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise CheckpointError(
                    f"'{shown(name)}' lies below '{shown(node)}', itself an array. Rename one of them."
                )
        if leaf in node:
            raise CheckpointError(f"'{shown(name)}' is an array, but others lie below it. Rename it.")
        node[leaf] = name
    return tree


class _Writer:
    """Packs everything but the data of arrays, which goes to the file as it is."""

    def __init__(self, file: BinaryIO, headers: Mapping[str, Header], read: Callable[[str], np.ndarray]):
        self._file = file
        self._headers = headers
        self._read = read
        self._packer = msgpack.Packer()

    def write(self, node: Any) -> None:
        """Writes a nested map, or the array of a name."""
        if isinstance(node, str):
            self._leaf(node)
            return
        self._file.write(self._packer.pack_map_header(len(node)))
        for key, child in node.items():
            self._file.write(self._packer.pack(key))
            self.write(child)

    def _leaf(self, name: str) -> None:
        array = checked(name, self._read(name), self._headers[name])
        if array.nbytes <= MAX_CHUNK_BYTES:
            self._array(array)
            return
        flat = contiguous(array).reshape(-1)
        step = max(1, MAX_CHUNK_BYTES // array.itemsize)
        chunks = [flat[start : start + step] for start in range(0, flat.size, step)]
        shape = {str(axis): size for axis, size in enumerate(array.shape)}
        self._file.write(self._packer.pack_map_header(3))
        for value in (_CHUNKED, True, "shape", shape, "chunks"):
            self._file.write(self._packer.pack(value))
        self._file.write(self._packer.pack_map_header(len(chunks)))
        for number, chunk in enumerate(chunks):
            self._file.write(self._packer.pack(str(number)))
            self._array(chunk)

    def _array(self, array: np.ndarray) -> None:
        pack = self._packer.pack
        start = self._packer.pack_array_header(3) + pack(array.shape) + pack(array.dtype.name)
        start += _sized(array.nbytes, {1: 0xC4, 2: 0xC5, 4: 0xC6})
        self._file.write(_ext_head(len(start) + array.nbytes) + start)
        write_array(self._file, array)


def _sized(size: int, tags: Mapping[int, int]) -> bytes:
    """The shortest tag and size, from the tags by the width of the size that follows them."""
    width = 1 if size < 2**8 else 2 if size < 2**16 else 4
    return bytes([tags[width]]) + size.to_bytes(width, "big")


def _ext_head(size: int) -> bytes:
    """The start of an array of `size` bytes as an extension object."""
    if size == 16:  # the one size among those with a tag of their own that an array can have
        return bytes([0xD8, _NDARRAY])
    return _sized(size, {1: 0xC7, 2: 0xC8, 4: 0xC9}) + bytes([_NDARRAY])

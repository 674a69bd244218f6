"""GGUF files (llama.cpp), read on demand: dense tensors as views of a memory map, others dequantised.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package dequantises. Its reader
is not used, because it trusts the counts and lengths in the file and makes several objects of every token.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from flaxmodels.errors import CheckpointError
from flaxmodels.files.arrays import addressable, read_box
from flaxmodels.files.reading import MAX_TENSORS, Cursor, FileBytes, damaged, open_bytes
from interop.errors import shown
from interop.source import Header, Index

_MAX_DIMS = 4  # ggml's own limit
_MAX_VALUES = 1 << 21  # of all metadata: the largest vocabulary has 262,000 tokens, with scores, types and merges
_MAX_TOKEN = 1 << 12  # bytes of a string in an array, a token or a merge: the longest known have some hundred
_ROWS_AT_ONCE = 256  # gguf needs twice the memory of its result, and is fastest where that stays in the cache

_STRING, _ARRAY = 8, 9
_NUMBERS = {
    **dict(enumerate(map(np.dtype, ["<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?"]))),
    **dict(enumerate(map(np.dtype, ["<u8", "<i8", "<f8"]), start=10)),
}
_DENSE = {
    **dict(enumerate(map(np.dtype, ["<f4", "<f2"]))),
    **dict(enumerate(map(np.dtype, ["<i1", "<i2", "<i4", "<i8", "<f8"]), start=24)),
    30: np.dtype(ml_dtypes.bfloat16),
}

Dequantize = Callable[[np.ndarray], np.ndarray]
"""Bytes of blocks, uint8 [rows, row_bytes], to values, float32 [rows, row_values]."""


@dataclass(frozen=True)
class _Encoding:
    """How the bytes of a tensor stand for its values."""

    block_values: int
    block_bytes: int
    dtype: np.dtype
    dequantize: Dequantize | None = None


@dataclass(frozen=True)
class _Tensor:
    """Where a tensor lies: `stored` describes its bytes, `header` its values."""

    start: int
    stored: Header
    header: Header
    dequantize: Dequantize | None


class _Info(NamedTuple):
    """What the file says of a tensor; `offset` counts from the start of the data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


class GGUFFile:
    """A `Source` over one GGUF file.

    Shapes are in the order of numpy, the reverse of ggml's. F32, F16, BF16, F64 and integer tensors are
    views; quantised ones are float32, and `read` dequantises only the rows it is asked for.

    Args:
        path: the file.
        mmap: map the file; if false, `read` copies what it is asked for (see `open_bytes`).

    Attributes:
        path: the file.
        headers: shape and dtype of every tensor, in the order of the file.
        metadata: every key of the file, such as the tokens of its tokenizer, with a plain Python value.

    Raises:
        CheckpointError: the file is absent, truncated or against the rules of the format, or has more tensors or
            metadata than any model; or its quantised tensors need the package `gguf`, or a newer one.
    """

    def __init__(self, path: str | os.PathLike[str], *, mmap: bool = True):
        self.path = Path(path)
        self._data = open_bytes(self.path, mmap=mmap)
        self.metadata, self._tensors = _Parser(self.path, self._data).parse()
        self.headers = {name: tensor.header for name, tensor in self._tensors.items()}

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """The tensor, or the box that `index` names; a read-only view if it is not quantised but mapped."""
        tensor = self._tensors[name]
        if tensor.dequantize is None:
            return read_box(self._data, tensor.start, tensor.stored, index)
        *leading, last = index or (slice(None),) * len(tensor.stored.shape)
        rows = read_box(self._data, tensor.start, tensor.stored, tuple(leading))
        return _in_bands(tensor.dequantize, rows, tensor.header.shape[-1])[..., last]


def _in_bands(dequantize: Dequantize, stored: np.ndarray, row_values: int) -> np.ndarray:
    """Dequantises rows of bytes, uint8 [..., row_bytes], to float32 [..., row_values] in bounded memory."""
    *leading, row_bytes = stored.shape
    if not stored.size:
        return np.empty((*leading, row_values), np.float32)
    rows = stored.reshape(math.prod(leading), row_bytes)
    values = np.empty((len(rows), row_values), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite and NaN scales come through as such
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            band = slice(first, first + _ROWS_AT_ONCE)
            values[band] = dequantize(rows[band])
    return values.reshape(*leading, row_values)


class _Parser:
    """Reads all that comes before the data, and believes no count or length before it has seen the bytes."""

    def __init__(self, path: Path, data: FileBytes):
        self._path = path
        self._size = len(data)
        self._cursor = Cursor(path, data, "little")
        self._values = 0
        self._encodings: dict[int, _Encoding] = {}

    def parse(self) -> tuple[dict[str, Any], dict[str, _Tensor]]:
        """The metadata and the tensors of the file."""
        if self._cursor.take(4) != b"GGUF":
            raise damaged(self._path, "not a GGUF file")
        if (version := self._cursor.uint(4)) not in (2, 3):
            problem = f"GGUF version {version}, expected 2 or 3 in little-endian bytes"
            raise CheckpointError(f"{shown(self._path.name)}: {problem}. Convert it with llama.cpp.")
        tensor_count, key_count = self._cursor.uint(8), self._cursor.uint(8)
        if tensor_count > MAX_TENSORS:
            raise damaged(self._path, f"it claims {tensor_count} tensors, more than {MAX_TENSORS}")
        metadata = self._metadata(key_count)
        infos = [self._tensor_info() for _ in range(tensor_count)]
        return metadata, self._place(infos, metadata.get("general.alignment", 32))

    def _metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        self._count_values(count)
        for _ in range(count):
            key = self._cursor.text(self._cursor.uint(8))
            if key in metadata:
                raise damaged(self._path, f"the key '{shown(key)}' is there twice")
            metadata[key] = self._value(key, self._cursor.uint(4))
        return metadata

    def _count_values(self, more: int) -> None:
        self._values += more
        if self._values > _MAX_VALUES:
            raise damaged(self._path, f"its metadata claims {self._values} values, more than {_MAX_VALUES}")

    def _value(self, key: str, kind: int) -> Any:
        if kind == _ARRAY:
            kind, count = self._cursor.uint(4), self._cursor.uint(8)
            self._count_values(count)
            if kind == _STRING:
                return self._texts(key, count, _MAX_TOKEN)
            return self._numbers(key, kind, count)
        return (self._texts(key, 1, math.inf) if kind == _STRING else self._numbers(key, kind, 1))[0]

    def _texts(self, key: str, count: int, longest: float) -> list[str]:
        found, take = [], self._cursor.take
        for _ in range(count):
            if (size := int.from_bytes(take(8), "little")) > longest:
                raise damaged(self._path, f"'{shown(key)}' holds a string of {size} bytes, more than {longest}")
            # Some tokens are single bytes of a character: kept, and encodable again with the same error handler.
            found.append(str(take(size), "utf-8", "surrogateescape"))
        return found

    def _numbers(self, key: str, kind: int, count: int) -> list[Any]:
        if kind not in _NUMBERS:
            raise damaged(self._path, f"the value of '{shown(key)}' has the unknown type {kind}")
        dtype = _NUMBERS[kind]
        return np.frombuffer(self._cursor.take(count * dtype.itemsize), dtype).tolist()

    def _tensor_info(self) -> _Info:
        name = self._cursor.text(self._cursor.uint(8))
        if (rank := self._cursor.uint(4)) > _MAX_DIMS:
            raise damaged(self._path, f"tensor '{shown(name)}' has {rank} dimensions, more than {_MAX_DIMS}")
        shape = tuple(self._cursor.uint(8) for _ in range(rank))[::-1]
        return _Info(name, shape, self._cursor.uint(4), self._cursor.uint(8))

    def _place(self, infos: list[_Info], alignment: Any) -> dict[str, _Tensor]:
        """Finds the bytes of each tensor: they follow each other, every one aligned."""
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise damaged(self._path, f"general.alignment is {shown(repr(alignment))}, not a power of two")
        tensors: dict[str, _Tensor] = {}
        data_start = _round_up(self._cursor.position, alignment)
        end = 0
        for name, shape, kind, offset in infos:
            if offset != end or name in tensors:
                problem = f"tensor '{shown(name)}' is there twice or not at byte {end} of the data"
                raise damaged(self._path, problem)
            tensor = self._tensor(name, shape, kind, data_start + offset)
            if (stop := tensor.start + tensor.stored.nbytes) > self._size:
                problem = f"tensor '{shown(name)}' ends at byte {stop} but the file has {self._size}"
                raise damaged(self._path, problem)
            tensors[name], end = tensor, _round_up(offset + tensor.stored.nbytes, alignment)
        return tensors

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int, start: int) -> _Tensor:
        encoding = self._encoding(name, kind)
        row = shape[-1] if shape else 1
        if not addressable(shape, encoding.dtype) or row % encoding.block_values:
            raise damaged(self._path, f"tensor '{shown(name)}' has the impossible shape {shape}")
        header = Header(shape, encoding.dtype)
        if encoding.dequantize is None:
            return _Tensor(start, header, header, None)
        row_bytes = row // encoding.block_values * encoding.block_bytes
        stored = Header((*shape[:-1], row_bytes), np.dtype(np.uint8))
        return _Tensor(start, stored, header, encoding.dequantize)

    def _encoding(self, name: str, kind: int) -> _Encoding:
        if kind not in self._encodings:
            self._encodings[kind] = self._new_encoding(name, kind)
        return self._encodings[kind]

    def _new_encoding(self, name: str, kind: int) -> _Encoding:
        if kind in _DENSE:
            return _Encoding(1, _DENSE[kind].itemsize, _DENSE[kind])
        where = f"{shown(self._path.name)}: tensor '{shown(name)}'"
        try:
            encoding = _quantisation(kind)
        except ImportError as error:
            remedy = 'pip install "flaxmodels-jax[gguf]"'
            raise CheckpointError(f"{where} is quantised and needs the gguf package. Run: {remedy}") from error
        if encoding is None:
            problem = f"has ggml type {kind}, which the gguf package cannot dequantise"
            raise CheckpointError(f"{where} {problem}. Run: pip install --upgrade gguf")
        return encoding


def _quantisation(kind: int) -> _Encoding | None:
    """What the gguf package knows of a quantised type; None if it cannot dequantise it."""
    import gguf

    try:
        qtype = gguf.GGMLQuantizationType(kind)
        block_values, block_bytes = gguf.GGML_QUANT_SIZES[qtype]
        dequantize = functools.partial(gguf.dequantize, qtype=qtype)
        dequantize(np.zeros((1, block_bytes), np.uint8))
    except (ValueError, NotImplementedError):
        return None
    return _Encoding(block_values, block_bytes, np.dtype(np.float32), dequantize)


def _round_up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment

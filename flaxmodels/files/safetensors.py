"""Safetensors files, read as views of a memory map and written one tensor at a time.

Format: https://github.com/huggingface/safetensors#format. The `safetensors` package copies every tensor that
it reads, and wants all of them in memory to write.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flaxmodels.errors import CheckpointError
from flaxmodels.files.arrays import addressable, check_dtypes, checked, read_box, write_array
from flaxmodels.files.reading import (
    ALIGNMENT,
    MAX_JSON_BYTES,
    MAX_TENSORS,
    FileBytes,
    damaged,
    open_bytes,
    parse_json_object,
)
from interop.errors import shown
from interop.source import Header, Index

# Widest first, as the safetensors package lays tensors out, so that each is aligned to its itemsize.
_DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in [
        ("U64", np.uint64),
        ("I64", np.int64),
        ("F64", np.float64),
        ("C64", np.complex64),
        ("F32", np.float32),
        ("U32", np.uint32),
        ("I32", np.int32),
        ("BF16", ml_dtypes.bfloat16),
        ("F16", np.float16),
        ("U16", np.uint16),
        ("I16", np.int16),
        ("F8_E8M0", ml_dtypes.float8_e8m0fnu),
        ("F8_E4M3", ml_dtypes.float8_e4m3fn),
        ("F8_E5M2", ml_dtypes.float8_e5m2),
        ("I8", np.int8),
        ("U8", np.uint8),
        ("BOOL", np.bool_),
    ]
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_RANKS = {dtype: rank for rank, dtype in enumerate(_NAMES)}
_METADATA = "__metadata__"


class SafetensorsFile:
    """A `Source` over one safetensors file: `read` returns views of its memory map.

    Args:
        path: the file.
        mmap: map the file; if false, `read` copies what it is asked for (see `open_bytes`).

    Attributes:
        path: the file.
        headers: shape and dtype of every tensor, in the order of their bytes.
        metadata: the free metadata of the file, `{"format": "pt"}` for instance.

    Raises:
        CheckpointError: the file is absent, truncated, breaks a rule of the format, or has more tensors than any model.
    """

    def __init__(self, path: str | os.PathLike[str], *, mmap: bool = True):
        self.path = Path(path)
        self._data = open_bytes(self.path, mmap=mmap)
        entries, data_start = _read_json_header(self.path, self._data)
        self.metadata = _checked_metadata(self.path, entries.pop(_METADATA, {}))
        self.headers: dict[str, Header] = {}
        self._starts: dict[str, int] = {}
        end = data_start
        for start, stop, name, header in sorted(_parse_entry(self.path, *entry) for entry in entries.items()):
            if data_start + start != end:
                problem = (
                    f"tensor '{shown(name)}' starts at byte {shown(start)} of the data, expected {end - data_start}"
                )
                raise damaged(self.path, f"{problem} (tensors overlap or leave a hole)")
            self.headers[name], self._starts[name], end = header, end, data_start + stop
        if end != len(self._data):
            raise damaged(self.path, f"the header describes {end} bytes but the file has {len(self._data)}")

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """The tensor, or the box of it that `index` names; a read-only view of the file if it is mapped."""
        return read_box(self._data, self._starts[name], self.headers[name], index)


def _read_json_header(path: Path, data: FileBytes) -> tuple[dict[str, Any], int]:
    """The header of the file and the byte at which its tensors start."""
    if len(data) < 8:
        raise damaged(path, f"{len(data)} bytes are too few for a safetensors file")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > len(data) - 8:
        raise damaged(path, f"the header claims {length} bytes but the file has {len(data)}")
    if MAX_TENSORS < length <= MAX_JSON_BYTES:  # counted before they are parsed, which takes a hundred times longer
        count = int(np.count_nonzero(data[8 : 8 + length] == ord("{")))
        if count > MAX_TENSORS + 2:
            raise damaged(path, f"the header describes some {count} tensors, more than {MAX_TENSORS}")
    return parse_json_object(path, data, 8, 8 + length), 8 + length


def _checked_metadata(path: Path, metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise damaged(path, f"{_METADATA} is not a map of strings")
    return metadata


def _parse_entry(path: Path, name: str, entry: object) -> tuple[int, int, str, Header]:
    """First byte, end, name and header of one tensor; the bytes count from the start of the data."""
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [start, stop]} if all(
            type(number) is int and number >= 0 for number in (*shape, start, stop)
        ):
            pass
        case _:
            raise damaged(path, f"tensor '{shown(name)}' lacks a valid dtype, shape and data_offsets")
    if code not in _DTYPES:
        problem = f"tensor '{shown(name)}' has the unknown dtype '{shown(code)}'"
        raise CheckpointError(f"{shown(path.name)}: {problem}. Save it as one of {', '.join(_DTYPES)}.")
    header = Header(tuple(shape), _DTYPES[code])
    if not addressable(shape, header.dtype) or header.nbytes != stop - start:
        size = shown(stop - start)
        raise damaged(path, f"tensor '{shown(name)}' is {code} {shown(shape)} but its offsets span {size} bytes")
    return start, stop, name, header


def write_safetensors(
    path: str | os.PathLike[str],
    headers: Mapping[str, Header],
    read: Callable[[str], np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes the tensors to a safetensors file, holding one of them at a time.

    Args:
        path: the file to create or replace; write elsewhere and rename, if it must never be seen unfinished.
        headers: shape and dtype of every tensor.
        read: gives the array of a name; called once a tensor, in the order of the file.
        metadata: strings by name for the header.

    Raises:
        CheckpointError: a dtype that the format lacks, or an array that does not match its header.
    """
    check_dtypes(headers, _DTYPES)
    if _METADATA in headers:
        raise CheckpointError(f"Safetensors reserves the name {_METADATA}. Rename that tensor.")
    names = sorted(headers, key=lambda name: (_RANKS[headers[name].dtype], name))
    with open(path, "wb") as file:
        file.write(_json_header({name: headers[name] for name in names}, metadata))
        for name in names:
            write_array(file, checked(name, read(name), headers[name]))


def _json_header(headers: Mapping[str, Header], metadata: Mapping[str, str] | None) -> bytes:
    """Length and text of the header, padded with spaces to the alignment of the data."""
    entries: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name, header in headers.items():
        start, end = end, end + header.nbytes
        entries[name] = {"dtype": _NAMES[header.dtype], "shape": header.shape, "data_offsets": (start, end)}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text

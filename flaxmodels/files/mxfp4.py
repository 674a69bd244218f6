"""MXFP4, four-bit floats in blocks of 32 that share a power of two, as files of gpt-oss hold their experts.

Format: OCP Microscaling Formats 1.0; the layout is that of `transformers.integrations.mxfp4`: of a tensor
`[experts, in, out]` called `name`, `name_blocks` is uint8 `[experts, out, in / 32, 16]`, two values a byte, the lower
bits first, and `name_scales` is uint8 `[experts, out, in / 32]`, exponents above -127.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from flaxmodels.errors import CheckpointError
from flaxmodels.files.arrays import addressable, box
from interop.errors import listed
from interop.ops import full_index
from interop.source import Header, Index, Source

_BLOCK = 32
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VALUES = np.array([sign * size for sign in (1.0, -1.0) for size in _MAGNITUDES], np.float32)
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_BLOCKS_AT_ONCE = 1 << 16


def dequantised(source: Source) -> Source:
    """The source with its MXFP4 tensors as bfloat16; itself if it has none.

    Raises:
        CheckpointError: a tensor in MXFP4 is there as it is, too.
    """
    headers = source.headers
    names = [name.removesuffix("_blocks") for name in headers if name.endswith("_blocks")]
    packed = {name for name in names if _is_packed(headers[f"{name}_blocks"], headers.get(f"{name}_scales"))}
    if repeated := sorted(packed & headers.keys()):
        raise CheckpointError(f"in MXFP4 and as they are, too: {listed(repeated)}. Delete one of both.")
    return _Dequantised(source, packed) if packed else source


def _is_packed(blocks: Header, scales: Header | None) -> bool:
    *sizes, bytes_a_block = blocks.shape or (0,)
    if scales is None or (tuple(sizes), len(sizes), bytes_a_block) != (scales.shape, 3, _BLOCK // 2):
        return False
    return blocks.dtype == scales.dtype == np.uint8 and addressable((*scales.shape, _BLOCK), _BFLOAT16)


class _Dequantised:
    """A `Source` that dequantises the blocks that a read touches, and no others."""

    def __init__(self, source: Source, packed: set[str]):
        self.source, self._packed = source, packed
        self.headers: Mapping[str, Header] = {
            name: header
            for name, header in source.headers.items()
            if not (name.endswith(("_blocks", "_scales")) and name[: -len("_blocks")] in packed)
        } | {name: self._header(name) for name in packed}

    def _header(self, name: str) -> Header:
        experts, features, blocks = self.source.headers[f"{name}_scales"].shape
        return Header((experts, blocks * _BLOCK, features), _BFLOAT16)

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """The tensor, or the box that `index` names."""
        if name not in self._packed:
            return self.source.read(name, index)
        experts, inputs, outputs = full_index(self.headers[name].shape) if index is None else index
        first, last = inputs.start // _BLOCK, -(-inputs.stop // _BLOCK)
        touched = (experts, outputs, slice(first, last))
        scales = self.source.read(f"{name}_scales", touched)
        values = _dequantise(self.source.read(f"{name}_blocks", (*touched, slice(0, _BLOCK // 2))), scales)
        wanted = slice(inputs.start - first * _BLOCK, inputs.stop - first * _BLOCK)
        return box(values, (slice(None), slice(None), wanted)).transpose(0, 2, 1)


def _dequantise(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """uint8 `[..., blocks, 16]` and `[..., blocks]` to bfloat16 `[..., blocks * 32]`."""
    packed, exponents = blocks.reshape(-1, _BLOCK // 2), scales.reshape(-1, 1).astype(np.uint16)
    pairs = np.empty(packed.shape, np.uint32)
    for first in range(0, len(packed), _BLOCKS_AT_ONCE):
        band = slice(first, first + _BLOCKS_AT_ONCE)
        np.take(_pairs(), exponents[band] << 8 | packed[band], out=pairs[band])
    return pairs.view(_BFLOAT16).reshape(*scales.shape[:-1], scales.shape[-1] * _BLOCK)


@functools.cache
def _pairs() -> np.ndarray:
    """By exponent and byte, `exponent << 8 | byte`: two bfloat16 values as one uint32."""
    byte = np.arange(256)
    pairs = _VALUES[np.stack([byte & 15, byte >> 4], axis=-1)]
    with np.errstate(over="ignore"):  # the largest exponents reach beyond bfloat16
        values = np.ldexp(pairs[None], (byte - 127)[:, None, None]).astype(_BFLOAT16)
    return values.reshape(-1, 2).view(np.uint32).reshape(-1)

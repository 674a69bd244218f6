"""Models of SentencePiece (github.com/google/sentencepiece, src/sentencepiece_model.proto): what of them is used."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from flaxmodels.errors import CheckpointError
from flaxmodels.files.reading import open_bytes
from flaxmodels.tokenizer.excerpts import excerpt
from flaxmodels.tokenizer.library import require

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Kinds of pieces."""
UNIGRAM, BPE = 1, 2
"""Kinds of models; words and characters have others."""
MAX_PIECE_CHARS = 512
"""The longest piece that SentencePiece learns. Every way to halve one is tried, so that time grows with the square."""
MAX_PIECES = 2_000_000

_STRING, _FLOAT, _BOOL, _BYTES, _INT32, _MESSAGE = 9, 2, 8, 12, 5, 11
_FIELDS = {
    "Piece": (("piece", 1, _STRING, ""), ("score", 2, _FLOAT, ""), ("type", 3, _INT32, "1")),
    "Trainer": (
        ("model_type", 3, _INT32, "1"),
        ("byte_fallback", 35, _BOOL, "false"),
        ("unk_id", 40, _INT32, "0"),
    ),
    "Normalizer": (
        ("precompiled_charsmap", 2, _BYTES, ""),
        ("add_dummy_prefix", 3, _BOOL, "true"),
        ("remove_extra_whitespaces", 4, _BOOL, "true"),
    ),
    "Model": (("pieces", 1, "Piece", ""), ("trainer_spec", 2, "Trainer", ""), ("normalizer_spec", 3, "Normalizer", "")),
}
"""By message: name, number, type and default of each field that is used. Enumerations are integers on the wire."""


class Piece(NamedTuple):
    """A token, its logarithm of a probability or the negative of its rank, and its kind."""

    text: str
    score: float
    kind: int


class SpmModel(NamedTuple):
    """What a file says.

    Attributes:
        pieces: the tokens by id.
        is_bpe: whether they are merged pair by pair; the most probable ones are taken otherwise.
        byte_fallback: whether characters without a token are written as tokens of bytes.
        unk_id: the id of the unknown token.
        charsmap: how characters are normalised; empty if they are not.
        adds_prefix: whether a text begins with a space.
        collapses_spaces: whether several spaces count as one, and none at the ends.
    """

    pieces: list[Piece]
    is_bpe: bool
    byte_fallback: bool
    unk_id: int
    charsmap: bytes
    adds_prefix: bool
    collapses_spaces: bool


def read_spm(path: Path) -> SpmModel:
    """The model in a file.

    Raises:
        CheckpointError: it is no such file, or one that is not supported or that would take time out of proportion.
        FlaxModelsError: the library `protobuf` is not installed.
    """
    require("google.protobuf")
    data = open_bytes(path, mmap=False)[:].tobytes()
    proto = _parsed(path, data)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    pieces = [Piece(piece.piece, piece.score, piece.type) for piece in proto.pieces[:MAX_PIECES]]
    if problems := [*_problems(proto, pieces)]:
        raise CheckpointError(f"{path}: {'; '.join(problems)}. Fetch it again.")
    return SpmModel(
        pieces,
        trainer.model_type == BPE,
        trainer.byte_fallback,
        trainer.unk_id,
        normalizer.precompiled_charsmap,
        normalizer.add_dummy_prefix,
        normalizer.remove_extra_whitespaces,
    )


def _parsed(path: Path, data: bytes) -> Any:
    from google.protobuf.message import DecodeError

    proto = _message()()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise CheckpointError(f"{path} is no model of SentencePiece, or is damaged. Fetch it again.") from error
    return proto


def _problems(proto: Any, pieces: list[Piece]) -> Iterator[str]:
    if not 1 <= len(proto.pieces) <= MAX_PIECES:
        yield f"expected 1 to {MAX_PIECES:,} pieces, got {len(proto.pieces)}"
    if proto.trainer_spec.model_type not in (UNIGRAM, BPE):
        yield f"expected a model of unigrams or byte pairs, got type {proto.trainer_spec.model_type}"
    if not 0 <= proto.trainer_spec.unk_id < max(len(pieces), 1):
        yield f"unk_id: expected a piece from 0 to {len(pieces) - 1}, got {proto.trainer_spec.unk_id}"
    for index, piece in enumerate(pieces):
        if not 1 <= len(piece.text) <= MAX_PIECE_CHARS:
            yield f"pieces[{index}]: expected 1 to {MAX_PIECE_CHARS} characters, got {len(piece.text)}"
            return
        if not math.isfinite(piece.score):
            yield f"pieces[{index}] {excerpt(piece.text)}: expected a finite score, got {piece.score}"
            return


@functools.cache
def _message() -> Any:
    """The class of the message, made of the fields that are used; others are passed over."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="flaxmodels_spm.proto", package="flaxmodels_spm", syntax="proto2")
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, kind, default in fields:
            field: Any = described.field.add(name=name, number=number, label=3 if name == "pieces" else 1)
            if isinstance(kind, str):
                field.type, field.type_name = _MESSAGE, f".flaxmodels_spm.{kind}"
            else:
                field.type = kind
                if default:
                    field.default_value = default
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("flaxmodels_spm.Model"))

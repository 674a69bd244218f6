"""Byte pairs, as GPT-2's: bytes as characters, which are merged in the order in which the merges were learned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxmodels.errors import CheckpointError
from flaxmodels.files.location import Location
from flaxmodels.files.reading import read_json
from flaxmodels.tokenizer.excerpts import excerpt
from flaxmodels.tokenizer.families import Family
from flaxmodels.tokenizer.parts import build
from flaxmodels.tokenizer.text_files import read_lines

if TYPE_CHECKING:
    import tokenizers

_CLIP = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MAX_ID = 2**31 - 1
_END_OF_WORD = "</w>"


def byte_pairs(
    location: Location, merges_file: Path, family: Family, settings: Mapping[str, Any], tokens: Mapping[str, str]
) -> tokenizers.Tokenizer:
    """The backend of a `merges.txt`, which has two tokens a line, and of the `vocab.json` beside it.

    Raises:
        CheckpointError: a file is absent or cannot be read, or the library finds it wrong.
    """
    from tokenizers import Tokenizer, models

    vocabulary, merges = _read_vocabulary(location), _read_merges(merges_file)
    clip = {"end_of_word_suffix": _END_OF_WORD, "unk_token": tokens.get("unk_token")} if family.kind == "clip" else {}

    def make() -> tokenizers.Tokenizer:
        backend = Tokenizer(models.BPE(vocabulary, merges, **clip))
        _set_steps(backend, family.kind, settings.get("add_prefix_space") or False)
        return backend

    return build(merges_file, make)


def _set_steps(backend: tokenizers.Tokenizer, kind: str, add_prefix_space: bool) -> None:
    """How words are found, and how tokens become texts again."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    backend.decoder = decoders.ByteLevel()
    if kind == "clip":
        spaces = normalizers.Replace(Regex(r"\s+"), " ")
        backend.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
        words = pre_tokenizers.Split(Regex(_CLIP), "removed", invert=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        backend.decoder = clip_decoder()
    elif kind == "qwen2":
        backend.normalizer = normalizers.NFC()
        words = pre_tokenizers.Split(Regex(_QWEN2), "isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)


def clip_decoder() -> tokenizers.decoders.Decoder:
    """What makes a text of CLIP's tokens, whose words end with a mark in place of a space."""
    from tokenizers import Regex, decoders

    at_end = decoders.Replace(Regex(f"{_END_OF_WORD}$"), "")
    return decoders.Sequence([decoders.ByteLevel(), at_end, decoders.Replace(_END_OF_WORD, " ")])


def _read_vocabulary(location: Location) -> dict[str, int]:
    file = location.find("vocab.json")
    if file is None:
        raise CheckpointError(f"there is a merges.txt in {location.root}, and no vocab.json beside it. Fetch that too.")
    vocabulary = read_json(file)
    for token, index in vocabulary.items():
        if type(index) is not int or not 0 <= index <= _MAX_ID:
            raise CheckpointError(
                f"{file}: {excerpt(token)}: expected a token id, got {excerpt(index)}. Fetch it again."
            )
    return vocabulary


def _read_merges(file: Path) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(read_lines(file), 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        match line.split(" "):
            case [left, right]:
                merges.append((left, right))
            case _:
                raise CheckpointError(
                    f"{file}: line {number}: expected two tokens with a space between them, got {excerpt(line)}. "
                    "Fetch it again."
                )
    return merges

"""Word pieces, as BERT's: a word is split into the longest pieces that the vocabulary has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxmodels.files.location import Location
from flaxmodels.tokenizer.families import Family
from flaxmodels.tokenizer.parts import build
from flaxmodels.tokenizer.text_files import read_lines

if TYPE_CHECKING:
    import tokenizers


def word_pieces(
    location: Location, file: Path, family: Family, settings: Mapping[str, Any], tokens: Mapping[str, str]
) -> tokenizers.Tokenizer:
    """The backend of a `vocab.txt`, which has a token a line.

    Accents are stripped as `strip_accents` says, or else if letters are made small (`do_lower_case`).

    Raises:
        CheckpointError: the file cannot be read, or the library finds it wrong.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    def make() -> tokenizers.Tokenizer:
        vocabulary = {token: index for index, token in enumerate(read_lines(file))}
        backend = Tokenizer(models.WordPiece(vocabulary, unk_token=tokens["unk_token"]))
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=settings.get("tokenize_chinese_chars") is not False,
            strip_accents=settings.get("strip_accents"),
            lowercase=settings.get("do_lower_case") is not False,
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix="##")
        return backend

    return build(file, make)

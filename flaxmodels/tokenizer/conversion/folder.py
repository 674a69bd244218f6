"""Which vocabulary a folder has, and the backend that is made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxmodels.errors import CheckpointError, CheckpointNotFound
from flaxmodels.files.location import Location
from flaxmodels.tokenizer.conversion.byte_pairs import byte_pairs
from flaxmodels.tokenizer.conversion.sentencepiece import sentencepiece
from flaxmodels.tokenizer.conversion.word_pieces import word_pieces
from flaxmodels.tokenizer.families import BERT, Family, known_classes

if TYPE_CHECKING:
    import tokenizers

Convert = Callable[[Location, Path, Family, Mapping[str, Any], Mapping[str, str]], "tokenizers.Tokenizer"]
"""Makes a backend without a post-processor from a folder, the file in it, its family, settings and special tokens by
role."""

SENTENCEPIECE_FILES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "spm.model")
_FILES: Mapping[str, tuple[tuple[str, ...], Convert]] = {
    "byte pairs": (("merges.txt",), byte_pairs),
    "wordpiece": (("vocab.txt",), word_pieces),
    "sentencepiece": (SENTENCEPIECE_FILES, sentencepiece),
}
"""By kind of vocabulary the names of its files, and what reads them."""


def find_vocabulary(location: Location, family: Family | None, has_class: bool) -> tuple[Path, Family, Convert]:
    """The file of a folder's vocabulary, its family, and what converts it.

    Args:
        location: the folder.
        family: what is known of it.
        has_class: whether the folder says its "tokenizer_class", which must then be known. Word pieces are taken for
            BERT's if it does not.

    Raises:
        CheckpointNotFound: there is no vocabulary.
        CheckpointError: it is of a family that is not known.
    """
    for vocabulary, (names, convert) in _FILES.items():
        file = next((found for name in names if (found := location.find(name)) is not None), None)
        if file is None:
            continue
        if family is not None and family.vocabulary == vocabulary:
            return file, family, convert
        if vocabulary == "wordpiece" and not has_class:
            return file, BERT, convert
        raise CheckpointError(
            f"{file} is of a kind of tokenizer that is not known here: say tokenizer_class= with one of "
            f"{known_classes(vocabulary)}. transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...) makes "
            "a tokenizer.json of any that it knows."
        )
    raise CheckpointNotFound(
        f"{location.lacks('tokenizer')}: no tokenizer.json, vocab.txt, vocab.json with merges.txt, nor "
        f"{', '.join(SENTENCEPIECE_FILES)}. Name a folder with one, or a .gguf file. transformers' "
        "AutoTokenizer.from_pretrained(...).save_pretrained(...) makes a tokenizer.json of other files."
    )

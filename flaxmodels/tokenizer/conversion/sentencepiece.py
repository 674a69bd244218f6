"""SentencePiece's unigrams and byte pairs, with the tokens that each family adds to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxmodels.errors import CheckpointError
from flaxmodels.files.location import Location
from flaxmodels.tokenizer.conversion.merges import halves
from flaxmodels.tokenizer.conversion.spm_file import (
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    SpmModel,
    read_spm,
)
from flaxmodels.tokenizer.conversion.spm_vocabularies import NEVER, VOCABULARIES
from flaxmodels.tokenizer.families import Family
from flaxmodels.tokenizer.parts import build

if TYPE_CHECKING:
    import tokenizers


def sentencepiece(
    location: Location, file: Path, family: Family, settings: Mapping[str, Any], tokens: Mapping[str, str]
) -> tokenizers.Tokenizer:
    """The backend of a model of SentencePiece.

    Raises:
        CheckpointError: the file cannot be read, is of the other kind of model than its family, or the library finds it
            wrong.
    """
    model = read_spm(file)
    if model.is_bpe != (family.kind in ("llama", "gemma")):
        kinds = ("byte pairs", "unigrams") if model.is_bpe else ("unigrams", "byte pairs")
        raise CheckpointError(
            f"{file} has {kinds[0]}, and its tokenizer_class {kinds[1]}. Correct the one, or the other."
        )
    make = _byte_pairs if model.is_bpe else _unigrams
    return build(file, lambda: _with_added(make(model, family, settings, tokens), model))


def _with_added(backend: tokenizers.Tokenizer, model: SpmModel) -> tokenizers.Tokenizer:
    """Keeps the tokens whole that the file marks so."""
    from tokenizers import AddedToken

    whole = [piece for piece in model.pieces if piece.kind in (CONTROL, USER_DEFINED)]
    known = backend.get_vocab()
    backend.add_tokens(
        [AddedToken(p.text, normalized=False, special=p.kind == CONTROL) for p in whole if p.text in known]
    )
    return backend


def _byte_pairs(
    model: SpmModel, family: Family, settings: Mapping[str, Any], tokens: Mapping[str, str]
) -> tokenizers.Tokenizer:
    """As Llama's, which begins a text with a space, and Gemma's, which does not."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    texts, scores = [piece.text for piece in model.pieces], [piece.score for piece in model.pieces]
    mergeable = (index for index, piece in enumerate(model.pieces) if piece.kind in (NORMAL, USER_DEFINED))
    vocabulary = {text: index for index, text in enumerate(texts)}
    merges = halves(texts, scores, mergeable)
    options = {"unk_token": texts[model.unk_id], "fuse_unk": True, "byte_fallback": model.byte_fallback}
    backend = Tokenizer(models.BPE(vocabulary, merges, **options))
    decoding = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if family.kind == "gemma":
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        adds = settings.get("add_prefix_space") is not False
        if adds and settings.get("legacy"):  # after special tokens in a text too
            backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            scheme = "first" if adds else "never"
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        decoding += [decoders.Strip(" ", 1, 0)] if adds else []
    backend.decoder = decoders.Sequence(decoding)
    return backend


def _unigrams(
    model: SpmModel, family: Family, settings: Mapping[str, Any], tokens: Mapping[str, str]
) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = [(p.text, p.score + (NEVER if p.kind == UNUSED else 0.0)) for p in model.pieces]
    vocabulary, unk_id = VOCABULARIES[family.kind](pieces, model.unk_id, tokens, settings)
    backend = Tokenizer(models.Unigram(vocabulary, unk_id, model.byte_fallback))
    backend.normalizer = _normalizer(model, family.kind, settings)
    scheme = "always" if model.adds_prefix and settings.get("add_prefix_space") is not False else "never"
    if model.collapses_spaces:
        spaces = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    if model.byte_fallback:
        backend.decoder = decoders.Sequence([decoders.ByteFallback(), backend.decoder, decoders.Fuse()])
    return backend


def _normalizer(model: SpmModel, kind: str, settings: Mapping[str, Any]) -> tokenizers.normalizers.Normalizer:
    """How a text is written anew before it is split: by the map of the file, and by what ALBERT's code does before."""
    from tokenizers import Regex, normalizers

    steps: list[Any] = []
    if kind == "albert":
        steps += [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        if not settings.get("keep_accents"):
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
        if settings.get("do_lower_case") is not False:
            steps.append(normalizers.Lowercase())
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.collapses_spaces:
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    return normalizers.Sequence(steps)

"""Backends from vocabularies that are older than `tokenizer.json`."""

from flaxmodels.tokenizer.conversion.folder import SENTENCEPIECE_FILES, find_vocabulary
from flaxmodels.tokenizer.conversion.post_processors import post_processor
from flaxmodels.tokenizer.conversion.spm_vocabularies import own_special_tokens

__all__ = ["SENTENCEPIECE_FILES", "find_vocabulary", "own_special_tokens", "post_processor"]

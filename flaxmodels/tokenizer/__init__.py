"""Text to token ids and back, and chats to prompts, without transformers.

A thin layer over the libraries `tokenizers` and `jinja2`, which are imported when they are first needed. Its methods
have the names, the arguments, the defaults and the results of transformers' fast tokenizers.
"""

from flaxmodels.tokenizer.batch import BatchEncoding
from flaxmodels.tokenizer.folder import SETTINGS_FILES, VOCABULARY_FILES
from flaxmodels.tokenizer.stream import TextStream
from flaxmodels.tokenizer.tokenizer import Tokenizer

__all__ = ["SETTINGS_FILES", "VOCABULARY_FILES", "BatchEncoding", "TextStream", "Tokenizer"]

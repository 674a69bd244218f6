"""Text to token ids and back, and chats to prompts, without transformers.

A thin layer over the libraries `tokenizers` and `jinja2`, which are imported when they are first needed.
"""

from flaxmodels.tokenizer.stream import TextStream
from flaxmodels.tokenizer.tokenizer import Tokenizer

__all__ = ["TextStream", "Tokenizer"]

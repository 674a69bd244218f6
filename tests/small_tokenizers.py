"""Folders with small tokenizers of several families, made here, and strings that are hard for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

TEXTS = [
    "",
    "Hello, world!",
    "it's WE'LL they've I'd",
    "½ 12345 + 3.14 = 7²",
    "  two  spaces   three\tand a tab ",
    "line\nbreak\n\n\nand\r\nanother",
    "naïve café Ünïcödé",
    "日本語のテキスト、中文字符",
    "👩‍👩‍👧 family 🙂 emoji",
    "مرحبا بالعالم नमस्ते",
    "def f(x):\n    return [x ** 2 for _ in range(10)]  # comment",
    "<|im_start|>user\nHi<|im_end|>\n[MASK] <s></s> <mask>",
    "e\u0301 decomposed \u00a0no-break\u200bzero width",
    "antidisestablishmentarianism" * 3,
]
CORPUS = ["the quick brown fox jumps over the lazy dog", "she sells sea shells by the sea shore 123 4567", *TEXTS] * 3


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def trained(model, trainer, pre_tokenizer) -> dict:
    """The model of a tokenizer, learned from the corpus."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer
    backend.train_from_iterator(CORPUS, trainer)
    return json.loads(backend.to_str())["model"]


def write_word_pieces(folder: Path, **config) -> Path:
    """A `vocab.txt`, and a configuration."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=220, special_tokens=special, show_progress=False)
    vocabulary = trained(models.WordPiece(unk_token="[UNK]"), trainer, pre_tokenizers.BertPreTokenizer())["vocab"]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.get)))
    write_json(folder / "tokenizer_config.json", config)
    return folder


def write_byte_pairs(folder: Path, special, suffix="", **config) -> Path:
    """A `vocab.json` and a `merges.txt`, and a configuration."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options: dict[str, Any] = {"end_of_word_suffix": suffix} if suffix else {}
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False, **options
    )
    model = trained(models.BPE(**options), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False))
    folder.mkdir(exist_ok=True)
    write_json(folder / "vocab.json", model["vocab"])
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", config)
    return folder

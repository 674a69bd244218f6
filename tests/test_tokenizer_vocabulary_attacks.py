"""Hostile and odd vocabularies from before `tokenizer.json`: each is read, or refused by a message that names it."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from small_tokenizers import write_json

from flaxmodels.errors import CheckpointError, FlaxModelsError
from flaxmodels.tokenizer import Tokenizer
from flaxmodels.tokenizer.conversion import spm_file

MODELS = Path(__file__).parent / "fixtures" / "sentencepiece"
WORDS = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n"
PAIRS = {"vocab.json": '{"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}', "merges.txt": "#version: 0.2\na b\n"}
AGAIN = "Fetch or convert it again."
FETCH = "Fetch it again."


@pytest.fixture(autouse=True)
def _no_hang():
    signal.alarm(20)
    yield
    signal.alarm(0)


def read(folder, files, config, **settings):
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    write_json(folder / "tokenizer_config.json", config)
    return Tokenizer.from_pretrained(folder, **settings)


def spm(name="t5", edits=()):
    """A model of SentencePiece with other values, by dotted names."""
    proto = spm_file._message()()
    proto.ParseFromString((MODELS / f"{name}.model").read_bytes())
    for path, value in dict(edits).items():
        *parents, last = path.split(".")
        target = proto
        for parent in parents:
            target = target[int(parent)] if parent.isdecimal() else getattr(target, parent)
        setattr(target, last, value)
    return proto.SerializeToString()


def model(data, tokenizer_class="T5Tokenizer", **config):
    return {"spiece.model": data}, {"tokenizer_class": tokenizer_class, **config}


BERT, GPT2 = {"tokenizer_class": "BertTokenizer"}, {"tokenizer_class": "GPT2Tokenizer"}
PIECES = len(spm_file.read_spm(MODELS / "t5.model").pieces)
AT_LOAD = {
    "words that are no text": (
        ({"vocab.txt": b"a\n\xff\n"}, BERT),
        "{folder}/vocab.txt: byte 2 is not UTF-8. Correct it, or fetch it again.",
    ),
    "ids as texts": (
        (PAIRS | {"vocab.json": '{"a": "b"}'}, GPT2),
        "{folder}/vocab.json: 'a': expected a token id, got 'b'. Fetch it again.",
    ),
    "negative id": (
        (PAIRS | {"vocab.json": '{"a": -1}'}, GPT2),
        "{folder}/vocab.json: 'a': expected a token id, got -1. Fetch it again.",
    ),
    "large id": (
        (PAIRS | {"vocab.json": '{"a": 2147483648}'}, GPT2),
        "{folder}/vocab.json: 'a': expected a token id, got 2147483648. Fetch it again.",
    ),
    "token twice": (
        (PAIRS | {"vocab.json": '{"a": 1, "a": 2}'}, GPT2),
        "vocab.json: invalid JSON (duplicate keys). Download or copy it again.",
    ),
    "no vocabulary": (
        ({"merges.txt": "a b\n"}, GPT2),
        "there is a merges.txt in {folder}, and no vocab.json beside it. Fetch that too.",
    ),
    "merge of three": (
        (PAIRS | {"merges.txt": "#version: 0.2\na b\na b c\n"}, GPT2),
        "{folder}/merges.txt: line 3: expected two tokens with a space between them, got 'a b c'. Fetch it again.",
    ),
    "merge of unknown tokens": (
        (PAIRS | {"merges.txt": "a c\n"}, GPT2),
        f"{{folder}}/merges.txt makes no tokenizer: Error while initializing BPE: Token `c` out of vocabulary. {AGAIN}",
    ),
    "no class": (
        (PAIRS, {}),
        "{folder}/merges.txt is of a kind of tokenizer that is not known here: say tokenizer_class= with one of "
        "GPT2Tokenizer, RobertaTokenizer, BartTokenizer, CLIPTokenizer, WhisperTokenizer, Qwen2Tokenizer. "
        "transformers' "
        "AutoTokenizer.from_pretrained(...).save_pretrained(...) makes a tokenizer.json of any that it knows.",
    ),
    "no ends": (
        ({"vocab.txt": "a\n[UNK]\n"}, BERT),
        f"{{folder}}/vocab.txt makes no tokenizer: it has no cls_token, which is put around texts. {AGAIN}",
    ),
    "no model": (
        model(b"\xff" * 99),
        "{folder}/spiece.model is no model of SentencePiece, or is damaged. Fetch it again.",
    ),
    "cut": (
        model(spm()[:1000]),
        "{folder}/spiece.model is no model of SentencePiece, or is damaged. Fetch it again.",
    ),
    "empty": (model(b""), f"{{folder}}/spiece.model: expected 1 to 2,000,000 pieces, got 0. {FETCH}"),
    "kind": (
        model(spm(edits={"trainer_spec.model_type": 4})),
        f"{{folder}}/spiece.model: expected a model of unigrams or byte pairs, got type 4. {FETCH}",
    ),
    "unknown token": (
        model(spm(edits={"trainer_spec.unk_id": 10**6})),
        f"{{folder}}/spiece.model: unk_id: expected a piece from 0 to {PIECES - 1}, got 1000000. {FETCH}",
    ),
    "score": (
        model(spm(edits={"pieces.7.score": float("nan")})),
        f"{{folder}}/spiece.model: pieces[7] {{piece}}: expected a finite score, got nan. {FETCH}",
    ),
    "piece without end": (
        model(spm(edits={"pieces.7.piece": "a" * 513})),
        f"{{folder}}/spiece.model: pieces[7]: expected 1 to 512 characters, got 513. {FETCH}",
    ),
    "no piece": (
        model(spm(edits={"pieces.7.piece": ""})),
        f"{{folder}}/spiece.model: pieces[7]: expected 1 to 512 characters, got 0. {FETCH}",
    ),
    "charsmap": (
        model(spm(edits={"normalizer_spec.precompiled_charsmap": b"abc"})),
        f"{{folder}}/spiece.model makes no tokenizer: Error while attempting to build Precompiled normalizer: Cannot "
        "parse "
        f"precompiled_charsmap. {AGAIN}",
    ),
    "other kind of model": (
        model(spm("llama")),
        "{folder}/spiece.model has byte pairs, and its tokenizer_class unigrams. Correct the one, or the other.",
    ),
    "language": (
        model(spm("xlm-roberta"), "MBartTokenizer", src_lang="xx_XX"),
        f"{{folder}}/spiece.model makes no tokenizer: it has no token 'xx_XX', which is put around texts. {AGAIN}",
    ),
    "ids of added tokens": (
        ({"vocab.txt": WORDS, "added_tokens.json": '{"b": "c"}'}, BERT),
        "{folder}/added_tokens.json: 'b': expected a token id, got 'c'. Correct it.",
    ),
    "added token elsewhere": (
        ({"vocab.txt": WORDS, "added_tokens.json": '{"b": 9}'}, BERT),
        "{folder}: the added token 'b' has the id 9, and would get 6: the vocabulary is of another size. Fetch the "
        "files "
        "again.",
    ),
    "added tokens without end": (
        ({"vocab.txt": WORDS, "added_tokens.json": json.dumps({"b" * 1_000_001: 6})}, BERT),
        "{folder}: added tokens have 1,000,027 characters, more than 1,000,000.",
    ),
    "added tokens as a list": (
        ({"vocab.txt": WORDS}, {"added_tokens_decoder": [1]}),
        "{folder}/tokenizer_config.json: added_tokens_decoder: expected an object with an added token for each id, got "
        "[1]. Correct it, or fetch it again.",
    ),
    "flag of an added token": (
        ({"vocab.txt": WORDS}, {"added_tokens_decoder": {"1": {"content": "a", "lstrip": 1}}}),
        "{folder}/tokenizer_config.json: added_tokens_decoder: expected an object with an added token for each id, got "
        "{{'1': {{'content': 'a', 'lstrip': 1}}}}. Correct it, or fetch it again.",
    ),
    "settings": (
        ({"vocab.txt": WORDS}, {"padding_side": "up", "model_max_length": "x", "do_lower_case": 1}),
        "{folder}/tokenizer_config.json: model_max_length: expected a number of tokens, got 'x'; padding_side: "
        "expected "
        '"left" or "right", got \'up\'; do_lower_case: expected true or false, got 1. Correct it, or fetch it again.',
    ),
}


@pytest.mark.parametrize(("case", "message"), AT_LOAD.values(), ids=AT_LOAD)
def test_a_hostile_vocabulary_is_refused(tmp_path, case, message):
    piece = ascii(spm_file.read_spm(MODELS / "t5.model").pieces[7].text)
    with pytest.raises(CheckpointError, match=f"^{re.escape(message.format(folder=tmp_path, piece=piece))}$"):
        read(tmp_path, *case)


def test_a_map_that_makes_texts_long_is_refused(tmp_path):
    """A published map with a text without end: texts would become hundreds of thousands of times as long."""
    charsmap = spm_file.read_spm(MODELS / "t5.model").charsmap
    size = int.from_bytes(charsmap[:4], "little")
    longer = charsmap[: 4 + size] + b"a" * 100_000 + b"\0"
    limit = "its steps to encode make a text up to 4e+05 times as long"
    message = f"{tmp_path}: {limit}. Use the files of a publisher that you trust."
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        read(tmp_path, *model(spm(edits={"normalizer_spec.precompiled_charsmap": longer})))


def test_words_without_an_unknown_one_are_named_in_use(tmp_path):
    tokenizer = read(tmp_path, {"vocab.txt": "[CLS]\n[SEP]\na\n"}, BERT)
    message = "the tokenizer cannot encode these texts: WordPiece error: Missing [UNK] token from the vocabulary."
    with pytest.raises(FlaxModelsError, match=f"^{re.escape(message)}$"):
        tokenizer("b")


def test_lengths_of_the_file_are_not_padded_to_without_end(tmp_path):
    tokenizer = read(tmp_path, {"vocab.txt": WORDS}, BERT | {"model_max_length": 10**12})
    message = "padding: expected rows of at most 10,000,000 tokens, got 1,000,000,000,000."
    with pytest.raises(FlaxModelsError, match=f"^{re.escape(message)}$"):
        tokenizer("a", padding="max_length")
    assert tokenizer("a", truncation=True)["input_ids"] == [2, 5, 3]


def test_arguments_that_are_no_settings_are_named(tmp_path):
    with pytest.raises(FlaxModelsError) as raised:
        read(tmp_path, {"vocab.txt": WORDS}, BERT, padding="left", do_lower_case="no", use_fast=False)
    first, _, settings = str(raised.value).partition(". Settings are ")
    assert first == (
        "padding: not an argument of from_pretrained; use_fast: not an argument of from_pretrained; do_lower_case: "
        "expected true or false, got 'no'"
    )
    assert "padding_side, truncation_side" in settings


def test_lines_may_end_as_on_windows(tmp_path):
    tokenizer = read(tmp_path, {"vocab.txt": WORDS.replace("\n", "\r\n")}, BERT)
    assert tokenizer("a a")["input_ids"] == [2, 5, 5, 3]


def test_many_added_tokens_are_added_at_once(tmp_path):
    added = {f"<{number}>": number + 6 for number in range(50_000)}
    tokenizer = read(tmp_path, {"vocab.txt": WORDS, "added_tokens.json": json.dumps(added)}, BERT)
    assert tokenizer("a<49999>")["input_ids"] == [2, 5, 50_005, 3]

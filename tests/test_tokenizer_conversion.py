"""Vocabularies that are older than `tokenizer.json`, against transformers' fast tokenizers of the same files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_tokenizers import TEXTS, write_byte_pairs, write_json, write_word_pieces
from transformers import AutoTokenizer

from flaxmodels.errors import CheckpointError, FlaxModelsError
from flaxmodels.tokenizer import Tokenizer

FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
END = ["<|endoftext|>"]
BERT, DISTILBERT = {"tokenizer_class": "BertTokenizer"}, {"tokenizer_class": "DistilBertTokenizer"}
FLAGS = {"rstrip": False, "normalized": False, "special": True, "single_word": False}
MASK: dict[str, Any] = {"mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True} | FLAGS}


def with_model_type(model_type, write, **kwargs):
    """A folder whose `config.json` says what its tokenizer is."""

    def made(folder):
        write(folder, **kwargs)
        write_json(folder / "config.json", {"model_type": model_type})
        return folder

    return made


def byte_pairs(tokenizer_class, special, suffix="", **config):
    return lambda folder: write_byte_pairs(folder, special, suffix, **{"tokenizer_class": tokenizer_class, **config})


def whisper(folder):
    """With tokens that were added later, in a file of their own."""
    write_byte_pairs(folder, END, tokenizer_class="WhisperTokenizer")
    size = len(json.loads((folder / "vocab.json").read_text()))
    tokens = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    write_json(folder / "added_tokens.json", {token: size + index for index, token in enumerate(tokens)})
    return folder


FOLDERS = {
    "bert": lambda folder: write_word_pieces(folder, **BERT),
    "bert, cased": lambda folder: write_word_pieces(folder, **BERT, do_lower_case=False),
    "bert, accents": lambda folder: write_word_pieces(folder, **BERT, strip_accents=False),
    "bert, no accents": lambda folder: write_word_pieces(folder, **BERT, do_lower_case=False, strip_accents=True),
    "bert, chinese": lambda folder: write_word_pieces(folder, **BERT, tokenize_chinese_chars=False),
    "bert, other tokens": lambda folder: write_word_pieces(folder, **BERT, cls_token="[MASK]", bos_token="<bos>"),
    "bert, more tokens": lambda folder: write_word_pieces(
        folder, **BERT, additional_special_tokens=["<e1>", MASK["mask_token"] | {"content": "<e2>"}]
    ),
    "bert, fast": lambda folder: write_word_pieces(folder, tokenizer_class="BertTokenizerFast", model_max_length=9),
    "electra": with_model_type("electra", write_word_pieces),
    "distilbert": lambda folder: write_word_pieces(folder, **DISTILBERT),
    "gpt2": byte_pairs("GPT2Tokenizer", END),
    "gpt2, prefix": byte_pairs("GPT2Tokenizer", END, add_prefix_space=True),
    "gptj": with_model_type("gptj", write_byte_pairs, special=END),
    "opt": byte_pairs("GPT2Tokenizer", FAIRSEQ, add_bos_token=True, pad_token="<pad>",
                      bos_token="</s>", eos_token="</s>", unk_token="</s>"),
    "gpt2, ends": byte_pairs("GPT2Tokenizer", [*END, "<bos>"], bos_token="<bos>",
                             add_bos_token=True, add_eos_token=True),
    "roberta": byte_pairs("RobertaTokenizer", FAIRSEQ, **MASK),
    "roberta, prefix": byte_pairs("RobertaTokenizer", FAIRSEQ, **MASK, add_prefix_space=True, trim_offsets=False),
    "bart": byte_pairs("BartTokenizer", FAIRSEQ, **MASK),
    "clip": byte_pairs("CLIPTokenizer", ["<|startoftext|>", *END], "</w>"),
    "whisper": whisper,
    "qwen2": byte_pairs("Qwen2Tokenizer", END),
}  # fmt: skip
CALLS = [
    (("the quick brown fox",), {}),
    (("she sells", " sea shells "), {"return_offsets_mapping": True, "return_token_type_ids": True}),
    ((TEXTS,), {"return_offsets_mapping": True, "return_special_tokens_mask": True}),
    ((TEXTS, TEXTS[::-1]), {"truncation": True, "max_length": 12, "return_overflowing_tokens": True}),
    ((["the", "quick", "Ünïcödé"],), {"is_split_into_words": True, "return_token_type_ids": True}),
]


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request, tmp_path_factory):
    return FOLDERS[request.param](tmp_path_factory.mktemp("made"))


def same(ours, theirs):
    """Whether two tokenizers do the same, and know the same tokens."""
    for args, kwargs in CALLS:
        assert dict(ours(*args, **kwargs)) == dict(theirs(*args, **kwargs))
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        for skip in (False, True):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip)
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.all_special_ids == theirs.all_special_ids
    for name in ("padding_side", "truncation_side", "model_max_length", "model_input_names"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.get_vocab() == theirs.get_vocab()


def test_vocabularies_equal_transformers(folder):
    same(Tokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))


def test_what_is_saved_is_read_back_here_and_by_transformers(folder, tmp_path):
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<new>"]})
    saved = tokenizer.save_pretrained(tmp_path)
    assert sorted(saved) == sorted(str(path) for path in tmp_path.iterdir())
    again, theirs = Tokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    same(again, tokenizer)
    same(again, theirs)
    assert again.additional_special_tokens == theirs.extra_special_tokens == ["<new>"]


MODELS = Path(__file__).parent / "fixtures" / "sentencepiece"
EXPECTED = json.loads((MODELS / "expected.json").read_text())
SPOKEN = [text for text in TEXTS if "<" not in text]
FAMILIES = {
    "t5": ("t5", "spiece.model", "T5Tokenizer", 0, "A </s>", "A </s> B </s>"),
    "albert": ("albert", "spiece.model", "AlbertTokenizer", 0, "[CLS] A [SEP]", "[CLS] A [SEP] B [SEP]"),
    "xlm-roberta": (
        *("xlm-roberta", "sentencepiece.bpe.model", "XLMRobertaTokenizer", 1, "<s> A </s>", "<s> A </s> </s> B </s>"),
    ),
    "camembert": (
        *("xlm-roberta", "sentencepiece.bpe.model", "CamembertTokenizer", 4, "<s> A </s>", "<s> A </s> </s> B </s>"),
    ),
    "mbart": ("xlm-roberta", "sentencepiece.bpe.model", "MBartTokenizer", 1, "A </s> en_XX", "A B </s> en_XX"),
    "mbart50": ("xlm-roberta", "sentencepiece.bpe.model", "MBart50Tokenizer", 1, "en_XX A </s>", "en_XX A B </s>"),
    "pegasus": ("t5", "spiece.model", "PegasusTokenizer", 103, "A </s>", "A B </s>"),
    "spaces": ("spaces", "spiece.model", "MT5Tokenizer", 0, "A </s>", "A </s> B </s>"),
    "llama": ("llama", "tokenizer.model", "LlamaTokenizer", 0, "<s> A", "<s> A <s> B"),
    "gemma": ("gemma", "tokenizer.model", "GemmaTokenizer", 0, "<bos> A", "<bos> A <bos> B"),
}
"""By family: the model, its name in a folder, the class, what is added to its ids, and what is around one text and "
"two."""


def write_model(folder, model, name, tokenizer_class, **config):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes((MODELS / f"{model}.model").read_bytes())
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": tokenizer_class, "legacy": True, **config})
    return folder


@pytest.mark.parametrize(
    ("model", "name", "tokenizer_class", "offset", "single", "pair"), FAMILIES.values(), ids=FAMILIES
)
def test_models_of_sentencepiece_equal_sentencepiece(tmp_path, model, name, tokenizer_class, offset, single, pair):
    """Ids and texts are those that SentencePiece itself made, see fixtures/sentencepiece/make.py."""
    tokenizer = Tokenizer.from_pretrained(write_model(tmp_path, model, name, tokenizer_class))
    for text, ids, decoded in zip(SPOKEN, EXPECTED[model]["ids"], EXPECTED[model]["texts"], strict=True):
        if model == "spaces" and "\r\n" in text:
            continue  # the library takes the two for one character, where its map has one of them
        # Families of fairseq have the unknown token at 3, and one more than the file before its pieces.
        expected = [3 if index == 0 and model == "xlm-roberta" else index + offset for index in ids]
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert found == expected, text
        if tokenizer.unk_token_id not in found:
            assert tokenizer.decode(found) == decoded
    assert tokenizer.tokenize("a", add_special_tokens=True) == around(tokenizer, single)
    assert tokenizer.tokenize("a", "c d", add_special_tokens=True) == around(tokenizer, pair)
    if model == "albert":
        assert tokenizer("a", "c")["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    tokenizer.save_pretrained(tmp_path / "saved")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    same(Tokenizer.from_pretrained(tmp_path / "saved"), theirs)
    same(tokenizer, theirs)


def around(tokenizer, template):
    """The tokens of a template, in which A and B are two texts."""
    texts = {"A": tokenizer.tokenize("a"), "B": tokenizer.tokenize("c d")}
    return [token for part in template.split() for token in texts.get(part, [part])]


def test_special_tokens_of_families(tmp_path):
    tokenizer = Tokenizer.from_pretrained(write_model(tmp_path, *FAMILIES["t5"][:3], extra_ids=5))
    assert tokenizer.additional_special_tokens == [f"<extra_id_{index}>" for index in range(5)]
    assert tokenizer.additional_special_tokens_ids == [len(tokenizer) - 1 - index for index in range(5)]
    assert tokenizer.tokenize("a <extra_id_0> b") == ["▁", "a", "<extra_id_0>", "▁b"]
    tokenizer = Tokenizer.from_pretrained(write_model(tmp_path, *FAMILIES["mbart"][:3], src_lang="ro_RO"))
    assert tokenizer.tokenize("a", add_special_tokens=True)[-2:] == ["</s>", "ro_RO"]
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert tokenizer.mask_token_id == len(tokenizer) - 1
    tokenizer.save_pretrained(tmp_path)
    stated = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"tokenizer_class": "MBartTokenizer"}
    write_json(tmp_path / "tokenizer_config.json", stated)
    tokenizer = Tokenizer.from_pretrained(tmp_path, src_lang="cs_CZ")
    assert tokenizer.tokenize("a", add_special_tokens=True)[-2:] == ["</s>", "cs_CZ"]
    tokenizer.settings["tgt_lang"] = "ro_RO"
    message = (
        "text_target: this tokenizer marks texts as 'cs_CZ', and its tgt_lang is 'ro_RO'. Call another one on the "
        "targets, which from_pretrained(..., src_lang='ro_RO') gives."
    )
    with refused(FlaxModelsError, message):
        tokenizer("a", text_target="b")
    tokenizer = Tokenizer.from_pretrained(write_model(tmp_path / "pegasus", *FAMILIES["pegasus"][:3]))
    assert tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk_2>", "<unk>"]) == [
        *(0, 1, 2, 3, 4, 105)
    ]


def test_llama_begins_the_first_text_or_each_with_a_space(tmp_path):
    options = FAMILIES["llama"][:3]
    tokenizer = Tokenizer.from_pretrained(write_model(tmp_path, *options, legacy=False, add_eos_token=True))
    assert tokenizer.tokenize("a</s>a", add_special_tokens=True) == ["<s>", "▁a", "</s>", "a", "</s>"]
    assert (tokenizer.padding_side, tokenizer.decode(tokenizer("a b")["input_ids"], True)) == ("left", "a b")
    tokenizer = Tokenizer.from_pretrained(write_model(tmp_path, *options))
    assert tokenizer.tokenize("a</s>a") == ["▁a", "</s>", "▁a"]
    tokenizer = Tokenizer.from_pretrained(write_model(tmp_path, *options, legacy=False, add_prefix_space=False))
    assert tokenizer.tokenize("a</s>a") == ["a", "</s>", "a"]


def test_masks_take_the_space_before_them(tmp_path):
    """As in transformers up to 4.57, with which models were trained; 5 leaves it."""
    tokenizer = Tokenizer.from_pretrained(write_byte_pairs(tmp_path, FAIRSEQ, tokenizer_class="RobertaTokenizer"))
    assert tokenizer.convert_ids_to_tokens(tokenizer("a <mask>.")["input_ids"]) == ["<s>", "a", "<mask>", ".", "</s>"]


def test_word_pieces_are_those_of_bert_unless_a_class_says_otherwise(tmp_path):
    write_word_pieces(tmp_path)
    for config in ({}, {"model_type": "albert"}, {"hidden_size": 4}):
        write_json(tmp_path / "config.json", config)
        assert Tokenizer.from_pretrained(tmp_path)("The", "dog")["token_type_ids"] == [0, 0, 0, 1, 1, 1, 1]
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"})
    message = (
        f"{tmp_path / 'vocab.txt'} is of a kind of tokenizer that is not known here: say tokenizer_class= with one of "
        "BertTokenizer, ElectraTokenizer, DistilBertTokenizer, MPNetTokenizer. transformers' "
        "AutoTokenizer.from_pretrained(...).save_pretrained(...) makes a tokenizer.json of any that it knows."
    )
    with refused(CheckpointError, message):
        Tokenizer.from_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path, tokenizer_class="BertTokenizer").cls_token == "[CLS]"


def test_mpnet_has_two_separators_and_its_own_unknown_token(tmp_path):
    words = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>", "the", "dog"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = Tokenizer.from_pretrained(tmp_path, tokenizer_class="MPNetTokenizer")
    assert tokenizer.tokenize("The dog", "<mask> x", add_special_tokens=True) == [
        *("<s>", "the", "dog", "</s>", "</s>", "<mask>", "[UNK]", "</s>")
    ]


def refused(error, message):
    return pytest.raises(error, match=f"^{re.escape(message)}$")


SETTINGS = {
    "padding_side": {"padding_side": "left"},
    "do_lower_case": {"do_lower_case": False},
    "model_max_length": {"model_max_length": 7},
    "pad_token": {"pad_token": "[MASK]"},
    "bos_token": {"bos_token": "<bos>"},
    "tokens": {"additional_special_tokens": ["<x>", "<y>"]},
    "own roles": {"extra_special_tokens": {"image_token": "<image>", "audio_token": "[MASK]"}},
    "own role": {"image_token": "<image>"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_arguments_count_in_place_of_settings_as_in_transformers(tmp_path, settings):
    folder = write_word_pieces(tmp_path, **BERT, padding_side="right", model_max_length=9)
    same(Tokenizer.from_pretrained(folder, **settings), AutoTokenizer.from_pretrained(folder, **settings))


STEPS = {
    "bert": (write_word_pieces, {}, BERT,
             {"do_lower_case": False, "strip_accents": False, "tokenize_chinese_chars": False}),
    "roberta": (write_byte_pairs, {"special": FAIRSEQ}, {"tokenizer_class": "RobertaTokenizer", **MASK},
                {"add_prefix_space": True, "trim_offsets": False}),
    "gpt2": (write_byte_pairs, {"special": END}, {"tokenizer_class": "GPT2Tokenizer"}, {"add_prefix_space": True}),
}  # fmt: skip


@pytest.mark.parametrize(("write", "options", "config", "settings"), STEPS.values(), ids=STEPS)
def test_settings_change_a_tokenizer_json_as_in_transformers(tmp_path, write, options, config, settings):
    Tokenizer.from_pretrained(write(tmp_path / "made", **options, **config)).save_pretrained(tmp_path)
    same(Tokenizer.from_pretrained(tmp_path, **settings), AutoTokenizer.from_pretrained(tmp_path, **settings))
    stated = json.loads((tmp_path / "tokenizer_config.json").read_text()) | settings
    write_json(tmp_path / "tokenizer_config.json", stated)
    same(Tokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path))


def test_settings_that_change_no_tokenizer_json_are_refused(tmp_path):
    Tokenizer.from_pretrained(write_word_pieces(tmp_path, **BERT)).save_pretrained(tmp_path)
    message = "add_prefix_space: the tokenizer.json has no step that it changes. Leave it out."
    with refused(FlaxModelsError, message):
        Tokenizer.from_pretrained(tmp_path, add_prefix_space=True)
    with refused(FlaxModelsError, "legacy, extra_ids: the tokenizer.json is made already. Leave it out."):
        Tokenizer.from_pretrained(tmp_path, legacy=True, extra_ids=5)
    with refused(FlaxModelsError, "src_lang: only a tokenizer of mBART marks its texts with a language. Leave it out."):
        Tokenizer.from_pretrained(tmp_path, src_lang="ro_RO")


@pytest.mark.parametrize("name", ["legacy_format", "filename_prefix"])
def test_other_files_are_not_written(tmp_path, name):
    tokenizer = Tokenizer.from_pretrained(write_word_pieces(tmp_path, **BERT))
    with refused(FlaxModelsError, f"{name} is not supported: tokenizer.json is what is written. Leave it out."):
        tokenizer.save_pretrained(tmp_path, **dict[str, Any]({name: "x"}))


def test_ends_can_be_added_to_a_tokenizer_json(tmp_path):
    Tokenizer.from_pretrained(write_byte_pairs(tmp_path, END, tokenizer_class="GPT2Tokenizer")).save_pretrained(
        tmp_path
    )
    options: dict[str, Any] = {"add_bos_token": True, "add_eos_token": True}
    ours, theirs = (auto.from_pretrained(tmp_path, **options) for auto in (Tokenizer, AutoTokenizer))
    for pair in (None, "b"):
        assert dict(ours("a", pair, return_token_type_ids=True)) == dict(theirs("a", pair, return_token_type_ids=True))
    assert ours.tokenize("a", add_special_tokens=True) == [*END, "a", *END]

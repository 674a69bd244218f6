"""Hostile and odd tokenizers: each file is read, or refused by a message that names it. Nothing panics or hangs."""

from __future__ import annotations

import base64
import json
import signal

import numpy as np
import pytest
import tokenizers
from test_tokenizer import byte_level_keys, refused, sentencepiece_keys, write_gguf

from flaxmodels.errors import CheckpointError, FlaxModelsError
from flaxmodels.tokenizer import Tokenizer, encoder

PLAIN = json.loads(tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]")).to_str())
TRUST = "Use the files of a publisher that you trust."
AGAIN = "Fetch or convert it again."


@pytest.fixture(autouse=True)
def _no_hang():
    signal.alarm(20)
    yield
    signal.alarm(0)


def split(expression):
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def sequence(key, steps):
    return {"type": "Sequence", key: steps}


def template(*pieces):
    names = {"A": {"Sequence": {"id": "A", "type_id": 0}}, "X": {"SpecialToken": {"id": "X", "type_id": 0}}}
    single = [names[piece] for piece in pieces]
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}}


def added(content, **keys):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": 5, "content": content, **flags, **keys}


def charsmap(*texts):
    return base64.b64encode(bytes(4) + b"\0".join(text.encode() for text in texts)).decode()


def precompiled(charsmap):
    return {"type": "Precompiled", "precompiled_charsmap": charsmap}


def read(folder, edit):
    (folder / "tokenizer.json").write_text(json.dumps(PLAIN | edit))
    return Tokenizer.from_pretrained(folder)


NO_MAP = 'Precompiled: Error("Cannot parse precompiled_charsmap", line: 0, column: 0)'
TIMES = "its steps to {} make a text up to {} times as long"
AT_LOAD = {
    "empty charsmap": ({"normalizer": precompiled("")}, NO_MAP, AGAIN),
    "unknown token in a template": ({"post_processor": template("X", "A")}, "no entry found for key", AGAIN),
    "merge longer than its tokens": (
        {"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": [["a", "b"]]}},
        "range end index 2 out of range for slice of length 1",
        AGAIN,
    ),
    "no model": (
        {"model": None},
        "data did not match any variant of untagged enum ModelUntagged at line 1 column 174",
        AGAIN,
    ),
    "added tokens of a wrong type": (
        {"added_tokens": [{"id": "x"}]},
        'invalid type: string "x", expected u32 at line 1 column 83',
        AGAIN,
    ),
    "expression that is none": (
        {"pre_tokenizer": split("(a")},
        "Oniguruma error: end pattern with unmatched parenthesis at line 1 column 199",
        AGAIN,
    ),
    "growth by a factor": (
        {"normalizer": sequence("normalizers", [replace("a", "a" * 11)] * 4)},
        TIMES.format("encode", "1e+04"),
        TRUST,
    ),
    "growth of all characters": (
        {"normalizer": replace(".", "ab" * 6000, "Regex")},
        TIMES.format("encode", "1e+04"),
        TRUST,
    ),
    "growth in bytes": (
        {"pre_tokenizer": sequence("pretokenizers", [{"type": "ByteLevel"}] * 30)},
        TIMES.format("encode", "1e+09"),
        TRUST,
    ),
    "growth beyond numbers": (
        {"pre_tokenizer": sequence("pretokenizers", [{"type": "ByteLevel"}] * 2000)},
        TIMES.format("encode", "inf"),
        TRUST,
    ),
    "growth by a charsmap": (
        {"normalizer": sequence("normalizers", [precompiled(charsmap("a" * 200))] * 2)},
        TIMES.format("encode", "4e+04"),
        TRUST,
    ),
    "text many times": ({"post_processor": template(*"A" * 20_000)}, TIMES.format("encode", "2e+04"), TRUST),
    "growth of tokens": (
        {"decoder": sequence("decoders", [replace("a", "a" * 99)] * 3)},
        TIMES.format("decode", "1e+06"),
        TRUST,
    ),
    "expression in a normalizer": (
        {"normalizer": replace("(a|a){21}[b-c]", "x", "Regex")},
        "normalizer: the regular expression '(a|a){21}[b-c]' may take exponential time",
        TRUST,
    ),
    "expression in a decoder": (
        {"decoder": replace(r"\s*\s*\s*x", "x", "Regex")},
        "decoder: the regular expression '\\\\s*\\\\s*\\\\s*x' may take exponential time",
        TRUST,
    ),
    "added tokens without end": (
        {"added_tokens": [added("a" * 600_000), added("b" * 600_000)]},
        "added_tokens have 1,200,000 characters, more than 1,000,000",
        TRUST,
    ),
}


@pytest.mark.parametrize(("edit", "reason", "remedy"), AT_LOAD.values(), ids=AT_LOAD)
def test_a_hostile_tokenizer_json_is_refused(tmp_path, edit, reason, remedy):
    verb = ":" if remedy == TRUST else " makes no tokenizer:"
    with refused(CheckpointError, f"{tmp_path / 'tokenizer.json'}{verb} {reason}. {remedy}"):
        read(tmp_path, edit)


ENCODE, DECODE = "the tokenizer cannot encode these texts: {}.", "the tokenizer cannot decode these ids: {}."
FIT = "to fit in target type"
IN_USE = {
    "expression that backtracks": (
        {"pre_tokenizer": split("(a+)+$")},
        lambda tokenizer: tokenizer("a" * 40 + "b"),
        ENCODE.format("Onig: Regex search error: retry-limit-in-match over"),
    ),
    "pieces of no length": (
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        lambda tokenizer: tokenizer("a"),
        ENCODE.format("chunk size must be non-zero"),
    ),
    "no unknown token": (
        {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}},
        lambda tokenizer: tokenizer("b"),
        ENCODE.format("WordLevel error: Missing [UNK] token from the vocabulary"),
    ),
    "id that is no int32": (
        {"model": {"type": "WordLevel", "vocab": {"a": 4_000_000_000}, "unk_token": "a"}},
        lambda tokenizer: tokenizer("b", return_tensors="np"),
        "the tokenizer has the token id 4000000000, which is no int32.",
    ),
    "strip beyond the text": (
        {"decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 9}},
        lambda tokenizer: tokenizer.decode([0]),
        DECODE.format("index out of bounds: the len is 1 but the index is 18446744073709551615"),
    ),
    "strip beyond the text of a stream": (
        {"decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 9}},
        lambda tokenizer: tokenizer.stream()([0]),
        DECODE.format("index out of bounds: the len is 1 but the index is 18446744073709551615"),
    ),
    "negative id": ({}, lambda tokenizer: tokenizer.decode([-1]), DECODE.format(f"number too small {FIT}")),
    "large id": ({}, lambda tokenizer: tokenizer.decode([2**32]), DECODE.format(f"number too large {FIT}")),
    "negative id of a stream": (
        {},
        lambda tokenizer: tokenizer.stream()([-1]),
        DECODE.format("StreamInput must be either an integer or a list of integers"),
    ),
    "no text": ({}, lambda tokenizer: tokenizer(["a", 5]), "text: expected a str or several, got int at 1."),
    "half of a pair": (
        {},
        lambda tokenizer: tokenizer(["a", "b\ud800"]),
        "text: expected Unicode text, got half of a surrogate pair, '\\ud800', at character 1 of text 1.",
    ),
}


@pytest.mark.parametrize(("edit", "use", "message"), IN_USE.values(), ids=IN_USE)
def test_faults_that_show_in_use_are_named(tmp_path, edit, use, message):
    tokenizer = read(tmp_path, edit)
    with refused(FlaxModelsError, message):
        use(tokenizer)


def test_slow_expressions_are_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "MAX_SECONDS", 0.05)
    tokenizer = read(tmp_path, {"pre_tokenizer": split("(a|a){21}[b-c]")})
    message = (
        "the tokenizer is not done after 0 s: its regular expressions or its vocabulary take time out of proportion to "
        "this text. Use the files of a publisher that you trust."
    )
    with refused(FlaxModelsError, message):
        tokenizer("a" * 40)
    with refused(FlaxModelsError, "the tokenizer is not done with an earlier text, which it took too long for."):
        tokenizer("a")


def test_padding_of_the_file_is_not_used(tmp_path):
    padding = {"strategy": "BatchLongest", "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
    tokenizer = read(tmp_path, {"padding": padding | {"pad_to_multiple_of": 2**40}})
    assert tokenizer("a")["input_ids"] == [0]


@pytest.mark.parametrize("expression", [" {2,}", r"\s{2,}|[\n\r\t]", r"(?<!\n)^", r"[\s\u200b]+", r"\(+"])
def test_expressions_of_honest_normalizers_are_read(tmp_path, expression):
    assert read(tmp_path, {"normalizer": replace(expression, "", "Regex")})("a")["input_ids"] == [0]


def test_steps_of_honest_files_are_read(tmp_path):
    """Those of ALBERT, with a charsmap whose longest text is as long as that of nmt_nfkc."""
    steps = [
        replace("``", '"'),
        replace("''", '"'),
        *({"type": kind} for kind in ("NFKD", "StripAccents", "Lowercase")),
        replace(" {2,}", " ", "Regex"),
    ]
    tokenizer = read(tmp_path, {"normalizer": sequence("normalizers", steps)})
    assert tokenizer("A")["input_ids"] == [0]


def test_long_texts_are_encoded_in_a_thread(tmp_path):
    tokenizer = read(tmp_path, {"pre_tokenizer": {"type": "WhitespaceSplit"}})
    text = "a b " * 10_000
    np.testing.assert_array_equal(tokenizer(text)["input_ids"], [0, 1] * 10_000)


TOKEN = 'expected a string, or an object with a string as "content", got {}'
TEMPLATE = 'expected a string, or a list of objects with a string as "name" and as "template", got {}'
SETTINGS = {
    "number": ({"bos_token": 5}, f"bos_token: {TOKEN.format(5)}"),
    "list": ({"eos_token": ["a"]}, f"eos_token: {TOKEN.format(['a'])}"),
    "no content": ({"pad_token": {"contents": "a"}}, f"pad_token: {TOKEN.format({'contents': 'a'})}"),
    "content": ({"pad_token": {"content": None}}, f"pad_token: {TOKEN.format({'content': None})}"),
    "long": ({"cls_token": [0] * 99}, f"cls_token: {TOKEN.format('[' + '0, ' * 19 + '0,...')}"),
    "template": ({"chat_template": 5}, f"chat_template: {TEMPLATE.format(5)}"),
    "object": ({"chat_template": {"default": "a"}}, f"chat_template: {TEMPLATE.format({'default': 'a'})}"),
    "templates": ({"chat_template": [{"name": "a"}]}, f"chat_template: {TEMPLATE.format([{'name': 'a'}])}"),
    "two": ({"bos_token": 5, "eos_token": 6}, f"bos_token: {TOKEN.format(5)}; eos_token: {TOKEN.format(6)}"),
}


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(("settings", "reason"), SETTINGS.values(), ids=SETTINGS)
def test_settings_of_wrong_types_are_named(tmp_path, name, settings, reason):
    (tmp_path / name).write_text(json.dumps(settings))
    with refused(CheckpointError, f"{tmp_path / name}: {reason}. Correct it, or fetch it again."):
        read(tmp_path, {})


NO_JSON = "{name}: invalid JSON ({reason}). Download or copy it again."
NO_UTF8 = "'utf-8' codec can't decode byte 0xff in position 7: invalid start byte"
TOO_DEEP = "maximum recursion depth exceeded while decoding a JSON array from a unicode string"
FILES = {
    "no UTF-8": ("tokenizer_config.json", b'{"a": "\xff"}', NO_JSON, NO_UTF8),
    "no object": ("special_tokens_map.json", b"[]", NO_JSON, "not an object"),
    "too deep": ("tokenizer.json", b"[" * 10**5, NO_JSON, TOO_DEEP),
    "twice": ("tokenizer.json", b'{"model": 1, "model": 2}', NO_JSON, "duplicate keys"),
    "template": (
        "chat_template.jinja",
        b"abc\xff",
        "{path}: {reason}. Correct it, or fetch it again.",
        "byte 3 is not UTF-8",
    ),
}


@pytest.mark.parametrize(("name", "data", "message", "reason"), FILES.values(), ids=FILES)
def test_files_that_are_no_text_are_named(tmp_path, name, data, message, reason):
    (tmp_path / "tokenizer.json").write_text(json.dumps(PLAIN))
    (tmp_path / name).write_bytes(data)
    with refused(CheckpointError, message.format(name=name, path=tmp_path / name, reason=reason)):
        Tokenizer.from_pretrained(tmp_path)


def test_a_template_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    file = tmp_path / "chat_template.jinja"
    file.touch()
    monkeypatch.setattr("pathlib.Path.read_text", denied)
    with refused(CheckpointError, f"{file}: Permission denied. Check the path and its permissions."):
        read(tmp_path, {})


BYTES, PIECES = byte_level_keys(pre="gpt-2"), sentencepiece_keys()
COUNT = {"bytes": len(BYTES["tokens"]), "pieces": len(PIECES["tokens"])}


def key(name, reason):
    return f"tokenizer.ggml.{name}: {reason}"


def instead(values, index, value):
    return [*values[:index], value, *values[index + 1 :]]


GGUF = {
    "tokens of a wrong type": (BYTES, {"tokens": [1, 2]}, key("tokens", "expected a list of strings, got [1, 2]")),
    "tokens as a text": (BYTES, {"tokens": "abc"}, key("tokens", "expected a list of strings, got 'abc'")),
    "types as texts": (BYTES, {"token_type": ["a"]}, key("token_type", "expected a list of integers, got ['a']")),
    "scores as texts": (PIECES, {"scores": ["a"]}, key("scores", "expected a list of numbers, got ['a']")),
    "scores that are none": (
        PIECES,
        {"scores": [float("nan")]},
        key("scores", "expected a list of numbers, got [nan]"),
    ),
    "merges of a wrong type": (BYTES, {"merges": [1]}, key("merges", "expected a list of strings, got [1]")),
    "id as a text": (BYTES, {"bos_token_id": "a"}, key("bos_token_id", "expected a token id, got 'a'")),
    "flag as a number": (BYTES, {"add_bos_token": 1}, key("add_bos_token", "expected true or false, got 1")),
    "fewer types": (
        BYTES,
        {"token_type": [1, 1]},
        key("token_type", f"expected {COUNT['bytes']} values, one for each token, got 2"),
    ),
    "fewer scores": (
        PIECES,
        {"scores": [0.5]},
        key("scores", f"expected {COUNT['pieces']} values, one for each token, got 1"),
    ),
    **{
        f"{name} beyond the tokens": (
            PIECES,
            {name: COUNT["pieces"]},
            key(name, f"expected a token id from 0 to {COUNT['pieces'] - 1}, got {COUNT['pieces']}"),
        )
        for name in ("bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id")
    },
    "merge without a space": (
        BYTES,
        {"merges": instead(BYTES["merges"], 3, "ab")},
        key("merges[3]", "expected two tokens with a space between them, got 'ab'"),
    ),
    "merge of three": (
        BYTES,
        {"merges": ["a b c"]},
        key("merges[0]", "expected two tokens with a space between them, got 'a b c'"),
    ),
    "token twice": (
        PIECES,
        {"tokens": instead(PIECES["tokens"], 1, "</s>")},
        key("tokens[1]", "expected a token once, got '</s>'"),
    ),
    "token that is no text": (
        PIECES,
        {"tokens": instead(PIECES["tokens"], 1, b"a\xff")},
        key("tokens[1]", "expected UTF-8, got 'a\\udcff'"),
    ),
    "token without end": (
        PIECES,
        {"tokens": instead(PIECES["tokens"], 300, "a" * 300_000)},
        key("tokens[300]", f"expected at most 512 characters, got '{'a' * 59}..."),
    ),
    "no BOS to add": (
        {name: value for name, value in PIECES.items() if name != "bos_token_id"},
        {},
        "it lacks tokenizer.ggml.bos_token_id",
    ),
    "no EOS to add": (
        {name: value for name, value in BYTES.items() if name != "eos_token_id"},
        {"add_eos_token": True},
        "it lacks tokenizer.ggml.eos_token_id",
    ),
    "no tokens": (
        BYTES,
        {"tokens": ["a"], "token_type": [], "merges": []},
        "; ".join(
            [
                key("token_type", "expected 1 values, one for each token, got 0"),
                key("bos_token_id", f"expected a token id from 0 to 0, got {BYTES['bos_token_id']}"),
                key("eos_token_id", f"expected a token id from 0 to 0, got {BYTES['eos_token_id']}"),
            ]
        ),
    ),
}


class Metadata:
    """What stands in for a GGUF file: `gguf` writes no empty lists and no tokens that are no text."""

    def __init__(self, keys):
        decoded = {
            name: [str(item, "utf-8", "surrogateescape") if isinstance(item, bytes) else item for item in value]
            if isinstance(value, list)
            else value
            for name, value in keys.items()
        }
        self.metadata = {f"tokenizer.ggml.{name}": value for name, value in decoded.items()}


@pytest.mark.parametrize(("keys", "edit", "reason"), GGUF.values(), ids=GGUF)
def test_contradictions_of_gguf_are_named(tmp_path, monkeypatch, keys, edit, reason):
    file = tmp_path / "m.gguf"
    file.touch()
    monkeypatch.setattr("flaxmodels.files.gguf.GGUFFile", lambda path: Metadata(keys | edit))
    with refused(CheckpointError, f"{file} makes no tokenizer: {reason}. Convert it again."):
        Tokenizer.from_pretrained(file)


def test_a_gguf_template_that_is_no_text_is_named(tmp_path):
    import gguf

    file = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    for name in ("tokens", "merges"):
        writer.add_array(f"tokenizer.ggml.{name}", ["a b"])
    writer.add_array("tokenizer.ggml.token_type", [1])
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_string("tokenizer.ggml.pre", "gpt-2")
    writer.add_uint32("tokenizer.chat_template", 5)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.close):
        step()
    message = f"{file} makes no tokenizer: tokenizer.chat_template: expected a string, got 5. Convert it again."
    with refused(CheckpointError, message):
        Tokenizer.from_pretrained(file)


@pytest.mark.parametrize(("model", "pre"), [([1], "gpt-2"), ("gpt2", [1]), (None, None)])
def test_kinds_of_wrong_types_are_named(tmp_path, monkeypatch, model, pre):
    (tmp_path / "m.gguf").touch()
    monkeypatch.setattr("flaxmodels.files.gguf.GGUFFile", lambda path: Metadata(BYTES | {"model": model, "pre": pre}))
    with pytest.raises(
        CheckpointError, match=f"a tokenizer of model {model!r}, pre {pre!r} is not supported".replace("[", "\\[")
    ):
        Tokenizer.from_pretrained(tmp_path / "m.gguf")


def test_tokens_without_a_text_get_names(tmp_path):
    """As in llama.cpp."""
    tokens, kinds = [*BYTES["tokens"], "", ""], [*BYTES["token_type"], 1, 1]
    file = write_gguf(tmp_path / "m.gguf", **(BYTES | {"tokens": tokens, "token_type": kinds}))
    backend = Tokenizer.from_pretrained(file).backend
    assert [backend.id_to_token(COUNT["bytes"] + index) for index in (0, 1)] == [
        f"[EMPTY_{COUNT['bytes'] + index}]" for index in (0, 1)
    ]


def test_the_longest_pieces_take_time_in_proportion(tmp_path, monkeypatch):
    (tmp_path / "m.gguf").touch()
    tokens = [*PIECES["tokens"], *(f"{'a' * 500}{number}" for number in range(100))]
    more = {"tokens": tokens, "token_type": PIECES["token_type"] + [1] * 100, "scores": PIECES["scores"] + [-1.0] * 100}
    monkeypatch.setattr("flaxmodels.files.gguf.GGUFFile", lambda path: Metadata(PIECES | more))
    assert Tokenizer.from_pretrained(tmp_path / "m.gguf").backend.get_vocab_size() == len(tokens)

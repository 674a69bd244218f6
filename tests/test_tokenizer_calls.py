"""Calls of tokenizers against transformers': the same arguments, the same results."""

from __future__ import annotations

import pickle
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_tokenizers import TEXTS, write_byte_pairs, write_word_pieces
from transformers import AutoTokenizer
from transformers.utils.generic import PaddingStrategy

from flaxmodels.errors import FlaxModelsError
from flaxmodels.tokenizer import BatchEncoding, Tokenizer

FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>"]
MASK = {"content": "<mask>", "lstrip": True, "normalized": False, "special": True}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>"}
ROBERTA = SPECIAL | {"pad_token": "<pad>", "mask_token": {"__type": "AddedToken", "rstrip": False} | MASK}
GPT2 = {"pad_token": "<|endoftext|>", "padding_side": "left", "truncation_side": "left"}
FOLDERS = {
    "bert": lambda folder: write_word_pieces(folder, tokenizer_class="BertTokenizer", model_max_length=24),
    "roberta": lambda folder: write_byte_pairs(
        folder, [*FAIRSEQ, "<mask>"], tokenizer_class="RobertaTokenizer", model_max_length=24, **ROBERTA
    ),
    "gpt2": lambda folder: write_byte_pairs(folder, ["<|endoftext|>"], tokenizer_class="GPT2Tokenizer", **GPT2),
}


@pytest.fixture(scope="module", params=FOLDERS)
def both(request, tmp_path_factory):
    folder = FOLDERS[request.param](tmp_path_factory.mktemp(request.param))
    return Tokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def plain(batch):
    """Lists by name."""
    return {key: np.asarray(value).tolist() if hasattr(value, "tolist") else value for key, value in batch.items()}


def outcome(tokenizer, args, kwargs):
    """What a call returns, or that it fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return plain(tokenizer(*args, **kwargs))
        except Exception:  # of one kind there, of many here
            return "an error"


WORDS = [["Hello", ",", "world", "!"], [], ["naïve", "日本語", " spaces in "], ["the"] * 20]
TEXT_INPUTS = {
    "text": ("the quick brown fox jumps over the lazy dog",),
    "empty": ("",),
    "batch": (TEXTS,),
    "pair": ("she sells sea shells by the sea shore", "the lazy dog [MASK] <mask> jumps"),
    "empty pair": ("Hello", ""),
    "batch of two": (TEXTS, TEXTS[::-1]),
    "tuples": (list(zip(TEXTS, TEXTS[::-1], strict=True)),),
}
WORD_INPUTS = {
    "words": (WORDS[0],),
    "no words": ([],),
    "words batch": (WORDS,),
    "words pair": (WORDS[0], WORDS[2]),
    "words batch of two": (WORDS, WORDS[::-1]),
}
CALLS = {
    "nothing": {},
    "bare": {"add_special_tokens": False},
    "cut": {"truncation": True},
    "cut to length": {"truncation": True, "max_length": 8},
    "length alone": {"max_length": 8},
    "longest first": {"truncation": "longest_first", "max_length": 11},
    "only first": {"truncation": "only_first", "max_length": 30},
    "only second": {"truncation": "only_second", "max_length": 60},
    "do not cut": {"truncation": "do_not_truncate", "max_length": 8},
    "cut to special tokens": {"truncation": True, "max_length": 4},
    "pad": {"padding": True},
    "pad to longest": {"padding": "longest", "padding_side": "left"},
    "pad to length": {"padding": "max_length", "max_length": 40},
    "pad to model": {"padding": "max_length"},
    "do not pad": {"padding": "do_not_pad"},
    "enumeration": {"padding": PaddingStrategy.LONGEST},
    "pad to multiple": {"padding": True, "pad_to_multiple_of": 8},
    "pad and length": {"padding": True, "max_length": 8},
    "pad and cut": {"padding": "max_length", "truncation": True, "max_length": 10},
    "pad and cut to multiple": {"padding": True, "truncation": True, "max_length": 16, "pad_to_multiple_of": 8},
    "overflow": {"truncation": True, "max_length": 14, "stride": 2, "return_overflowing_tokens": True},
    "overflow of one": {
        "truncation": "only_second", "max_length": 60, "stride": 4, "return_overflowing_tokens": True,
        "return_offsets_mapping": True, "padding": "max_length",
    },
    "no overflow": {"return_overflowing_tokens": True},
    "all there is": {
        "return_token_type_ids": True, "return_attention_mask": True, "return_special_tokens_mask": True,
        "return_offsets_mapping": True, "return_length": True, "padding": True,
    },
    "no mask": {"return_attention_mask": False, "return_token_type_ids": False},
    "split special": {"split_special_tokens": True},
    "arrays": {"return_tensors": "np", "padding": True},
    "ragged arrays": {"return_tensors": "np"},
    "arrays of all": {
        "return_tensors": "np", "padding": "max_length", "truncation": True, "max_length": 16, "stride": 1,
        "return_overflowing_tokens": True, "return_offsets_mapping": True, "return_special_tokens_mask": True,
        "return_length": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_calls_equal_transformers(both, name):
    ours, theirs = both
    for key, args in (TEXT_INPUTS | WORD_INPUTS).items():
        kwargs = CALLS[name] | ({"is_split_into_words": True} if key in WORD_INPUTS else {})
        if (name == "ragged arrays" and "batch" in key) or (key == "tuples" and name == "ragged arrays"):
            continue  # there of objects, refused here
        assert outcome(ours, args, kwargs) == outcome(theirs, args, kwargs), key


def test_targets_equal_transformers(both):
    ours, theirs = both
    for kwargs in ({"text": TEXTS[1], "text_target": TEXTS[2]}, {"text_target": TEXTS}):
        for options in ({}, {"max_length": 9, "max_target_length": 5, "truncation": True, "padding": "max_length"}):
            assert plain(ours(**kwargs, **options)) == plain(theirs(**kwargs, **options))


def test_tokens_words_and_characters_equal_transformers(both):
    ours, theirs = (
        tokenizer(TEXTS[1:], TEXTS[:-1], padding=True, truncation=True, max_length=60) for tokenizer in both
    )
    assert (ours.n_sequences, ours.is_fast) == (theirs.n_sequences, theirs.is_fast) == (2, True)
    for row in range(len(TEXTS) - 1):
        for method in ("tokens", "word_ids", "sequence_ids"):
            assert getattr(ours, method)(row) == getattr(theirs, method)(row)
        for method in ("token_to_chars", "token_to_word", "token_to_sequence"):
            for token in range(8):
                assert getattr(ours, method)(row, token) == getattr(theirs, method)(row, token)
        for method in ("char_to_token", "char_to_word", "word_to_chars", "word_to_tokens"):
            for index in range(4):
                for side in (0, 1):
                    expected = found_or_none(getattr(theirs, method), row, index, side)
                    assert getattr(ours, method)(row, index, side) == expected
    assert ours.char_to_token(1) == ours.char_to_token(0, 1)
    assert ours.token_to_word(0, -3) == ours.token_to_word(len(ours.tokens()) - 3)


def found_or_none(method, *args):
    try:
        return method(*args)
    except TypeError:  # it unpacks None
        return None


PADS = {
    "rows": ([{"input_ids": [5, 6], "labels": 1}, {"input_ids": [7], "labels": 2}], {}),
    "columns": ({"input_ids": [[5, 6], [7]], "attention_mask": [[1, 1], [1]]}, {"padding_side": "left"}),
    "one row": ({"input_ids": [5, 6], "token_type_ids": [0, 1]}, {"padding": "max_length", "max_length": 4}),
    "one row, longest": ({"input_ids": [5, 6]}, {"pad_to_multiple_of": 4}),
    "special": ({"input_ids": [[5, 6], [7]], "special_tokens_mask": [[1, 0], [1]]}, {"pad_to_multiple_of": 4}),
    "no padding": ({"input_ids": [[5, 6], [7]]}, {"padding": False}),
    "no mask": ({"input_ids": [[5, 6], [7]]}, {"return_attention_mask": False}),
    "arrays": ({"input_ids": [[5, 6], [7]]}, {"return_tensors": "np"}),
    "of arrays": ([{"input_ids": np.array([5, 6])}, {"input_ids": np.array([7])}], {}),
    "nothing": ({"input_ids": []}, {}),
}


@pytest.mark.parametrize(("rows", "options"), PADS.values(), ids=PADS)
def test_pad_equals_transformers(both, rows, options):
    ours, theirs = both
    expected = theirs.pad(pickle.loads(pickle.dumps(rows)), **options)
    found = ours.pad(rows, **options)
    found.pop("attention_mask", None) if rows == {"input_ids": []} else None
    assert plain(found) == plain(expected)
    assert isinstance(found["input_ids"], np.ndarray) == isinstance(expected["input_ids"], np.ndarray)


def test_methods_equal_transformers(both):
    ours, theirs = both
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text) == theirs.encode(text) == ids
        assert ours.encode(text, "b", max_length=7) == theirs.encode(text, "b", max_length=7)
        assert ours.tokenize(text) == theirs.tokenize(text)
        assert ours.tokenize(text, "b", add_special_tokens=True) == theirs.tokenize(text, "b", add_special_tokens=True)
        for skip in (False, True):
            assert ours.convert_ids_to_tokens(ids, skip) == theirs.convert_ids_to_tokens(ids, skip)
            for clean in (None, True):
                assert ours.decode(ids, skip, clean) == theirs.decode(ids, skip, clean_up_tokenization_spaces=clean)
        tokens = theirs.convert_ids_to_tokens(ids)
        assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)
        assert ours.get_special_tokens_mask(ids, already_has_special_tokens=True) == theirs.get_special_tokens_mask(
            ids, already_has_special_tokens=True
        )
    batch = theirs(TEXTS)["input_ids"]
    for rows in (batch, [np.array(row) for row in batch], np.array(theirs(TEXTS, padding=True)["input_ids"])):
        assert ours.batch_decode(rows, skip_special_tokens=True) == theirs.batch_decode(rows, skip_special_tokens=True)
    assert ours.batch_decode(jnp.array([[5, 6]])) == ours.decode([[5, 6]]) == theirs.batch_decode([[5, 6]])
    assert ours.decode(5) == theirs.decode(5)


def test_vocabularies_equal_transformers(both):
    ours, theirs = both
    assert (len(ours), ours.vocab_size, bool(ours)) == (len(theirs), theirs.vocab_size, True)
    assert ours.get_vocab() == theirs.get_vocab() == ours.vocab
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert ours.special_tokens_map == theirs.special_tokens_map == ours.special_tokens
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        for name in (f"{role}_token", f"{role}_token_id"):
            assert getattr(ours, name) == getattr(theirs, name)
    names = "model_max_length padding_side truncation_side model_input_names pad_token_type_id"
    for name in f"{names} max_len_single_sentence max_len_sentences_pair is_fast".split():
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.convert_tokens_to_ids("nowhere") == theirs.convert_tokens_to_ids("nowhere")
    assert ours.convert_tokens_to_ids(["the", "Ġthe", "?"]) == theirs.convert_tokens_to_ids(["the", "Ġthe", "?"])
    assert ours.convert_ids_to_tokens(len(ours) + 5) is None
    for pair in (False, True):
        assert ours.num_special_tokens_to_add(pair) == theirs.num_special_tokens_to_add(pair)


@pytest.fixture
def bert(tmp_path):
    return Tokenizer.from_pretrained(write_word_pieces(tmp_path, tokenizer_class="BertTokenizer"))


def test_tokens_are_added_as_in_transformers(tmp_path):
    folder = write_word_pieces(tmp_path, tokenizer_class="BertTokenizer")
    ours, theirs = Tokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    extra = {"extra_special_tokens": ["<e1>", "<e2>"]}
    for change in (
        lambda tokenizer: tokenizer.add_tokens("newword"),
        lambda tokenizer: tokenizer.add_tokens(["newword", "other", "the"]),
        lambda tokenizer: tokenizer.add_tokens([]),
        lambda tokenizer: tokenizer.add_tokens("<special>", special_tokens=True),
        lambda tokenizer: tokenizer.add_special_tokens({"bos_token": "<bos>", "eos_token": "[SEP]"}),
        lambda tokenizer: tokenizer.add_special_tokens(extra),
        lambda tokenizer: tokenizer.add_special_tokens(
            {"extra_special_tokens": ["<e3>", "<e1>"]}, replace_extra_special_tokens=False
        ),
        lambda tokenizer: tokenizer.add_special_tokens(extra),
    ):
        assert change(ours) == change(theirs)
        assert len(ours) == len(theirs)
        assert ours.extra_special_tokens == theirs.extra_special_tokens == ours.additional_special_tokens
        assert ours.extra_special_tokens_ids == theirs.extra_special_tokens_ids == ours.additional_special_tokens_ids
        assert ours.all_special_tokens == theirs.all_special_tokens
        text = "newword<special>other <bos>the<e1> <e3>x"
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
        for skip in (True, False):
            assert ours.decode(ours(text)["input_ids"], skip) == theirs.decode(theirs(text)["input_ids"], skip)


def test_special_tokens_can_be_set(bert):
    bert.pad_token = "[SEP]"
    assert bert.pad_token_id == bert.sep_token_id
    bert.pad_token_id = bert.mask_token_id
    assert (bert.pad_token, bert(["a", "a b"], padding=True)["input_ids"][0][-1]) == ("[MASK]", bert.mask_token_id)
    bert.eos_token = None
    assert (bert.eos_token, bert.eos_token_id) == (None, None)
    bert.special_tokens["image_token"] = "[MASK]"
    assert (bert.image_token, bert.image_token_id) == ("[MASK]", bert.mask_token_id)
    assert not hasattr(bert, "audio_token")


def test_batches_are_mappings_with_attributes_and_trees_of_jax(bert):
    batch = bert(["a b", "c"], padding=True, return_tensors="jax")
    assert isinstance(batch.input_ids, jax.Array)
    assert batch.input_ids.dtype == jnp.int32
    assert batch["attention_mask"] is batch.attention_mask
    assert [*batch] == ["input_ids", "token_type_ids", "attention_mask"]
    assert {**batch}.keys() == batch.keys() == dict(batch).keys()
    doubled = jax.jit(lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree))(batch)
    np.testing.assert_array_equal(doubled.input_ids, 2 * batch.input_ids)
    batch["labels"] = 5
    assert (batch.labels, batch.pop("labels"), "labels" in batch) == (5, 5, False)
    assert batch[1].tokens[:2] == ["[CLS]", "c"]
    assert not hasattr(batch, "pixel_values")
    again = pickle.loads(pickle.dumps(bert(["a b", "c"])))
    assert (again.input_ids, again.tokens(1)) == (bert(["a b", "c"]).input_ids, ["[CLS]", "c", "[SEP]"])
    assert BatchEncoding({"a": [[1]]}, tensor_type="np").a.dtype == np.int32


def test_a_tokenizer_pickles(bert):
    again = pickle.loads(pickle.dumps(bert))
    assert again("the dog") == bert("the dog")
    assert (again.pad_token_id, again.model_input_names) == (bert.pad_token_id, bert.model_input_names)


def test_an_empty_batch_is_empty(bert):
    assert bert([])["input_ids"] == []
    assert bert([], return_tensors="np")["input_ids"].shape == (0, 0)
    assert bert.batch_decode([]) == []


def test_any_iterable_is_a_batch(bert):
    assert bert(text for text in ("a", "b"))["input_ids"] == bert(["a", "b"])["input_ids"]


def test_long_rows_and_unknown_lengths_are_logged(bert, caplog):
    bert("a b", truncation=True)
    bert.model_max_length = 2
    bert("a b", verbose=False)
    for _ in range(2):
        bert("a b")
    assert [record.getMessage() for record in caplog.records] == [
        "rows keep their lengths: neither max_length nor the tokenizer's model_max_length is known",
        "a row is longer than the 2 tokens that the model takes: say truncation=True to cut it",
    ]


def test_a_length_without_effect_is_warned_of(bert):
    message = (
        "max_length has no effect with padding=True and without truncation: say padding='max_length' to pad to it."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        bert("a", padding=True, max_length=9)


SIDE = "expected 'right' or 'left', got 'up'."
STRATEGIES = "padding: expected one of True, 'longest', 'max_length', False, 'do_not_pad', got "
REFUSED = {
    "side as padding": (("a",), {"padding": "left"}, f"{STRATEGIES}'left'. The side is padding_side='left'."),
    "padding": (("a",), {"padding": "all"}, f"{STRATEGIES}'all'."),
    "truncation": (
        ("a",),
        {"truncation": 1.5},
        "truncation: expected one of None, False, True, 'longest_first', 'only_first', 'only_second', "
        "'do_not_truncate', got 1.5.",
    ),
    "padding side": (("a",), {"padding": True, "padding_side": "up"}, f"padding_side: {SIDE}"),
    "max length": (("a",), {"max_length": 0}, "max_length: expected an integer of at least 1, got 0."),
    "length as text": (("a",), {"max_length": "9"}, "max_length: expected an integer of at least 1, got '9'."),
    "too short": (
        ("a", "b"),
        {"max_length": 2},
        "max_length: expected at least 3 special tokens, got 2. Set a larger one, or add_special_tokens=False.",
    ),
    "stride": (
        ("a",),
        {"max_length": 6, "stride": 4},
        "stride: expected less than 4, which is max_length without 2 special tokens, got 4.",
    ),
    "no multiple": (
        ("a",),
        {"max_length": 9, "padding": True, "truncation": True, "pad_to_multiple_of": 8},
        "max_length=9 is no multiple of pad_to_multiple_of=8: rows cannot be cut to the one and padded to the other.",
    ),
    "without end": (
        ("a",),
        {"padding": "max_length", "max_length": 10**12},
        "padding: expected rows of at most 10,000,000 tokens, got 1,000,000,000,000.",
    ),
    "multiple without end": (
        ("a",),
        {"padding": True, "pad_to_multiple_of": 10**12},
        "padding: expected rows of at most 10,000,000 tokens, got 1,000,000,000,000.",
    ),
    "no second text": (
        ("a b c d e f",),
        {"truncation": "only_second", "max_length": 4},
        "the tokenizer cannot encode these texts: Truncation error: Second sequence not provided.",
    ),
    "ragged": (
        (["a", "b c d"],),
        {"return_tensors": "np"},
        "input_ids: rows of 3 to 5 make no array. Say padding=True, and truncation=True where they may be too long.",
    ),
    "torch": (
        ("a",),
        {"return_tensors": "pt"},
        "return_tensors: expected 'np', 'jax' or None, got 'pt'. Models here take arrays: ask for 'np'; "
        "torch.from_numpy makes tensors of them.",
    ),
    "tensorflow": (("a",), {"return_tensors": "tf"}, "return_tensors: expected 'np', 'jax' or None, got 'tf'."),
    "nothing": ((), {}, "text: expected a str or several, or text_target, got neither."),
    "number": ((5,), {}, "text: expected a str or several, got int."),
    "number in a batch": ((["a", 5],), {}, "text: expected a str or several, got int at 1."),
    "three": ((["a", ("a", "b", "c")],), {}, "text: expected a str or several, got tuple at 1."),
    "fewer pairs": ((["a", "b"], ["c"]), {}, "text_pair: expected one for each of 2 texts, got 1."),
    "one pair": ((["a", "b"], "cd"), {}, "text_pair: expected one for each of 2 texts, got 1."),
    "target": ((), {"text_target": ["a", None]}, "text_target: expected a str or several, got NoneType at 1."),
    "words as a text": (
        ("a b",),
        {"is_split_into_words": True},
        "text: expected a list of words with is_split_into_words=True, got one str.",
    ),
    "words and a text": (
        ([["a"], "b"],),
        {"is_split_into_words": True},
        "text: expected lists of words, got str at 1.",
    ),
    "half of a pair": (
        (["a", ("b", "c\ud800")],),
        {},
        "text: expected Unicode text, got half of a surrogate pair, '\\ud800', at character 1 of text 1.",
    ),
}


@pytest.mark.parametrize(("args", "kwargs", "message"), REFUSED.values(), ids=REFUSED)
def test_calls_that_cannot_be_meant_are_refused(bert, args, kwargs, message):
    with pytest.raises(FlaxModelsError, match=f"^{re.escape(message)}$"):
        bert(*args, **kwargs)


NO_PAD = (
    "padding: this tokenizer cannot pad, {}. Set pad_token, as in tokenizer.pad_token = tokenizer.eos_token, or add "
    "one "
    'by add_special_tokens({{"pad_token": "[PAD]"}}).'
)
MISUSED = {
    "no pad token": (
        lambda tokenizer: (setattr(tokenizer, "pad_token", None), tokenizer("a", padding=True)),
        NO_PAD.format("it has no pad_token"),
    ),
    "unknown pad token": (
        lambda tokenizer: (
            tokenizer.special_tokens.clear(),
            setattr(tokenizer, "pad_token", "nowhere"),
            tokenizer.pad([{"input_ids": [1]}]),
        ),
        NO_PAD.format("its pad_token 'nowhere' has no id"),
    ),
    "pad cuts nothing": (
        lambda tokenizer: tokenizer.pad({"input_ids": [1, 2, 3]}, "max_length", 2),
        "pad: expected rows of at most max_length=2 tokens, got one of 3: it does not cut. Cut rows when they are "
        "made, by "
        "truncation=True.",
    ),
    "nothing to pad": (
        lambda tokenizer: tokenizer.pad({"labels": [1], "a": []}),
        "pad: expected 'input_ids' in each row, got 'labels', 'a'.",
    ),
    "role": (
        lambda tokenizer: tokenizer.add_special_tokens({"padding_token": "a"}),
        "add_special_tokens: expected roles among bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, "
        "mask_token, additional_special_tokens, got 'padding_token'.",
    ),
    "token": (
        lambda tokenizer: tokenizer.add_tokens(["a", 5]),
        "new_tokens: expected a str or a tokenizers.AddedToken, got 5.",
    ),
    "role without a token": (
        lambda tokenizer: setattr(tokenizer, "eos_token", 5),
        "eos_token: expected a str or a tokenizers.AddedToken, got 5.",
    ),
    "id": (lambda tokenizer: setattr(tokenizer, "eos_token_id", 10**6), "eos_token_id: no token has the id 1000000."),
    "negative id": (
        lambda tokenizer: tokenizer.convert_ids_to_tokens([-1]),
        "the tokenizer has no tokens of these ids: number too small to fit in target type.",
    ),
    "mask of plain ids": (
        lambda tokenizer: tokenizer.get_special_tokens_mask([1]),
        "get_special_tokens_mask: expected one row with already_has_special_tokens=True. Call the tokenizer with "
        "return_special_tokens_mask=True on texts.",
    ),
    "batch without texts": (
        lambda tokenizer: BatchEncoding({"input_ids": [1]}).tokens(),
        "this batch does not know its texts: call the tokenizer on them to get one that does.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("use", "message"), MISUSED.values(), ids=MISUSED)
def test_misuse_is_named(bert, use, message):
    with pytest.raises(FlaxModelsError, match=f"^{re.escape(message)}$"):
        use(bert)

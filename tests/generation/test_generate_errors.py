"""Prompts and models that `generate` refuses, each with its whole message."""

from __future__ import annotations

import logging

import jax
import numpy as np
import pytest

from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.generation import call
from flaxmodels.models.bert import BertForMaskedLM, BertLMHeadModel
from flaxmodels.models.llama import LlamaForCausalLM, LlamaForSequenceClassification, LlamaModel

SIZES = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
PROMPT = np.array([[5, 6, 7], [8, 9, 10]])


@pytest.fixture(scope="module")
def model():
    return LlamaForCausalLM({**SIZES, "bos_token_id": None, "max_position_embeddings": 12})


@pytest.fixture(scope="module")
def bert():
    return BertLMHeadModel({**SIZES, "is_decoder": True, "max_position_embeddings": 12})


def complaint(model, *args, **kwargs) -> str:
    with pytest.raises(FlaxModelsError) as caught:
        model.generate(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("cls", [LlamaModel, LlamaForSequenceClassification, BertForMaskedLM])
def test_a_model_that_does_not_predict_the_next_token(cls):
    assert not cls.can_generate()
    assert complaint(cls.abstract(dict(SIZES)), PROMPT) == (
        f"{cls.__name__} cannot generate, as it does not predict the next token; "
        "load the checkpoint with AutoModelForCausalLM"
    )


def test_a_subclass_generates_under_any_name(model):
    assert type("Mine", (LlamaForCausalLM,), {}).can_generate()


EXPECTED_IDS = "input_ids: expected integers [batch, prompt_len], at least one row of one token; got"


@pytest.mark.parametrize(
    ("input_ids", "message"),
    [
        (None, "generate() needs input_ids, or bos_token_id= to begin with"),
        ([5, 6], f"{EXPECTED_IDS} int64 (2,)"),
        ([[5.0]], f"{EXPECTED_IDS} float64 (1, 1)"),
        (np.zeros((0, 4), int), f"{EXPECTED_IDS} int64 (0, 4)"),
        (np.zeros((2, 0), int), f"{EXPECTED_IDS} int64 (2, 0)"),
        ([[5, 6], [7]], "input_ids: the rows differ in length; pad the shorter ones on the left"),
        ([[5, 20]], "input_ids: expected token ids from 0 to 19, got 5 to 20; use the tokenizer of this model"),
        ([[-100, 4]], "input_ids: expected token ids from 0 to 19, got -100 to 4; use the tokenizer of this model"),
    ],
)
def test_input_ids(model, input_ids, message):
    assert complaint(model, input_ids) == message


RIGHT = "are padded on the right, where their answers begin; pad on the left, or pass the mask if these tokens are not"


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            np.ones((2, 4), int),
            "attention_mask: expected zeros and ones of shape (2, 3) as input_ids, got int64 (2, 4)",
        ),
        (
            np.full((2, 3), 2),
            "attention_mask: expected zeros and ones of shape (2, 3) as input_ids, got int64 (2, 3)",
        ),
        ([[0, 0, 0], [1, 1, 1]], "attention_mask: rows [0] are all padding; each needs a token to continue"),
        ([[1, 1, 0], [1, 1, 0]], f"attention_mask: rows [0, 1] {RIGHT} padding"),
    ],
)
def test_attention_mask(model, mask, message):
    assert complaint(model, PROMPT, attention_mask=mask) == message


def test_right_padding_is_seen_without_a_mask(model):
    assert complaint(model, PROMPT, pad_token_id=10) == f"attention_mask: rows [1] {RIGHT} padding"


def test_lengths(model, bert):
    assert complaint(model, PROMPT, max_length=3) == (
        "max_length=3 leaves no room behind a prompt of 3 tokens; raise it, or pass max_new_tokens"
    )
    assert complaint(bert, PROMPT, max_new_tokens=10) == (
        "a prompt of 3 tokens and 10 new ones exceed the 12 positions of BertLMHeadModel (max_position_embeddings); "
        "shorten the prompt, or lower max_new_tokens"
    )
    assert complaint(bert, np.ones((1, 12), int)) == (
        "a prompt of 12 tokens and 1 new ones exceed the 12 positions of BertLMHeadModel (max_position_embeddings); "
        "shorten the prompt, or lower max_new_tokens"
    )
    assert bert.generate(PROMPT).sequences.shape == (2, 12)


def test_padding_takes_no_positions(bert):
    prompt = np.pad(PROMPT, ((0, 0), (20, 0)))
    assert bert.generate(prompt, attention_mask=prompt > 0, max_new_tokens=9).sequences.shape == (2, 32)


def test_computed_positions_go_on_with_one_warning(model, caplog):
    call._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "flaxmodels"):
        for _ in range(2):
            assert model.generate(PROMPT, max_new_tokens=13, eos_token_id=None).sequences.shape == (2, 16)
    assert [record.getMessage() for record in caplog.records] == [
        "LlamaForCausalLM was made for 12 positions (max_position_embeddings); text beyond them may be poor"
    ]


def test_randomness(model):
    sampling = {"do_sample": True}
    assert complaint(model, PROMPT, seed=1, prng_key=jax.random.key(0), **sampling) == (
        "prng_key and seed are both given; give one"
    )
    for seed in (-1, 2**32):
        assert (
            complaint(model, PROMPT, seed=seed, **sampling) == f"seed={seed}: expected an integer from 0 to 4294967295"
        )


def test_parameters(model):
    empty = LlamaForCausalLM(model.config, _do_init=False)
    assert complaint(empty, PROMPT) == "the model holds no parameters: pass params=, or call init_weights()"


def test_a_bert_that_is_no_decoder_has_no_cache():
    model = BertLMHeadModel.abstract(SIZES)
    message = "a BERT that decodes with a cache needs is_decoder=True in its configuration"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        model.init_cache(1, 4)

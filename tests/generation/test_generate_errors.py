"""Prompts and models that `generate` refuses, each with its whole message."""

from __future__ import annotations

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.generation import prepare
from flaxmodels.generation.config import GenerationConfig
from flaxmodels.generation.prompt import decoder_prompt, encoder_inputs
from flaxmodels.models.bart import BartForConditionalGeneration
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


EXPECTED_IDS = "input_ids: expected integers [batch, length], got"


@pytest.mark.parametrize(
    ("input_ids", "message"),
    [
        (None, "generate() needs input_ids, or bos_token_id= to begin with"),
        ([5, 6], f"{EXPECTED_IDS} int64 (2,); add the axis batch, as in x[None]"),
        ([[5.0]], f"{EXPECTED_IDS} float64 (1, 1); convert them with astype(int)"),
        (np.zeros((0, 4), int), f"{EXPECTED_IDS} int64 (0, 4); no axis may be empty"),
        (np.zeros((2, 0), int), f"{EXPECTED_IDS} int64 (2, 0); no axis may be empty"),
        ([[5, 6], [7]], "input_ids: the rows differ in length; pad the shorter ones"),
        ([[5, 20]], "input_ids: expected token ids from 0 to 19, got 5 to 20; use the tokenizer of this model"),
        ([[-100, 4]], "input_ids: expected token ids from 0 to 19, got -100 to 4; use the tokenizer of this model"),
    ],
)
def test_input_ids(model, input_ids, message):
    assert complaint(model, input_ids) == message


RIGHT = (
    "are padded on the right, where their completions begin; pad on the left, or pass the mask if these tokens are not"
)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((2, 4), int), "attention_mask: expected [batch, length] = (2, 3) as input_ids, got (2, 4)"),
        (np.full((2, 3), 2), "attention_mask: expected zeros and ones, got 2 to 2"),
        (np.ones((2, 3, 3), int), "attention_mask: expected [batch, length], got (2, 3, 3)"),
        ([[0, 0, 0], [1, 1, 1]], "attention_mask: rows [0] are all padding; each needs a token"),
        ([[1, 1, 0], [1, 1, 0]], f"attention_mask: rows [0, 1] {RIGHT} padding"),
        ([[1, 1, 1], [1, 1]], "attention_mask: the rows differ in length; pad the shorter ones"),
    ],
)
def test_attention_mask(model, mask, message):
    assert complaint(model, PROMPT, attention_mask=mask) == message


def test_right_padding_is_seen_without_a_mask(model):
    assert complaint(model, PROMPT, pad_token_id=10) == f"attention_mask: rows [1] {RIGHT} padding"


EXPECTED_EMBEDS = "inputs_embeds: expected floats [batch, length, features], got"


@pytest.mark.parametrize(
    ("embeds", "message"),
    [
        (np.zeros((2, 8)), f"{EXPECTED_EMBEDS} float64 (2, 8); add the axis batch, as in x[None]"),
        (np.zeros((2, 3, 8, 1), np.float32), f"{EXPECTED_EMBEDS} float32 (2, 3, 8, 1)"),
        (np.zeros((0, 3, 8)), f"{EXPECTED_EMBEDS} float64 (0, 3, 8); no axis may be empty"),
        (jnp.zeros((2, 0, 8), "bfloat16"), f"{EXPECTED_EMBEDS} bfloat16 (2, 0, 8); no axis may be empty"),
        (np.zeros((2, 3, 8), int), f"{EXPECTED_EMBEDS} int64 (2, 3, 8); convert them with astype(float)"),
        ([[[0.0] * 8] * 2, [[0.0] * 8]], "inputs_embeds: the rows differ in length; pad the shorter ones"),
    ],
    ids=str,
)
def test_inputs_embeds(model, embeds, message):
    assert complaint(model, inputs_embeds=embeds) == message


def test_inputs_embeds_and_what_else_is_given(model):
    embeds = np.zeros((2, 3, 8), np.float32)
    assert complaint(model, PROMPT, inputs_embeds=embeds) == "input_ids and inputs_embeds are both given; give one"
    assert complaint(model, inputs_embeds=embeds, attention_mask=np.ones((2, 4), int)) == (
        "attention_mask: expected [batch, length] = (2, 3) as inputs_embeds, got (2, 4)"
    )
    assert complaint(model, inputs_embeds=embeds, attention_mask=[[1, 1, 0], [1, 1, 1]]) == (
        f"attention_mask: rows [0] {RIGHT} padding"
    )


def test_lengths(model, bert):
    assert complaint(model, PROMPT, max_length=3) == (
        "max_length=3 is not above the 3 tokens of the prompt; raise it, or pass max_new_tokens"
    )
    assert complaint(bert, PROMPT, max_new_tokens=10) == (
        "a prompt of 3 tokens and 10 new ones exceed the 12 positions of BertLMHeadModel (max_position_embeddings); "
        "shorten the prompt, or lower max_new_tokens"
    )
    assert complaint(bert, np.ones((1, 12), int)) == (
        "a prompt of 12 tokens and 1 new ones exceed the 12 positions of BertLMHeadModel (max_position_embeddings); "
        "shorten the prompt, or lower max_new_tokens"
    )
    assert complaint(bert, np.ones((1, 20), int)) == (
        "a prompt of 20 tokens and 1 new ones exceed the 12 positions of BertLMHeadModel (max_position_embeddings); "
        "shorten the prompt, or lower max_new_tokens"
    )
    assert bert.generate(PROMPT).sequences.shape == (2, 12)


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        ({"min_new_tokens": 5, "max_new_tokens": 4}, 5, 4),
        ({"min_new_tokens": 6, "max_length": 8}, 6, 5),
        ({"min_length": 9, "max_length": 8}, 6, 5),
        ({"min_length": 8, "max_new_tokens": 4}, 5, 4),
        ({"min_length": 5, "min_new_tokens": 8, "max_new_tokens": 4}, 8, 4),
        ({"min_new_tokens": 10}, 10, 9),
    ],
    ids=str,
)
def test_fewest_tokens_are_more_than_most(bert, settings, least, most):
    assert complaint(bert, PROMPT, **settings) == (
        f"min_length or min_new_tokens ask for {least} new tokens or more, but at most {most} are generated; "
        "raise max_new_tokens or max_length"
    )


def test_padding_takes_no_positions(bert):
    prompt = np.pad(PROMPT, ((0, 0), (20, 0)))
    assert bert.generate(prompt, attention_mask=prompt > 0, max_new_tokens=9).sequences.shape == (2, 32)


def test_computed_positions_go_on_with_one_warning(model, caplog):
    prepare._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "flaxmodels"):
        for _ in range(2):
            assert model.generate(PROMPT, max_new_tokens=13, eos_token_id=None).sequences.shape == (2, 16)
    assert [record.getMessage() for record in caplog.records] == [
        "LlamaForCausalLM was made for 12 positions (max_position_embeddings); completions beyond them may be poor"
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


def test_seeds_of_prompts(model):
    for seed in ([1], [1, 2, 3], []):
        assert complaint(model, PROMPT, seed=seed, do_sample=True) == (
            f"seed: expected one for each of 2 prompts, got {len(seed)}"
        )
    for seed, wrong in (([1, -2], -2), ([2**32, 1], 2**32), (["1", "2"], "1"), (0.5, 0.5), ("text", "text")):
        assert complaint(model, PROMPT, seed=seed, do_sample=True) == (
            f"seed={wrong}: expected an integer from 0 to 4294967295"
        )


def test_settings(model):
    """All that `test_generation_config.py` has; through `generate` also those that are none."""
    assert complaint(model, PROMPT, beams=2, num_return_sequences=2, no_repeat_ngram_size=-1) == (
        "generate() cannot use these settings:\n"
        "  - beams: there is no such setting; check the spelling\n"
        "  - num_return_sequences=2 would be the same completion; add do_sample=True or num_beams\n"
        "  - no_repeat_ngram_size=-1: expected None or an integer from 0 to 4096"
    )
    assert complaint(model, PROMPT, generation_config=3) == ("generation_config: expected a GenerationConfig, got int")
    assert complaint(model, PROMPT, bad_words_ids=[[5, 20]]) == (
        "bad_words_ids: the token id 20 is beyond the model's vocabulary of 20; use the tokenizer of this model"
    )


def test_cache_dtype(model):
    assert complaint(model, PROMPT, cache_dtype="int8") == (
        "'int8' is not a dtype for models: expected one of float32, bfloat16, float16, float64"
    )


# ---- draft tokens


def test_draft_tokens_are_for_one_completion_of_one_prompt(model):
    drafts = "draft tokens (assistant_model, prompt_lookup_num_tokens)"
    for how in ({"assistant_model": model}, {"prompt_lookup_num_tokens": 2}):
        assert complaint(model, PROMPT, **how) == (
            f"{drafts} are for one prompt, not for 2, whose completions would grow at different paces"
        )
        for several in ({"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}):
            assert complaint(model, PROMPT[:1], **several, **how) == (
                f"{drafts} are for one completion; use neither num_beams nor num_return_sequences"
            )
        assert (
            complaint(model, PROMPT[:1], output_scores=True, **how) == f"output_scores is not implemented for {drafts}"
        )


def test_an_assistant_predicts_the_same_tokens(model, bart):
    for other in (LlamaModel(model.config), 5, bart):
        assert complaint(model, PROMPT[:1], assistant_model=other) == (
            f"assistant_model: expected a decoder that predicts the next token, got {type(other).__name__}"
        )
    other = LlamaForCausalLM({**SIZES, "vocab_size": 21})
    assert complaint(model, PROMPT[:1], assistant_model=other) == (
        "assistant_model: expected a vocabulary of 20 tokens as that of the model, got 21"
    )
    assert complaint(model, PROMPT[:1], assistant_model=model, prompt_lookup_num_tokens=2) == (
        "assistant_model and prompt_lookup_num_tokens both draft tokens; give one"
    )
    assert complaint(model, PROMPT[:1], assistant_params=model.params) == (
        "assistant_params are given without assistant_model; give both"
    )


def test_inputs_of_another_kind_of_model(model, bart):
    assert complaint(model, PROMPT, decoder_input_ids=PROMPT) == (
        "decoder_input_ids: LlamaForCausalLM has no encoder; pass them as input_ids"
    )
    assert complaint(model, inputs_embeds=np.zeros((1, 3, 7))) == (
        "inputs_embeds: expected [batch, length, features] = (1, 3, 8) as the model, got (1, 3, 7)"
    )
    assert complaint(bart, np.full((1, 13), 5)) == (
        "input_ids: 13 tokens exceed the 12 positions of the model; shorten the sequence"
    )


@pytest.fixture(scope="module")
def bart():
    sizes = {"vocab_size": 20, "d_model": 8, "max_position_embeddings": 12}
    towers = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in TOWER.items()}
    return BartForConditionalGeneration(sizes | towers)


TOWER = {"layers": 1, "attention_heads": 2, "ffn_dim": 8}


ONE_BY_ONE = "needs tokens that come one after another: no num_beams, no draft tokens"


@pytest.mark.parametrize("way", [{"num_beams": 2}, {"prompt_lookup_num_tokens": 2}], ids=str)
def test_beams_and_guesses_are_not_streamed(model, way):
    for name, value in {"streamer": object(), "stop_strings": "a", "max_time": 1.0}.items():
        assert complaint(model, PROMPT[:1], tokenizer=object(), **{name: value}, **way) == f"{name} {ONE_BY_ONE}"
    with pytest.raises(FlaxModelsError) as caught:
        model.stream(PROMPT[:1], **way)
    assert str(caught.value) == f"stream() {ONE_BY_ONE}"


def test_stop_strings_need_a_tokenizer(model):
    message = "stop_strings need tokenizer=, to know what the tokens mean"
    assert complaint(model, PROMPT, stop_strings=["a"]) == message
    with pytest.raises(FlaxModelsError) as caught:
        model.stream(PROMPT, stop_strings="a")
    assert str(caught.value) == message


def test_a_stream_is_checked_before_its_first_token(model):
    with pytest.raises(ConfigError) as caught:
        model.stream(PROMPT, streamer=object(), max_new_tokens=0)
    assert str(caught.value) == (
        "generate() cannot use these settings:\n"
        "  - streamer: there is no such setting; check the spelling\n"
        "  - max_new_tokens=0: expected None or an integer from 1 to 16777216"
    )


# ---- caches and outputs


@pytest.fixture(scope="module")
def cache(model):
    return model.generate(PROMPT, max_new_tokens=2, return_dict_in_generate=True).past_key_values


def test_past_key_values(model, cache):
    for other in (3, cache.layers, ()):
        assert complaint(model, PROMPT, past_key_values=other) == (
            f"past_key_values: expected those of an earlier result of generate(), got {type(other).__name__}"
        )
    assert complaint(model, PROMPT[:1], past_key_values=cache) == (
        "past_key_values: expected as many rows as prompts, 1, and one completion for each; they have 2 rows"
    )
    assert complaint(model, PROMPT, past_key_values=cache, do_sample=True, num_return_sequences=2) == (
        "past_key_values: expected as many rows as prompts, 2, and one completion for each; they have 2 rows"
    )
    assert complaint(model, PROMPT, past_key_values=cache, num_beams=2) == (
        "past_key_values do not go with num_beams, whose sequences share no cache"
    )
    assert complaint(model, inputs_embeds=np.zeros((2, 3, 8)), past_key_values=cache) == (
        "past_key_values are for decoders with input_ids; leave them out"
    )


@pytest.mark.parametrize("name", ["output_attentions", "output_hidden_states"])
def test_outputs_of_beams(model, name):
    assert complaint(model, PROMPT, num_beams=2, **{name: True}) == (
        f"{name} is not implemented for num_beams above 1; run the model on the result"
    )


# ---- inputs of an encoder-decoder


def refusal(function, *args) -> str:
    with pytest.raises(FlaxModelsError) as caught:
        function(*args)
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": [5, 6]}, f"{EXPECTED_IDS} int64 (2,); add the axis batch, as in x[None]"),
        ({"input_ids": [[5, 6], [7]]}, "input_ids: the rows differ in length; pad the shorter ones"),
        (
            {"input_ids": PROMPT, "attention_mask": np.ones((2, 4), int)},
            "attention_mask: expected [batch, length] = (2, 3) as input_ids, got (2, 4)",
        ),
        (
            {"input_ids": PROMPT, "attention_mask": np.full((2, 3), 2)},
            "attention_mask: expected zeros and ones, got 2 to 2",
        ),
        (
            {"input_ids": PROMPT, "attention_mask": [[1, 0, 0], [0, 0, 0]]},
            "attention_mask: rows [1] are all padding; each needs a token",
        ),
        (
            {"input_ids": PROMPT, "inputs_embeds": np.zeros((2, 3, 8))},
            "input_ids and inputs_embeds are both given; give one",
        ),
        (
            {"inputs_embeds": np.zeros((2, 3))},
            f"{EXPECTED_EMBEDS} float64 (2, 3); add the axis batch, as in x[None]",
        ),
        (
            {"input_ids": [[5, 20]], "attention_mask": [[1], [1, 1]]},
            "attention_mask: the rows differ in length; pad the shorter ones\n"
            "input_ids: expected token ids from 0 to 19, got 5 to 20; use the tokenizer of this model",
        ),
    ],
    ids=str,
)
def test_inputs_of_an_encoder(bart, given, message):
    others = dict.fromkeys(("input_ids", "attention_mask", "inputs_embeds"))
    assert refusal(encoder_inputs, others | given, bart.input_checks) == message


def test_embeddings_for_an_encoder_are_given_on(bart):
    embeds = jnp.ones((2, 3, 8), "bfloat16")
    given = {"input_ids": None, "attention_mask": np.ones((2, 3)), "inputs_embeds": embeds}
    found = encoder_inputs(given, bart.input_checks)
    assert found.keys() == {"attention_mask", "inputs_embeds"}
    np.testing.assert_array_equal(found["inputs_embeds"], embeds)


def test_a_mask_is_no_input_of_an_encoder(bart):
    given = {"input_ids": None, "attention_mask": np.ones((2, 3)), "inputs_embeds": None}
    assert encoder_inputs(given, bart.input_checks) == {}


def test_inputs_of_an_encoder_are_filled_on_the_right(bart):
    given = {"input_ids": PROMPT, "attention_mask": [[1, 1, 0], [1, 1, 1]], "inputs_embeds": None}
    found = encoder_inputs(given, bart.input_checks)
    assert {name: (array.shape, array.dtype) for name, array in found.items()} == {
        "input_ids": ((2, 64), np.int32),
        "attention_mask": ((2, 64), np.int32),
    }
    assert found["attention_mask"].sum(-1).tolist() == [2, 3]
    np.testing.assert_array_equal(found["input_ids"][:, :3], PROMPT)


def test_prompts_of_a_decoder(bart):
    none, start = GenerationConfig(), GenerationConfig(decoder_start_token_id=3, bos_token_id=4)
    checks = bart.input_checks
    assert refusal(decoder_prompt, None, 2, none, checks) == (
        "generate() needs decoder_start_token_id=, with which the decoder begins"
    )
    assert refusal(decoder_prompt, PROMPT, 3, start, checks) == (
        "decoder_input_ids: expected 3 rows as the encoder's input, got 2"
    )
    assert refusal(decoder_prompt, [[5, 6], [7]], 2, start, checks) == (
        "decoder_input_ids: the rows differ in length; pad the shorter ones"
    )
    assert refusal(decoder_prompt, None, 2, GenerationConfig(bos_token_id=20), checks) == (
        "decoder_input_ids: expected token ids from 0 to 19, got 20 to 20; use the tokenizer of this model"
    )
    assert decoder_prompt(None, 2, start, checks).input_ids.tolist() == [[3], [3]]
    assert decoder_prompt(None, 2, GenerationConfig(bos_token_id=4), checks).input_ids.tolist() == [[4], [4]]


def test_parameters(model):
    empty = LlamaForCausalLM(model.config, _do_init=False)
    assert complaint(empty, PROMPT) == "the model holds no parameters: pass params=, or call init_weights()"


def test_a_bert_that_is_no_decoder_has_no_cache():
    model = BertLMHeadModel.abstract(SIZES)
    message = "a BERT that decodes with a cache needs is_decoder=True in its configuration"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        model.init_cache(1, 4)

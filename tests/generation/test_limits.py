"""Settings of `generate` that no device has the memory for, and large ones that are harmless."""

from __future__ import annotations

import numpy as np
import pytest

from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution.structure import structure_of
from flaxmodels.generation import device_memory
from flaxmodels.models.bart import BartForConditionalGeneration
from flaxmodels.models.bert import BertLMHeadModel
from flaxmodels.models.gemma2 import Gemma2ForCausalLM
from flaxmodels.models.llama import LlamaForCausalLM
from flaxmodels.models.roberta import RobertaForCausalLM

SIZES = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
PROMPT = np.array([[5, 6, 7], [8, 9, 10]])
THERE = 3 * 10**8
MOST = 2**24
"""Tokens that the settings let through."""


@pytest.fixture(scope="module")
def model():
    return LlamaForCausalLM(SIZES)


def complaint(model, *args, **kwargs) -> str:
    with pytest.raises(FlaxModelsError) as caught:
        model.generate(*args, **kwargs)
    return str(caught.value)


def message(needed: int, rows: int, cache_len: int) -> str:
    return (
        f"generate() needs at least {needed:,} bytes for caches, tokens and scores of {rows:,} rows of "
        f"{cache_len:,} tokens, but the device has {THERE:,}; lower max_new_tokens, max_length, num_beams or "
        "num_return_sequences, or give fewer prompts at once"
    )


SHORT = 64 + 64
"""Tokens of a short prompt and a short completion."""
LONG = 64 + MOST
TOKEN = 2 * 8 * 4 + 3 * 4
"""Bytes of a token: its keys and values, and the token itself with its mask and position."""
SCORES = 20 * 4
LENGTH = 4
"""Bytes of the number of tokens in the cache of a row."""


@pytest.mark.parametrize(
    ("settings", "needed", "rows", "cache_len"),
    [
        ({"max_new_tokens": MOST}, 2 * (LONG * TOKEN + SCORES + LENGTH), 2, LONG),
        ({"max_length": MOST}, 2 * (LONG * TOKEN + SCORES + LENGTH), 2, LONG),
        ({"max_new_tokens": MOST, "cache_dtype": "bfloat16"}, 2 * (LONG * (TOKEN - 32) + SCORES + LENGTH), 2, LONG),
        (
            {"num_beams": 2**14},
            2**15 * (SHORT * (2 * 64 + 7 * 4) + 4 * 64 * 4 + SCORES + 2 * LENGTH),
            2**15,
            SHORT,
        ),
        (
            {"num_return_sequences": 2**14, "do_sample": True},
            2**15 * (SHORT * TOKEN + SCORES + LENGTH),
            2**15,
            SHORT,
        ),
        (
            {"max_new_tokens": 5 * 10**6, "output_scores": True},
            2 * ((64 + 2**23) * TOKEN + (1 + 2**23) * SCORES + LENGTH),
            2,
            64 + 2**23,
        ),
    ],
    ids=str,
)
def test_what_is_too_large_is_refused_before_it_is_compiled(model, monkeypatch, settings, needed, rows, cache_len):
    monkeypatch.setattr(device_memory, "memory_for", lambda values: THERE)
    compiled = dict(structure_of(model).compiled)
    assert complaint(model, PROMPT, eos_token_id=None, **settings) == message(needed, rows, cache_len)
    assert structure_of(model).compiled == compiled


def test_windows_need_less(monkeypatch):
    """A ring keeps the last tokens alone; half of the layers have one."""
    monkeypatch.setattr(device_memory, "memory_for", lambda values: THERE)
    model = Gemma2ForCausalLM(
        {**SIZES, "num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 4, "sliding_window": 8}
    )
    cache_len = 64 + 2**24
    layer = 2 * model.config.kv_heads * 4 * 4
    kept = cache_len * (layer + 3 * 4) + (8 + 64) * layer + 2 * LENGTH + SCORES
    assert complaint(model, PROMPT[:1], max_new_tokens=10**7, eos_token_id=None) == message(kept, 1, cache_len)


def test_memory_is_that_of_the_device_or_of_the_machine(model):
    values = structure_of(model).values()
    physical = device_memory.memory_for(values)
    assert 2**28 < physical < 2**50
    assert device_memory.memory_for([np.zeros(2)]) == physical


class Device:
    def __init__(self, stats):
        self.memory_stats = lambda: stats


def test_memory_of_several_devices(monkeypatch):
    one, other = Device({"bytes_limit": 7, "bytes_in_use": 1}), Device({"bytes_limit": 5})
    monkeypatch.setattr(device_memory.jax, "local_devices", lambda: [one, other])
    assert device_memory.memory_for([]) == 7


SAME = [
    {"no_repeat_ngram_size": 2**12},
    {"suppress_tokens": [2**31 - 1]},
    {"prompt_lookup_num_tokens": 2**12},
    {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 2**12},
]


@pytest.mark.parametrize("settings", SAME, ids=str)
def test_sizes_beyond_the_text_change_nothing(model, settings):
    limits = {"max_new_tokens": 30, "eos_token_id": None}
    expected = model.generate(PROMPT[:1], **limits).sequences
    np.testing.assert_array_equal(model.generate(PROMPT[:1], **settings, **limits).sequences, expected)


def test_numbers_of_drawing_beyond_the_vocabulary_change_nothing(model):
    sampled = [
        model.generate(PROMPT, do_sample=True, seed=3, top_k=top_k, max_new_tokens=9).sequences
        for top_k in (0, 20, 2**31 - 1)
    ]
    np.testing.assert_array_equal(sampled[0], sampled[1])
    np.testing.assert_array_equal(sampled[0], sampled[2])


def test_ngrams_of_an_encoder_beyond_its_text_change_nothing():
    towers = {f"{part}_{name}": 1 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    model = BartForConditionalGeneration({"vocab_size": 20, "d_model": 8, "max_position_embeddings": 12, **towers})
    expected = model.generate(PROMPT).sequences
    found = model.generate(PROMPT, encoder_no_repeat_ngram_size=2**12).sequences
    np.testing.assert_array_equal(found, expected)


def test_guesses_of_a_model_are_compiled_one_by_one(model):
    assert complaint(model, PROMPT[:1], assistant_model=model, num_assistant_tokens=2**12) == (
        "num_assistant_tokens=4096: expected at most 64, each of which is compiled"
    )


# ---- positions


def test_positions_that_begin_behind_padding_are_fewer():
    model = RobertaForCausalLM({**SIZES, "is_decoder": True, "max_position_embeddings": 14, "pad_token_id": 1})
    assert complaint(model, PROMPT, max_new_tokens=10) == (
        "a prompt of 3 tokens and 10 new ones exceed the 12 positions of RobertaForCausalLM "
        "(max_position_embeddings); shorten the prompt, or lower max_new_tokens"
    )
    assert model.generate(PROMPT, max_new_tokens=9, eos_token_id=None).sequences.shape == (2, 12)


def test_positions_of_the_table_count_not_those_of_the_configuration():
    model = BertLMHeadModel({**SIZES, "is_decoder": True, "max_position_embeddings": 12})
    model.config.max_position_embeddings = 100
    assert "exceed the 12 positions" in complaint(model, PROMPT, max_new_tokens=10)

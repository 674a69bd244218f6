"""Logits that are NaN or infinite end `generate`, whatever the strategy, with an error that says where."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels.errors import FlaxModelsError
from flaxmodels.models.bart import BartForConditionalGeneration
from flaxmodels.models.llama import LlamaForCausalLM

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
PROMPT = np.array([[5, 6, 7], [8, 9, 10]])
LIMITS = {"max_new_tokens": 8, "eos_token_id": None}
NAN_TOKEN = 39
"""One that no prompt has, whose embedding is NaN."""


@pytest.fixture(scope="module")
def model():
    return LlamaForCausalLM({**SIZES, "tie_word_embeddings": False, "initializer_range": 1.0})


def with_embedding(model, token: int, value: float = np.nan):
    """Parameters in which `token` is embedded as `value`."""
    params = model.params
    table = params["model"]["embed_tokens"]["embedding"].at[token].set(value)
    return params | {"model": params["model"] | {"embed_tokens": {"embedding": table}}}


def spoilt(model):
    """All logits are NaN."""
    return jax.tree.map(lambda value: jnp.full_like(value, jnp.nan), model.params)


def message(token: int, rows: list[int]) -> str:
    return (
        f"generate(): the logits of new token {token} are NaN or infinite in rows {rows}. Either the weights or "
        'inputs_embeds have such values, or float16 overflows: use dtype="bfloat16" or "float32". '
        "remove_invalid_values=True replaces them"
    )


def refusal(call) -> str:
    with pytest.raises(FlaxModelsError) as caught:
        call()
    return str(caught.value)


class Streamer:
    def put(self, tokens):
        pass

    def end(self):
        pass


STRATEGIES = {
    "greedy": {},
    "sampled": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3},
    "sampled beams": {"num_beams": 3, "do_sample": True, "num_return_sequences": 2},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "streamed": {"streamer": Streamer()},
    "timed": {"max_time": 100.0},
}
ONE_ROW = ("prompt lookup",)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_of_nan_end_every_strategy(model, strategy):
    settings = STRATEGIES[strategy]
    prompt = PROMPT[:1] if strategy in ONE_ROW else PROMPT
    rows = len(prompt) * (settings.get("num_return_sequences", 1) if settings.get("num_beams", 1) == 1 else 1)
    found = refusal(lambda: model.generate(prompt, params=spoilt(model), **settings, **LIMITS))
    assert found == message(1, list(range(rows)))


def test_weights_of_nan_end_drafting_and_streams(model):
    drafting = {"assistant_model": model, "assistant_params": model.params}
    assert refusal(lambda: model.generate(PROMPT[:1], params=spoilt(model), **drafting, **LIMITS)) == message(1, [0])
    assert refusal(lambda: list(model.stream(PROMPT, params=spoilt(model), **LIMITS))) == message(1, [0, 1])


def test_an_encoder_of_nan():
    towers = {f"{part}_{name}": 1 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    model = BartForConditionalGeneration({"vocab_size": 20, "d_model": 8, "max_position_embeddings": 12, **towers})
    assert refusal(lambda: model.generate(PROMPT, params=spoilt(model), **LIMITS)) == message(1, [0, 1])


def test_infinite_logits(model):
    params = model.params
    params["lm_head"]["kernel"] = params["lm_head"]["kernel"].at[:, 3].set(jnp.inf)
    found = refusal(lambda: model.generate(PROMPT, params=params, num_beams=2, **LIMITS))
    assert found == message(1, [0, 1])


def test_the_row_and_the_token_are_named(model):
    free = np.asarray(model.generate(PROMPT, **LIMITS).sequences)[:, 3:]
    step = next(step for step in range(1, 7) if free[1, step] not in free[1, :step] and free[1, step] not in free[0])
    params = with_embedding(model, free[1, step])
    assert refusal(lambda: model.generate(PROMPT, params=params, **LIMITS)) == message(step + 2, [1])
    blocks = model.stream(PROMPT, params=params, **LIMITS)
    assert refusal(lambda: list(blocks)) == message(step + 2, [1])
    for drafting in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": model}):
        found = refusal(lambda given=drafting: model.generate(PROMPT[1:], params=params, **given, **LIMITS))
        assert found in (message(step + 1, [0]), message(step + 2, [0]))  # draft tokens are read before they are needed
    # A row that has ended reads padding, whatever that is.
    ends = {"eos_token_id": int(free[1, step]), "pad_token_id": int(free[1, step]), "max_new_tokens": 8}
    found = np.asarray(model.generate(PROMPT, params=params, **ends).sequences)[:, 3:]
    np.testing.assert_array_equal(found[0], free[0])


def test_embeddings_of_nan(model):
    embeds = np.ones((2, 3, 16), np.float32)
    embeds[0, 0] = np.nan
    assert refusal(lambda: model.generate(inputs_embeds=embeds, **LIMITS)) == message(1, [0])


@pytest.mark.parametrize("strategy", ["greedy", "sampled", "beams", "prompt lookup"])
def test_invalid_values_can_be_removed(model, strategy):
    settings = STRATEGIES[strategy] | {"remove_invalid_values": True}
    prompt = PROMPT[:1] if strategy in ONE_ROW else PROMPT
    assert model.generate(prompt, params=spoilt(model), **settings, **LIMITS).sequences.shape[1] == 11


def test_values_of_draft_tokens_are_checked_by_the_model(model):
    """NaN of the smaller model only make its draft tokens useless."""
    expected = model.generate(PROMPT[:1], **LIMITS).sequences
    drafting = {"assistant_model": model, "assistant_params": spoilt(model)}
    np.testing.assert_array_equal(model.generate(PROMPT[:1], **drafting, **LIMITS).sequences, expected)

"""What a model says of its costs, and the masks that it makes, with the numbers of transformers 4.51."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxmodels
from flaxmodels.analysis import memory, mixin
from flaxmodels.errors import FlaxModelsError

REFERENCE = json.loads((Path(__file__).parents[1] / "fixtures" / "module_utils.json").read_text())
MASK, HEADS, READY = (np.array(REFERENCE["inputs"][name]) for name in ("mask", "heads", "ready"))
IDS = np.arange(10).reshape(2, 5)


def described(name: str):
    """The model of the fixture, without values."""
    cls = getattr(flaxmodels, name)
    return cls.abstract(cls.config_class(**REFERENCE["models"][name]))


@pytest.fixture
def bert():
    return flaxmodels.BertModel(REFERENCE["models"]["BertModel"])


@pytest.fixture
def warnings(caplog):
    """What is logged once a process, as if nothing had been."""
    mixin._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "flaxmodels"):
        yield lambda: [record.getMessage() for record in caplog.records]


# ---- costs


@pytest.mark.parametrize("name", REFERENCE["models"])
def test_counts(name):
    model, expected = described(name), REFERENCE["counts"][name]
    batch = {model.main_input_name: np.ones((2, 3, 8, 8)) if name == "ViTModel" else IDS}
    assert model.estimate_tokens(batch) == expected["tokens"]
    assert model.floating_point_ops(batch) == expected["operations"]
    assert model.floating_point_ops(batch, exclude_embeddings=False) == expected["with_embeddings"]


def test_an_input_that_is_not_there_counts_nothing_and_warns_once(warnings):
    model = described("BertModel")
    assert [model.floating_point_ops({"inputs_embeds": IDS}) for _ in range(2)] == [0, 0]
    assert warnings() == [
        "Could not estimate the number of tokens of the input, floating-point operations will not be computed"
    ]


# ---- memory


def test_memory_hooks_measure_every_module_that_is_called(bert, monkeypatch):
    expected, used = bert(IDS).last_hidden_state, iter(range(10**6))
    monkeypatch.setattr(memory, "used_bytes", lambda: next(used))
    bert.add_memory_hooks()
    assert {vars(each).get("mem_rss_diff") for _, each in nnx.iter_modules(bert)} == {0}
    np.testing.assert_allclose(bert(IDS).last_hidden_state, expected, atol=1e-6)
    # Each call reads the clock twice, so that a module counts itself and twice what it calls.
    attention = bert.encoder.layer[0].attention
    assert getattr(attention.self.query, "mem_rss_diff", None) == 1
    assert bert.embeddings.mem_rss_diff == 1 + 2 * 3
    assert bert.mem_rss_diff > bert.encoder.layer.mem_rss_diff > 2 * bert.encoder.layer[0].mem_rss_diff > 2
    once = bert.mem_rss_diff
    bert(IDS, params=bert.params)
    assert bert.mem_rss_diff == 2 * once
    bert.reset_memory_hooks_state()
    assert bert.mem_rss_diff == bert.embeddings.mem_rss_diff == 0
    bert.remove_memory_hooks()
    assert jnp.array_equal(bert(IDS).last_hidden_state, expected)
    assert bert.mem_rss_diff == 0


def test_memory_hooks_read_the_memory_of_the_process():
    assert memory.used_bytes() > 10**6


def test_memory_hooks_without_psutil(bert, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "psutil", None)
    with pytest.raises(FlaxModelsError) as error:
        bert.add_memory_hooks()
    assert str(error.value) == "memory hooks need psutil: pip install psutil"
    assert not bert.has_memory_hooks


def test_a_model_with_memory_hooks_can_be_traced(bert):
    expected = bert(IDS).last_hidden_state
    bert.add_memory_hooks()
    traced = jax.jit(lambda params: bert(IDS, params=params).last_hidden_state)(bert.params)
    np.testing.assert_allclose(traced, expected, atol=1e-6)
    assert bert.mem_rss_diff == 0


# ---- masks


MASKS = {
    "extended": lambda model: model.get_extended_attention_mask(MASK, (2, 4)),
    "extended_half": lambda model: model.get_extended_attention_mask(MASK, (2, 4), dtype="float16"),
    "extended_after_others": lambda model: model.get_extended_attention_mask(MASK, (2, 3)),
    "extended_ready": lambda model: model.get_extended_attention_mask(READY, (2, 3)),
    "inverted": lambda model: model.invert_attention_mask(MASK),
    "inverted_ready": lambda model: model.invert_attention_mask(READY),
    "causal": lambda model: model.create_extended_attention_mask_for_decoder((2, 4), MASK),
    "causal_after_others": lambda model: model.create_extended_attention_mask_for_decoder((2, 3), MASK),
    "heads": lambda model: model.get_head_mask(HEADS, 3),
    "heads_chunked": lambda model: model.get_head_mask(HEADS, 3, is_attention_chunked=True),
    "heads_by_layer": lambda model: model.get_head_mask(np.stack([HEADS, 1 - HEADS]), 2),
}


@pytest.mark.parametrize("name", REFERENCE["masks"])
@pytest.mark.parametrize("mask", MASKS)
def test_masks(name, mask):
    found, expected = MASKS[mask](described(name)), REFERENCE["masks"][name][mask]
    assert list(found.shape) == expected["shape"]
    assert found.dtype == {"extended_half": "float16", "causal": "int32", "causal_after_others": "int32"}.get(
        mask, "float32"
    )
    np.testing.assert_array_equal(np.asarray(found, np.float64).ravel(), expected["values"])


def test_masks_have_the_dtype_of_the_computation():
    model = flaxmodels.BertModel.abstract(REFERENCE["models"]["BertModel"], dtype="bfloat16")
    for make in (model.invert_attention_mask, lambda mask: model.get_extended_attention_mask(mask, (2, 4))):
        assert make(MASK).dtype == jnp.bfloat16
        assert make(MASK).min() == jnp.finfo(jnp.bfloat16).min
    assert jnp.asarray(model.get_head_mask(HEADS, 3)).dtype == jnp.bfloat16


def test_no_head_mask():
    assert described("BertModel").get_head_mask(None, 3) == [None] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda model: model.get_extended_attention_mask(MASK[0], (2, 4)),
            "attention_mask: expected a mask [batch, length] or [batch, q_len, kv_len], got one of shape (4,)",
        ),
        (
            lambda model: model.invert_attention_mask(MASK[0]),
            "encoder_attention_mask: expected a mask [batch, length] or [batch, q_len, kv_len], got one of shape (4,)",
        ),
        (
            lambda model: model.get_head_mask(np.ones((1, 2, 3)), 3),
            "head_mask: expected [heads] or [layers, heads], got (1, 2, 3)",
        ),
    ],
)
def test_masks_of_other_axes(make, message):
    with pytest.raises(FlaxModelsError) as error:
        make(described("BertModel"))
    assert str(error.value) == message


NO_MASK = (
    "We strongly recommend passing in an `attention_mask` since your input_ids may be padded. See "
    "https://huggingface.co/docs/transformers/troubleshooting#incorrect-output-when-padding-tokens-arent-masked."
)
DOUBT = (
    "\nYou may ignore this warning if your `pad_token_id` (3) is identical to the `bos_token_id` (None), "
    "`eos_token_id` (3), or the `sep_token_id` (None), and your input is not padded."
)


@pytest.mark.parametrize(
    ("config", "ids", "mask", "expected"),
    [
        ({"pad_token_id": 3}, [[3, 1, 2]], None, [NO_MASK]),
        ({"pad_token_id": 3}, [[1, 1, 2], [1, 2, 3]], None, [NO_MASK]),
        ({"pad_token_id": 3, "eos_token_id": 3}, [[1, 2, 3]], None, [NO_MASK + DOUBT]),
        ({"pad_token_id": 3}, [[1, 3, 2]], None, []),
        ({"pad_token_id": 3}, [[3, 1, 2]], [[0, 1, 1]], []),
        ({"pad_token_id": None}, [[3, 1, 2]], None, []),
    ],
)
def test_padding_without_a_mask_is_warned_of_once(config, ids, mask, expected, warnings):
    model = flaxmodels.BertModel.abstract({**REFERENCE["models"]["BertModel"], **config})
    for _ in range(2):
        model.warn_if_padding_and_no_attention_mask(jnp.array(ids), mask)
    assert warnings() == expected


def test_nothing_is_said_of_traced_ids(warnings):
    model = described("BertModel")
    jax.jit(lambda ids: model.warn_if_padding_and_no_attention_mask(ids, None))(jnp.zeros((1, 3), int))
    assert warnings() == []

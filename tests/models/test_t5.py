"""What only T5 and its kin have: weights that a configuration calls tied and a file holds apart, and float16."""

from __future__ import annotations

import json
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from models.comparisons import assert_close, same_params
from models.families.t5_like import CONFIG
from models.torch_reference import tensors_in

from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.models.t5 import T5Config, T5ForConditionalGeneration, T5Model, finite
from flaxmodels.torch_interop import from_torch

IDS = np.array([[5, 7, 11, 13, 2]])
BATCH = {"input_ids": IDS, "decoder_input_ids": IDS[:, ::-1].copy()}


@pytest.fixture(scope="module")
def untied():
    """As transformers 5 has flan-t5: its configuration says that the weights are tied, and they are not."""
    torch.manual_seed(0)
    config = transformers.T5Config(**CONFIG | {"tie_word_embeddings": False})
    assert (config.tie_word_embeddings, config.scale_decoder_outputs) == (True, False)
    reference = transformers.T5ForConditionalGeneration(config).eval()
    reference.lm_head.weight = torch.nn.Parameter(torch.randn_like(reference.shared.weight))
    reference.all_tied_weights_keys.pop("lm_head.weight")
    return reference


def logits_of(reference) -> np.ndarray:
    with torch.no_grad():
        return reference(**{name: torch.from_numpy(ids) for name, ids in BATCH.items()}).logits.numpy()


def test_weights_that_a_file_holds_apart_are_not_tied(untied, tmp_path, caplog):
    untied.save_pretrained(tmp_path / "theirs")
    assert json.loads((tmp_path / "theirs/config.json").read_text())["tie_word_embeddings"]
    with caplog.at_level(logging.WARNING, "flaxmodels"):
        model = T5ForConditionalGeneration.from_pretrained(tmp_path / "theirs")
    assert caplog.messages == [
        f"The configuration ties lm_head.weight to another weight, but {tmp_path}/theirs/model.safetensors holds "
        "other values for it: it is not tied"
    ]
    assert_close(model(**BATCH).logits, logits_of(untied), 1e-5)
    model.save_pretrained(tmp_path / "ours")
    assert same_params(tensors_in(tmp_path / "ours"), tensors_in(tmp_path / "theirs"))
    assert not json.loads((tmp_path / "ours/config.json").read_text())["tie_word_embeddings"]
    caplog.clear()
    again = T5ForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert same_params(again.params, model.params)
    assert not caplog.messages


def test_weights_that_a_module_holds_apart_are_not_tied(untied):
    model = from_torch(untied)
    assert_close(model(**BATCH).logits, logits_of(untied), 1e-5)
    assert untied.config.tie_word_embeddings


def test_float16_does_not_overflow():
    model = T5Model(CONFIG, dtype="float16")
    name = "encoder/block/1/layer/1/DenseReluDense/wo/kernel"
    huge = jax.tree_util.tree_map_with_path(
        lambda path, value: value * 1e5 if "/".join(part.key for part in path) == name else value, model.params
    )
    outputs: Any = model(**BATCH, params=huge, output_hidden_states=True)
    assert jnp.abs(outputs.encoder_hidden_states[2]).max() == jnp.finfo(jnp.float16).max
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs))
    assert finite(jnp.array([jnp.inf], jnp.bfloat16)) == jnp.inf


def test_positions_are_refused():
    with pytest.raises(FlaxModelsError, match=r"^decoder_position_ids: T5 has no positions"):
        T5Model(CONFIG)(**BATCH, decoder_position_ids=IDS)


def test_what_cannot_be_computed_is_named():
    with pytest.raises(ConfigError) as error:
        T5Config(
            feed_forward_proj="swiglu",
            relative_attention_max_distance=1,
            is_decoder=True,
        )
    lines = str(error.value).split("\n")[1:]
    assert [line.split(":")[0] for line in lines] == [
        "  - feed_forward_proj='swiglu'",
        "  - relative_attention_max_distance=1",
        "  - is_decoder=True is not implemented",
    ]

"""What a model hears of: every change of it, its parts and its configurations, and none of others."""

from __future__ import annotations

import copy
import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.tiny_configs import HEADS

from flaxmodels.errors import ConfigError
from flaxmodels.execution import structure
from flaxmodels.execution.structure import structure_of
from flaxmodels.generation.config import GenerationConfig
from flaxmodels.models.clip import CLIPModel
from flaxmodels.models.llama import LlamaConfig, LlamaModel

LLAMA, CLIP = (next(dict(case.values) for case in HEADS if case.head == head) for head in ("LlamaModel", "CLIPModel"))
IDS = np.arange(8).reshape(2, 4)
ROPES = {"rope_type": "linear", "rope_theta": 9.0, "factor": 5.0}


@pytest.fixture
def llama() -> LlamaModel:
    return LlamaModel(LLAMA | {"num_hidden_layers": 1, "rope_parameters": ROPES})


@pytest.fixture
def surveys(monkeypatch) -> list:
    """Modules whose structure was found out."""
    found, original = [], structure.Structure.__init__
    monkeypatch.setattr(
        structure.Structure, "__init__", lambda self, module: (found.append(module), original(self, module))[1]
    )
    return found


@pytest.fixture
def traces(monkeypatch) -> list:
    """Positions that were traced."""
    found = []

    @functools.wraps(LlamaModel.forward)
    def counted(self, *args, forward=LlamaModel.forward, **kwargs):
        found.append(self.config.rope_parameters)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", counted)
    return found


def test_an_edit_in_place_is_refused_and_a_new_value_is_heard(llama, traces):
    before = llama(IDS).last_hidden_state
    with pytest.raises(ConfigError):
        llama.config.rope_parameters["rope_theta"] = 500.0
    assert jnp.array_equal(llama(IDS).last_hidden_state, before)
    llama.config.rope_parameters = {**llama.config.rope_parameters, "rope_theta": 500.0}
    after = llama(IDS).last_hidden_state
    assert not jnp.array_equal(after, before)
    fresh = LlamaModel(llama.config)
    assert jnp.array_equal(fresh(IDS, params=llama.params).last_hidden_state, after)
    assert [ropes["rope_theta"] for ropes in traces] == [9.0, 500.0, 500.0]


def test_a_replaced_configuration_is_heard_and_so_are_its_changes(llama):
    before, old = llama(IDS).last_hidden_state, llama.config
    llama.config = LlamaConfig.from_any(old.to_dict() | {"rope_parameters": ROPES | {"factor": 7.0}})
    replaced = llama(IDS).last_hidden_state
    assert not jnp.array_equal(replaced, before)
    llama.config.rope_parameters = ROPES
    assert jnp.array_equal(llama(IDS).last_hidden_state, before)
    llama.config.update({"output_hidden_states": True})
    assert llama(IDS).hidden_states is not None


def test_a_replaced_configuration_of_the_same_values_is_the_one_that_counts(llama, traces):
    old = llama.config
    llama(IDS)
    llama.config = copy.deepcopy(old)
    llama(IDS)
    assert len(traces) == 1
    old.rope_parameters = ROPES | {"factor": 7.0}  # of nobody
    llama(IDS[:1])
    assert [ropes["factor"] for ropes in traces] == [5.0, 5.0]
    llama.config.rope_parameters = ROPES | {"factor": 8.0}
    llama(IDS)
    assert [ropes["factor"] for ropes in traces] == [5.0, 5.0, 8.0]


def test_a_nested_configuration_is_heard():
    model, ids = CLIPModel(CLIP), np.array([[3, 5, 7, 9], [3, 5, 9, 7]])
    before = [model.get_text_features(ids) for _ in range(2)]
    model.config.text_config.eos_token_id = 7
    after = model.get_text_features(ids)
    assert jnp.array_equal(*before)
    assert not jnp.array_equal(after, before[0])


def test_a_configuration_of_two_models_is_heard_by_both(llama):
    other = LlamaModel(llama.config, seed=1)
    before = [model(IDS).last_hidden_state for model in (llama, other)]
    llama.config.rope_parameters = ROPES | {"factor": 7.0}
    after = [model(IDS).last_hidden_state for model in (llama, other)]
    assert not any(jnp.array_equal(one, two) for one, two in zip(before, after, strict=True))


def test_changes_of_others_cost_nothing(llama, surveys):
    other = LlamaModel(LLAMA | {"num_hidden_layers": 1})
    for model in (llama, other):
        model(IDS)
    assert surveys == [llama, other]
    other.config.output_hidden_states = True
    other.norm.epsilon = 1.0
    setattr(other.layers, "0", LlamaModel(LLAMA | {"num_hidden_layers": 1}).layers[0])
    LlamaConfig().hidden_act = "gelu"
    llama(IDS)
    assert surveys == [llama, other]
    other(IDS)
    assert surveys == [llama, other, other]


def test_a_part_of_two_models_is_heard_by_both_every_time(llama):
    other = LlamaModel(LLAMA | {"num_hidden_layers": 1, "rope_parameters": ROPES})
    other.norm = llama.norm
    for epsilon in (1.0, 2.0):
        before = [model(IDS).last_hidden_state for model in (llama, other)]
        llama.norm.epsilon = epsilon
        after = [model(IDS).last_hidden_state for model in (llama, other)]
        assert not any(jnp.array_equal(one, two) for one, two in zip(before, after, strict=True))


def test_programs_serve_again_when_nothing_that_they_depend_on_has_changed(llama, traces):
    expected = llama(IDS).last_hidden_state
    found = structure_of(llama)
    llama.generation_config = GenerationConfig(max_new_tokens=3)
    llama.seed = 7
    assert found.is_current()
    llama.config.output_attentions = llama.config.output_attentions
    llama.norm.epsilon = llama.norm.epsilon
    llama.norm.scale = nnx.Param(llama.norm.scale[...], **llama.norm.scale.get_metadata(exclude_required=True))
    llama.params = jax.tree.map(lambda leaf: leaf + 0, llama.params)
    assert not found.is_current()
    assert jnp.array_equal(llama(IDS).last_hidden_state, expected)
    assert structure_of(llama) is found
    assert len(traces) == 1
    llama.norm.scale[...] = 2 * llama.norm.scale[...]
    np.testing.assert_allclose(llama(IDS).last_hidden_state, 2 * expected, rtol=1e-6)
    assert len(traces) == 1


def test_what_is_not_shared_any_more_is_another_structure(llama):
    llama.layers[0].input_layernorm = llama.norm
    shared = structure_of(llama)
    llama.layers[0].input_layernorm = copy.deepcopy(llama.norm)
    assert len(structure_of(llama).paths) == len(shared.paths) + 1
    assert structure_of(llama) is not shared


def test_a_deleted_attribute_is_heard(llama):
    plain = structure_of(llama)
    llama.mark = "new"
    marked = structure_of(llama)
    del llama.mark
    assert not marked.is_current()
    assert marked is not plain


def test_a_model_that_was_called_is_freed():
    model = LlamaModel(LLAMA | {"num_hidden_layers": 1})
    model(IDS)
    gone = [weakref.ref(model), weakref.ref(model.layers), weakref.ref(model.config), weakref.ref(structure_of(model))]
    del model
    gc.collect()
    assert [ref() for ref in gone] == [None] * 4

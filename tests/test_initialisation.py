"""Initialisation: what is filled, from which seed, and classes with a rule of their own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from models.comparisons import same_params

from flaxmodels.models.bert import BertForSequenceClassification, BertModel
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.embedding import Embedding
from flaxmodels.parameters import abstract_names, init_values

TINY = {"vocab_size": 13, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 5}


class OwnBertModel(BertModel):
    """A base model whose tables are initialised otherwise."""

    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        if isinstance(module, Embedding):
            module.embedding[...] = module.embedding[...] + 7


class OwnClassifier(BertForSequenceClassification):
    """A head that is initialised otherwise, around a base model that is too."""

    base_class = OwnBertModel

    def _init_weights(self, module: Any) -> None:
        if isinstance(module, Linear):
            module.kernel[...] = jnp.full_like(module.kernel[...], 3)


def flat(params) -> dict:
    return traverse_util.flatten_dict(params, sep="/")


@pytest.mark.parametrize("method", ["init_weights", "initialize_weights", "post_init"])
@pytest.mark.parametrize("seed", [0, 4])
def test_without_arguments_what_is_not_there_is_filled_from_the_seed(method, seed):
    model, expected = BertModel.abstract(TINY, seed=seed), BertModel(TINY, seed=seed).params
    returned = getattr(model, method)()
    assert same_params(model.params, expected)
    assert returned is None or same_params(returned, expected)


def test_what_is_there_stays_and_ties_too():
    model: Any = BertForSequenceClassification(TINY)
    model.classifier.kernel[...] = jnp.ones((12, 2))
    before = model.params
    model.init_weights()
    assert same_params(model.params, before)
    given = {"classifier": {"bias": np.ones(2, np.float32)}}
    model.init_weights(params=given)
    assert jnp.array_equal(model.classifier.bias[...], jnp.ones(2))
    assert same_params(model.params["bert"], before["bert"])


def test_one_module_is_initialised_again():
    model: Any = BertForSequenceClassification(TINY, seed=2)
    before = model.params
    model.params = jax.tree.map(jnp.zeros_like, before)
    model._init_weights(model.classifier)
    model._init_weights(model.bert.pooler.dense)
    changed = {name for name, value in flat(model.params).items() if jnp.any(value)}
    assert changed == {"classifier/kernel", "bert/pooler/dense/kernel"}
    assert all(jnp.array_equal(flat(model.params)[name], flat(before)[name]) for name in changed)


def test_a_class_may_have_a_rule_of_its_own_and_the_innermost_counts(tmp_path):
    usual: Any = BertForSequenceClassification(TINY)
    model = OwnClassifier(TINY)
    found, expected = flat(model.params), flat(usual.params)
    tables = {name for name in found if name.endswith("/embedding")}
    assert len(tables) == 3
    for name, value in found.items():
        if name == "classifier/kernel":
            np.testing.assert_array_equal(value, 3)
        elif name in tables:
            np.testing.assert_allclose(value, expected[name] + 7, atol=1e-6)
        else:
            np.testing.assert_array_equal(value, expected[name])
    described = OwnClassifier.abstract(TINY)
    assert same_params(described.init_weights(jax.random.key(0)), model.params)
    usual.bert.save_pretrained(tmp_path)
    loaded: Any = OwnClassifier.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.classifier.kernel[...], 3)
    assert same_params(loaded.params["bert"], usual.params["bert"])


@pytest.mark.parametrize("describe", [False, True])
def test_initial_values_change_nothing_in_the_model(describe):
    model = OwnClassifier(TINY)
    if describe:
        model = OwnClassifier.abstract(TINY)
        assert init_values(model, jax.random.key(0), ["classifier/bias"]).keys() == {"classifier/bias"}
        assert model.params_shape_tree == OwnClassifier.abstract(TINY).params_shape_tree
        assert abstract_names(model) == {"/".join(path) for path in model.required_params}
        return
    model.params = jax.tree.map(jnp.zeros_like, model.params)
    values = init_values(model, jax.random.key(0), ["classifier/kernel", "bert/pooler/dense/bias"])
    assert values.keys() == {"classifier/kernel", "bert/pooler/dense/bias"}
    assert not any(jnp.any(value) for value in jax.tree.leaves(model.params))

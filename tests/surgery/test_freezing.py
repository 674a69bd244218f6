"""Frozen parameters: no gradient, no moments, the same bits; and counted apart."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, traverse_util
from flax.core import freeze

from flaxmodels import trainable
from flaxmodels.errors import FlaxModelsError
from flaxmodels.models.bert import BertForSequenceClassification
from flaxmodels.models.resnet import ResNetModel

TINY = {"vocab_size": 13, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 5}
IDS = np.array([[5, 7, 11, 2], [1, 2, 3, 4]])
HEAD = {"classifier/kernel", "classifier/bias"}
RESNET = ResNetModel.abstract({"embedding_size": 4, "hidden_sizes": [4], "depths": [1]})


@pytest.fixture
def model() -> BertForSequenceClassification:
    return BertForSequenceClassification(TINY)


def flat(tree) -> dict:
    return traverse_util.flatten_dict(tree, sep="/")


def loss_of(model, params=None):
    return jnp.square(model(IDS, params=params).logits - 1).mean()


def moments(state) -> set[str]:
    """The paths of the parameters of which an optimizer keeps a first moment."""
    (found,) = [each.mu for each in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(each, "mu")]
    return {name for name, value in flat(found).items() if isinstance(value, jax.Array)}


def nonzero(gradients) -> set[str]:
    return {name for name, value in flat(gradients).items() if jnp.any(value)}


def test_frozen_leaves_have_no_gradient_and_are_not_counted(model):
    every = nonzero(jax.grad(lambda params: loss_of(model, params))(model.params))
    assert model.freeze("^bert/") is model
    assert nonzero(jax.grad(lambda params: loss_of(model, params))(model.params)) == HEAD
    assert model.num_parameters(only_trainable=True) == 12 * 2 + 2
    assert model.num_parameters() > 1000
    model.unfreeze()
    assert nonzero(jax.grad(lambda params: loss_of(model, params))(model.params)) == every
    assert model.num_parameters(only_trainable=True) == model.num_parameters()


def test_the_backward_pass_of_what_is_frozen_is_not_compiled(model):
    def gradients(params):
        return jax.grad(lambda params: loss_of(model, params))(params)

    def cost() -> float:
        analysis: Any = jax.jit(lambda params: gradients(params)).lower(model.params).compile().cost_analysis()
        return analysis["flops"]

    whole = cost()
    model.freeze("^bert/")
    assert cost() < 0.5 * whole


@pytest.mark.parametrize(
    ("filters", "trained"),
    [
        (("^bert/",), {"classifier"}),
        ((r"/layer/0/", "embeddings"), {"bert/encoder", "bert/pooler", "classifier"}),
        ((lambda path: not path.endswith("/bias"),), {"bert/embeddings", "bert/encoder", "bert/pooler", "classifier"}),
        ((), set()),
    ],
)
def test_filters_are_expressions_and_functions_of_the_path(model, filters, trained):
    mask = flat(model.freeze(*filters).trainable_mask())
    assert {name for name, trains in mask.items() if trains} == set(flat(model.trainable_params))
    assert {
        "/".join(name.split("/")[:2]).removesuffix("/kernel").removesuffix("/bias") for name in mask if mask[name]
    } == trained
    for layer in ("bert/encoder/layer/0/", "bert/encoder/layer/1/"):
        assert any(mask[name] for name in mask if name.startswith(layer)) == (
            "bert/encoder" in trained and not any(isinstance(each, str) and each in f"/{layer}" for each in filters)
        )


@pytest.mark.parametrize("kind", ["masked", "labels", "split", "frozen dict"])
def test_optax_leaves_frozen_parameters_and_keeps_no_moments_of_them(model, kind):
    model.freeze("^bert/")
    adam, params, frozen = optax.adamw(1e-2), model.params, {}
    if kind == "masked":
        transform = optax.masked(adam, model.trainable_mask)
    elif kind == "split":
        transform, (params, frozen) = adam, model.split_params()
    else:
        transform = optax.multi_transform({"trainable": adam, "frozen": optax.set_to_zero()}, model.trainable_labels)
        params = freeze(params) if kind == "frozen dict" else params
    state = transform.init(params)
    if kind != "frozen dict":
        assert moments(state) == HEAD

    @jax.jit
    def step(params, state):
        def loss(params):
            return loss_of(model, model.merge_params(params, frozen) if kind == "split" else params)

        updates, state = transform.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(3):
        params, state = step(params, state)
    before, after = flat(model.params), flat(params)
    assert {name for name in after if not jnp.array_equal(after[name], before[name])} == HEAD
    assert set(after) == (HEAD if kind == "split" else set(before))


def test_nnx_optimizers_and_gradients_take_the_filter(model):
    model.freeze("^bert/")
    before = flat(model.params)
    optimizer = nnx.Optimizer(model, optax.adamw(1e-2), wrt=trainable)
    gradients = nnx.grad(loss_of, argnums=nnx.DiffState(0, trainable))(model)
    assert set(flat(nnx.to_pure_dict(gradients))) == HEAD
    optimizer.update(model, gradients)
    after = flat(model.params)
    assert {name for name in after if not jnp.array_equal(after[name], before[name])} == HEAD


def test_what_is_frozen_stays_so_in_copies_saved_values_and_shared_parts(model):
    model.freeze("embeddings")
    twin = copy.deepcopy(model)
    assert twin.trainable_mask() == model.trainable_mask()
    model.params = jax.tree.map(lambda leaf: leaf + 1, model.params)
    model.resize_token_embeddings(17)
    assert twin.trainable_mask() == model.trainable_mask() == model.trainable_mask(model.params)
    assert model.bert.num_parameters(only_trainable=True) < model.bert.num_parameters()


def test_input_embeddings_can_have_a_gradient_though_they_are_frozen(model):
    model.freeze()
    words = "bert/embeddings/word_embeddings/embedding"

    def found() -> set[str]:
        return nonzero(jax.grad(lambda params: loss_of(model, params))(model.params))

    model.enable_input_require_grads()
    assert found() == {words}
    assert not any(flat(model.trainable_mask()).values())
    assert model.num_parameters(only_trainable=True) == 0
    model.disable_input_require_grads()
    assert found() == set()
    with pytest.raises(NotImplementedError) as error:
        RESNET.enable_input_require_grads()
    assert str(error.value) == "ResNetModel has no input embeddings"


def test_stacked_layers_are_frozen_together():
    model = BertForSequenceClassification.abstract(TINY, scan_layers=True)
    model.freeze(r"/layer/(0|1)/")
    assert {name.split("/")[1] for name, trains in flat(model.trainable_mask()).items() if not trains} == {"encoder"}
    with pytest.raises(FlaxModelsError) as error:
        model.freeze("/layer/0/.*query/kernel")
    assert str(error.value) == (
        "'/layer/0/.*query/kernel' chooses some layers of bert/encoder/layer/block/attention/self/query/kernel, which "
        "holds all of them: load the model with scan_layers=False, or choose all layers"
    )


def test_a_filter_that_chooses_nothing_and_a_tree_of_another_model(model):
    with pytest.raises(FlaxModelsError) as error:
        model.freeze("bert", "encodr")
    assert str(error.value) == (
        "'encodr' chooses no parameter: expected what is found in a path such as "
        "bert/embeddings/word_embeddings/embedding"
    )
    assert all(flat(model.trainable_mask()).values())
    for use in (model.trainable_mask, model.trainable_labels, model.split_params):
        with pytest.raises(FlaxModelsError) as error:
            use({"classifier": model.params["classifier"], "bert": model.params["bert"], "more": jnp.ones(3)})
        assert str(error.value) == "the parameters do not fit the model:\n  - unexpected more"


def test_running_statistics_are_not_frozen():
    RESNET.freeze()
    assert RESNET.num_parameters(only_trainable=True) == 0
    assert not jax.tree.leaves(nnx.state(RESNET, trainable))
    assert jax.tree.leaves(nnx.state(RESNET, nnx.BatchStat))

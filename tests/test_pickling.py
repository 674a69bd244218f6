"""Models and configurations are pickled and copied: with and without parameters, before and after a call."""

from __future__ import annotations

import copy
import multiprocessing
import operator
import pickle
from concurrent.futures import ProcessPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.comparisons import same_params
from models.tiny_configs import FIRSTS, HEADS

from flaxmodels import parameters
from flaxmodels.execution.structure import structure_of
from flaxmodels.models.bert import BertForMaskedLM
from flaxmodels.models.llama import LlamaForCausalLM

CASES = {case.head: case for case in HEADS}
IDS = np.arange(8).reshape(2, 4)


def pickled(value):
    return pickle.loads(pickle.dumps(value))


DUPLICATES = pytest.mark.parametrize("duplicate", [pickled, copy.deepcopy, copy.copy], ids=lambda each: each.__name__)


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("case", FIRSTS, ids=str)
def test_descriptions_of_every_architecture(case, scan_layers):
    model = case.ours.abstract(dict(case.values), scan_layers=scan_layers, param_dtype="bfloat16")
    shapes = parameters.shapes(model)
    for duplicate in (pickled, copy.deepcopy, copy.copy):
        twin = duplicate(model)
        assert type(twin) is type(model)
        assert parameters.shapes(twin) == shapes
        assert twin.config.to_dict() == model.config.to_dict()
        assert twin.policy == model.policy
    names = sorted(shapes)[:2]
    initial = (parameters.init_values(each, jax.random.key(3), names) for each in (model, pickled(model)))
    assert same_params(*initial)


@pytest.fixture(scope="module", params=["unrolled", "scanned", "tied"])
def called(request):
    """A model, and what it returns."""
    kind, case = (
        (BertForMaskedLM, CASES["BertForMaskedLM"])
        if request.param == "tied"
        else (LlamaForCausalLM, CASES["LlamaForCausalLM"])
    )
    model = kind(dict(case.values), scan_layers=request.param == "scanned")
    return model, model(IDS).logits


@DUPLICATES
def test_models_compute_the_same(called, duplicate):
    model, expected = called
    twin = duplicate(model)
    assert same_params(twin.params, model.params)
    assert jnp.array_equal(twin(IDS).logits, expected)
    again = duplicate(twin)
    assert jnp.array_equal(again(IDS).logits, expected)
    assert type(model).abstract(model.config).num_parameters() == again.num_parameters()


@DUPLICATES
def test_duplicates_do_not_change_the_original(called, duplicate):
    model, expected = called
    twin, structure = duplicate(model), structure_of(model)
    twin.params = jax.tree.map(jnp.zeros_like, twin.params)
    twin.mark = twin.get_input_embeddings().mark = "new"
    twin.set_input_embeddings(copy.copy(twin.get_input_embeddings()))
    assert structure.is_current()
    assert structure_of(model) is structure
    assert jnp.array_equal(model(IDS).logits, expected)
    assert not jnp.array_equal(twin(IDS).logits, expected)


def test_a_copy_shares_arrays_and_configuration(called):
    model, _ = called
    twin = copy.copy(model)
    pairs = zip(jax.tree.leaves(twin.params), jax.tree.leaves(model.params), strict=True)
    assert all(one is other for one, other in pairs)
    assert twin.config is model.config
    assert twin.base_model is not model.base_model
    assert copy.deepcopy(model).config is not model.config
    deep = copy.deepcopy(model)
    assert deep.config is deep.base_model.config


def test_a_model_goes_to_another_process():
    case = CASES["BertForMaskedLM"]
    model = case.ours(dict(case.values))
    expected = model(IDS)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(operator.methodcaller("__call__", IDS), model).result()
    np.testing.assert_array_equal(found.logits, expected.logits)

"""The base class: calling, parameters, initialisation, precision, and what scripts for the retired classes expect."""

from __future__ import annotations

import copy
import functools
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import torch
import transformers
from flax import nnx, traverse_util
from flax.core import freeze
from flax.training.train_state import TrainState
from models.comparisons import same_params
from models.tiny_configs import FIRSTS, HEADS

from flaxmodels.errors import CheckpointMismatch, ConfigError, FlaxModelsError
from flaxmodels.execution.structure import structure_of
from flaxmodels.models.bert import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)
from flaxmodels.models.llama import LlamaForCausalLM, LlamaModel
from flaxmodels.nn import initializers
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.embedding import Embedding
from flaxmodels.nn.leaves import split_shared
from flaxmodels.nn.moe import Router
from flaxmodels.sharding.rules import tensor_parallel

BERT, LLAMA = (next(dict(case.values) for case in HEADS if case.head == head) for head in ("BertModel", "LlamaModel"))
BATCH = {"input_ids": np.arange(8).reshape(2, 4), "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]])}
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def classifier() -> BertForSequenceClassification:
    return BertForSequenceClassification(BERT)


@pytest.fixture
def llama() -> LlamaModel:
    """A fresh one, for tests that change it."""
    return LlamaModel(LLAMA | {"num_hidden_layers": 1})


def flat(params) -> dict:
    return traverse_util.flatten_dict(params, sep="/")


# ---- calling


def test_params_take_the_place_of_the_models_own(classifier):
    other = BertForSequenceClassification(BERT, seed=1)
    expected = other(**BATCH).logits
    assert not jnp.array_equal(classifier(**BATCH).logits, expected)
    assert jnp.array_equal(classifier(**BATCH, params=other.params).logits, expected)
    assert jnp.array_equal(classifier(**BATCH, params=freeze(other.params)).logits, expected)
    assert jnp.allclose(jax.jit(lambda params: classifier(**BATCH, params=params).logits)(other.params), expected)


def test_forward_of_a_head_takes_the_inputs_of_its_base_model_by_position(classifier):
    by_name = classifier.forward(**BATCH).logits
    assert jnp.array_equal(classifier.forward(*BATCH.values()).logits, by_name)


def test_params_of_another_model_are_refused(classifier):
    params = flat(classifier.params)
    params["classifier/extra"] = params.pop("classifier/bias")
    del params["bert/pooler/dense/kernel"]
    with pytest.raises(FlaxModelsError) as error:
        classifier(**BATCH, params=traverse_util.unflatten_dict(params, sep="/"))
    assert str(error.value) == (
        "the parameters do not fit the model:\n"
        "  - missing bert/pooler/dense/kernel\n"
        "  - missing classifier/bias\n"
        "  - unexpected classifier/extra"
    )


def test_hidden_states_of_an_encoder_need_layers_that_read_them():
    case = next(case for case in HEADS if case.head == "GPT2Model")
    with pytest.raises(FlaxModelsError) as error:
        case.ours(dict(case.values))(**BATCH, encoder_hidden_states=np.ones((2, 3, 36), np.float32))
    assert str(error.value) == "encoder_hidden_states needs add_cross_attention=True in the configuration"


def test_a_training_step_with_optax_lowers_the_loss(classifier):
    labels = jnp.array([3, 1])
    state = TrainState.create(apply_fn=classifier.__call__, params=classifier.params, tx=optax.adam(1e-2))

    @jax.jit
    def step(state, key):
        def loss(params):
            logits = state.apply_fn(**BATCH, params=params, dropout_rng=key, train=True).logits
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradients = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=gradients), value

    losses = []
    for number in range(8):
        state, loss = step(state, jax.random.key(number))
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    assert state.params.keys() == classifier.params.keys()


def test_arguments_are_taken_in_the_old_order_and_as_lists(classifier):
    types, positions = np.ones((2, 4), int), np.array([[3, 2, 1, 0], [0, 1, 2, 3]])
    named = {"token_type_ids": types, "position_ids": positions}
    expected = classifier(**BATCH, **named).logits
    in_order = [BATCH["input_ids"].tolist(), BATCH["attention_mask"].tolist(), types, positions]
    assert jnp.array_equal(classifier(*in_order).logits, expected)
    assert not jnp.allclose(classifier(**BATCH).logits, expected)


def test_a_head_mask_silences_heads(classifier):
    mask = np.ones((2, 4), np.float32)
    mask[1, 2] = 0
    params = flat(classifier.params)
    name = "bert/encoder/layer/1/attention/output/dense/kernel"
    silent = traverse_util.unflatten_dict(params | {name: params[name].at[18:27].set(0)}, sep="/")
    expected = classifier(**BATCH, params=silent).logits
    np.testing.assert_allclose(classifier(**BATCH, head_mask=mask).logits, expected, rtol=1e-5, atol=1e-7)


def test_a_head_mask_of_one_layer_is_that_of_all(classifier):
    heads = np.array([1, 0, 1, 1], np.float32)
    expected = classifier(**BATCH, head_mask=np.stack([heads, heads])).logits
    assert jnp.array_equal(classifier(**BATCH, head_mask=heads).logits, expected)
    assert not jnp.allclose(classifier(**BATCH).logits, expected)


def test_a_mask_shorter_than_the_cache_speaks_of_its_first_slots(llama):
    ids, short = BATCH["input_ids"], np.array([[0, 1, 1], [1, 1, 0]])
    long = np.pad(short, ((0, 0), (0, 3)), constant_values=1)
    cache = llama(ids[:, :3], short, past_key_values=llama.init_cache(2, 6)).past_key_values
    outputs = [llama(ids[:, 3:], mask, past_key_values=cache).last_hidden_state for mask in (short, long, None)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.allclose(outputs[0], outputs[2])


def test_inputs_that_the_model_does_not_take(classifier):
    with pytest.raises(TypeError) as error:
        classifier(input_idz=[[1]])
    assert str(error.value) == (
        "BertForSequenceClassification: got an unexpected keyword argument 'input_idz'; it takes input_ids, "
        "attention_mask, token_type_ids, position_ids, head_mask, encoder_hidden_states, encoder_attention_mask, "
        "past_key_values, inputs_embeds, output_attentions, output_hidden_states, dropout_rng"
    )


def test_tuples_and_extra_outputs_on_request_and_by_configuration(classifier):
    logits, states, attentions = classifier(
        **BATCH, output_hidden_states=True, output_attentions=True, return_dict=False
    )
    assert jnp.array_equal(logits, classifier(**BATCH).logits)
    assert ([state.shape for state in states], [a.shape for a in attentions]) == ([(2, 4, 36)] * 3, [(2, 4, 4, 4)] * 2)
    chosen = {"output_hidden_states": True, "return_dict": False}
    configured = BertForSequenceClassification(BERT | chosen)
    assert [len(part) for part in configured(**BATCH)] == [2, 3]
    assert len(configured(**BATCH, output_hidden_states=False)) == 1
    assert configured(**BATCH, return_dict=True).keys() == ("logits", "hidden_states")


def test_the_forward_pass_is_compiled_once_a_signature(llama, monkeypatch):
    traces = []

    @functools.wraps(LlamaModel.forward)
    def counted(self, *args, forward=LlamaModel.forward, **kwargs):
        traces.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", counted)
    for number in range(3):
        llama(np.full((1, 4), number))
        llama(np.full((1, 4), number), params=jax.tree.map(jnp.ones_like, llama.params))
    assert len(traces) == 1
    llama(np.zeros((1, 5), int))
    llama(np.zeros((1, 4), int), output_hidden_states=True)
    assert len(traces) == 3
    llama.params = jax.tree.map(jnp.zeros_like, llama.params)
    llama(np.zeros((1, 4), int))
    assert len(traces) == 3


def scale_the_norm(llama):
    llama.norm.scale[...] = 2 * llama.norm.scale[...]


def set_the_embeddings(llama):
    new = Embedding(50, 36, llama.policy, init=initializers.ones)
    new.embedding.set_value(jnp.ones((50, 36)))
    llama.set_input_embeddings(new)
    assert llama.get_input_embeddings() is new


def replace_a_layer(llama):
    donor = LlamaModel(LLAMA | {"num_hidden_layers": 1}, seed=1)
    setattr(llama.layers, "0", donor.layers[0])


def replace_an_activation(llama):
    llama.layers[0].mlp.activation = jnp.tanh


def ask_for_hidden_states(llama):
    llama.config.output_hidden_states = True


def change_the_positions(llama):
    llama.config.rope_parameters = {"rope_type": "linear", "rope_theta": 9.0, "factor": 5.0}


@pytest.mark.parametrize(
    "change",
    [
        scale_the_norm,
        set_the_embeddings,
        replace_a_layer,
        replace_an_activation,
        ask_for_hidden_states,
        change_the_positions,
    ],
)
def test_changes_to_the_model_are_noticed(llama, change):
    def leaves():
        return jax.tree.leaves(llama(BATCH["input_ids"]))

    before = leaves()
    change(llama)
    after = leaves()
    assert len(after) != len(before) or not jnp.array_equal(after[0], before[0])


def test_a_model_is_an_nnx_module(llama):
    expected = llama(**BATCH).last_hidden_state
    assert jnp.array_equal(nnx.merge(*nnx.split(llama))(**BATCH).last_hidden_state, expected)
    duplicate = copy.deepcopy(llama)
    scale_the_norm(duplicate)
    assert jnp.array_equal(llama(**BATCH).last_hidden_state, expected)
    assert not jnp.array_equal(duplicate(**BATCH).last_hidden_state, expected)
    assert llama.module is llama


# ---- train and eval mode


@pytest.fixture(scope="module")
def dropping() -> BertForSequenceClassification:
    """A model with dropout, whose mode tests change."""
    return BertForSequenceClassification(BERT)


def test_the_mode_is_the_default_of_train(dropping):
    undropped = dropping(**BATCH).logits
    dropped = dropping(**BATCH, train=True, dropout_rng=KEY).logits
    assert not dropping.training
    assert dropping.train() is dropping
    assert dropping.training
    assert dropping.bert.training
    assert jnp.array_equal(dropping(**BATCH, dropout_rng=KEY).logits, dropped)
    assert jnp.array_equal(dropping(**BATCH, train=False).logits, undropped)
    assert dropping.eval() is dropping
    assert not dropping.training
    assert not dropping.bert.training
    assert jnp.array_equal(dropping(**BATCH).logits, undropped)
    assert dropping.train(False) is dropping
    assert not dropping.training


def test_a_key_without_training_and_training_without_a_key_are_refused(dropping):
    def refusal(**kwargs) -> str:
        with pytest.raises(FlaxModelsError) as error:
            dropping(**BATCH, **kwargs)
        return str(error.value)

    needs_key = (
        "train=True needs dropout_rng=, a key such as jax.random.key(0); without dropout, call eval() or pass "
        "train=False"
    )
    needs_train = "dropout_rng has no effect without train=True: pass that too, or leave both out"
    assert refusal(dropout_rng=KEY) == refusal(dropout_rng=KEY, train=False) == needs_train
    assert refusal(train=True) == needs_key
    dropping.train()
    assert refusal() == needs_key
    assert refusal(dropout_rng=KEY, train=False) == needs_train
    dropping.eval()


def test_a_change_of_the_mode_neither_splits_nor_compiles_anew(dropping):
    structure = structure_of(dropping)
    dropping.train()
    assert structure.is_current()
    dropping.bert.pooler.activation = "any change of the model"
    assert structure_of(dropping) is not structure
    structure = structure_of(dropping)
    dropping.eval()
    assert structure.is_current()
    dropping.bert.pooler.activation = "any change of the model"  # the same, but for the mode
    assert structure_of(dropping) is structure


def test_the_mode_is_that_of_nnx(dropping):
    class Outer(nnx.Module):
        def __init__(self):
            self.model, self.dropout = dropping, nnx.Dropout(0.5)

    outer = Outer()
    outer.train()
    assert dropping.training
    assert not outer.dropout.deterministic
    assert nnx.merge(*nnx.split(outer)).model.training
    viewed = nnx.view(outer, deterministic=True)
    assert not viewed.model.training
    assert viewed.dropout.deterministic
    assert dropping.training
    assert viewed.model.bert.pooler.dense.kernel[...] is dropping.bert.pooler.dense.kernel[...]
    outer.eval()
    assert not dropping.training
    assert outer.dropout.deterministic


def test_the_mode_is_seen_by_nnx_jit(dropping):
    calls = []

    @nnx.jit
    def call(model):
        calls.append(model.training)
        return model(**BATCH, dropout_rng=KEY if model.training else None).logits

    undropped = call(dropping)
    dropped = call(dropping.train())
    assert not jnp.allclose(undropped, dropped)
    assert jnp.array_equal(call(dropping.eval()), undropped)
    assert calls == [False, True]


def test_generation_never_trains():
    generating, prompt = LlamaForCausalLM(LLAMA | {"attention_dropout": 0.5}), np.full((2, 4), 9)
    expected = generating.generate(prompt).sequences
    assert jnp.array_equal(generating.train().generate(prompt).sequences, expected)


# ---- parameters


def test_params_are_a_nested_dict_that_can_be_set():
    model, other = BertForMaskedLM(BERT), BertForMaskedLM(BERT, seed=1)
    assert not same_params(model.params, other.params)
    model.params = jax.tree.map(np.asarray, other.params)
    assert same_params(model.params, other.params)
    assert all(isinstance(value, jax.Array) for value in jax.tree.leaves(model.params))
    decoder: Any = model.get_output_embeddings()
    assert decoder.embedding is model.get_input_embeddings().embedding
    assert "decoder" not in model.params["cls"]["predictions"]


def test_params_that_do_not_fit_are_refused_and_nothing_is_set(classifier):
    before, params = classifier.params, flat(classifier.params)
    params["extra/kernel"] = params.pop("classifier/kernel")
    del params["bert/pooler/dense/bias"]
    with pytest.raises(FlaxModelsError) as error:
        classifier.params = traverse_util.unflatten_dict(params, sep="/")
    assert str(error.value) == (
        "the parameters do not fit the model:\n"
        "  - missing bert/pooler/dense/bias\n"
        "  - missing classifier/kernel\n"
        "  - unexpected extra/kernel"
    )
    wrong = flat(before) | {"classifier/kernel": jnp.ones((5, 36)), "classifier/bias": jnp.ones(6)}
    with pytest.raises(FlaxModelsError) as error:
        classifier.params = traverse_util.unflatten_dict(wrong, sep="/")
    assert str(error.value) == (
        "the parameters do not fit the model:\n"
        "  ! classifier/kernel: given (5, 36), model (36, 5)\n"
        "  ! classifier/bias: given (6,), model (5,)"
    )
    assert same_params(classifier.params, before)


def test_an_abstract_model_has_shapes_only():
    model = BertForMaskedLM.abstract(BERT, param_dtype="bfloat16")
    shapes = flat(model.params_shape_tree)
    assert shapes["bert/embeddings/word_embeddings/embedding"] == jax.ShapeDtypeStruct((31, 36), jnp.bfloat16)
    assert model.required_params == {tuple(name.split("/")) for name in shapes}
    assert model.num_parameters() == sum(shape.size for shape in shapes.values())
    for use in (lambda: model.params, lambda: model(**BATCH), model.state_dict):
        with pytest.raises(FlaxModelsError) as error:
            use()
        assert str(error.value) == "the model holds no parameters: pass params=, or call init_weights()"
    values = BertForMaskedLM(BERT)
    assert jnp.array_equal(BertForMaskedLM.abstract(BERT)(**BATCH, params=values.params).logits, values(**BATCH).logits)


def test_initialisation_depends_on_the_key_alone():
    head, encoder = BertForTokenClassification(BERT, seed=5), BertModel(BERT, seed=5)
    again = BertModel.abstract(BERT).init_weights(jax.random.key(5), (1, 1))
    assert same_params(again, encoder.params)
    shared = flat(head.params["bert"])
    assert all(np.array_equal(value, flat(encoder.params)[name]) for name, value in shared.items())
    other = flat(BertModel(BERT, seed=6).params)
    for name, value in flat(encoder.params).items():
        constant = name.endswith(("bias", "scale"))
        assert np.array_equal(value, other[name]) == constant
        assert constant or 0.015 < float(value.std()) < 0.025


def test_init_weights_fills_in_what_is_missing(tmp_path):
    base = BertModel(BERT)
    base.save_pretrained(tmp_path)
    model, params = BertForSequenceClassification.from_pretrained(tmp_path, _do_init=False, num_labels=5)
    assert model.required_params - set(traverse_util.flatten_dict(params)) == {
        ("classifier", "kernel"),
        ("classifier", "bias"),
    }
    filled = model.init_weights(KEY, (1, 1), params)
    assert same_params(filled["bert"], base.params)
    assert same_params(filled["classifier"], model.abstract(BERT).init_weights(KEY)["classifier"])
    with pytest.raises(FlaxModelsError) as error:
        model.init_weights(KEY, (1, 1), {"classifier": {"weight": jnp.ones(2)}})
    assert str(error.value) == "the parameters do not fit the model:\n  - unexpected classifier/weight"


@pytest.mark.parametrize("case", FIRSTS, ids=str)
def test_input_embeddings_are_found_and_replaced(case):
    model, other = (case.ours.abstract(dict(case.values)) for _ in range(2))
    if case.head in ("ResNetModel", "ConvNextModel", "Wav2Vec2Model"):
        for call in (model.get_input_embeddings, partial(model.set_input_embeddings, None)):
            with pytest.raises(NotImplementedError, match=f"^{case.head} has no input embeddings$"):
                call()
        return
    new = other.get_input_embeddings()
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is new
    assert new in [module for _, module in nnx.iter_modules(model)]


@pytest.mark.parametrize("case", [case for case in HEADS if case in FIRSTS or "CausalLM" in case.head], ids=str)
def test_tensor_parallelism_divides_every_dense_layer_but_routers(case):
    """Those of the layers, and projections to the vocabulary; convolutional networks have no plan."""
    rules = tensor_parallel(case.ours.tp_plan, "model")
    leaves = split_shared(case.ours.abstract(dict(case.values)))[0]
    dense = [leaf.name for leaf in leaves if isinstance(leaf.owner, Linear) and not isinstance(leaf.owner, Router)]
    kernels = [name for name in dense if re.search(r"/\d+/.*kernel$|^(lm_head|embed_out|proj_out)/kernel$", name)]
    whole = [name for name in kernels if not any(re.search(rule, name) for rule, _ in rules)]
    assert whole == (kernels if case.head in ("ResNetModel", "ConvNextModel") else [])


def test_a_state_dict_is_taken_or_refused_whole(llama):
    before, state = llama.params, llama.state_dict()
    state |= {"extra.weight": np.ones(1), "layers.0.mlp.up_proj.weight": np.ones((3, 36), np.float32)}
    del state["norm.weight"]
    with pytest.raises(CheckpointMismatch) as error:
        llama.load_state_dict(state)
    assert str(error.value) == (
        "1 missing, 1 unexpected, 1 of another shape in state_dict\n"
        "  - norm.weight   (for norm/scale)\n"
        "  + extra.weight\n"
        "  ! layers.0.mlp.up_proj.weight: checkpoint (3, 36), model (29, 36)\n"
        "Pass strict=False, and no tensor of another shape, to set those that fit."
    )
    with pytest.raises(CheckpointMismatch) as error:
        llama.load_state_dict(state, strict=False)
    assert str(error.value) == (
        "1 missing, 1 of another shape in state_dict\n"
        "  - norm.weight   (for norm/scale)\n"
        "  ! layers.0.mlp.up_proj.weight: checkpoint (3, 36), model (29, 36)\n"
        "Pass strict=False, and no tensor of another shape, to set those that fit."
    )
    assert same_params(llama.params, before)
    del state["layers.0.mlp.up_proj.weight"]
    state["embed_tokens.weight"] = np.ones((37, 36), np.float32)
    info = llama.load_state_dict(state, strict=False)
    assert (info.missing_keys, info.unexpected_keys) == (
        ["layers.0.mlp.up_proj.weight", "norm.weight"],
        ["extra.weight"],
    )
    assert (llama.params["embed_tokens"]["embedding"] == 1).all()
    assert same_params(llama.params["layers"], before["layers"])


@pytest.mark.parametrize("kind", [np.array, torch.tensor, jnp.array], ids=["numpy", "torch", "jax"])
def test_a_loaded_state_dict_stays_the_callers(llama, kind):
    state = {name: kind(np.asarray(value) + 1) for name, value in llama.state_dict().items()}
    llama.load_state_dict(state)
    before = jax.tree.map(np.array, llama.params)
    for value in state.values():
        if kind is not jnp.array:
            value[...] = 7
    assert same_params(llama.params, before)


# ---- precision


@pytest.mark.parametrize(
    "dtype",
    ["bfloat16", jnp.bfloat16, jnp.dtype("bfloat16"), np.dtype(ml_dtypes.bfloat16), torch.bfloat16],
    ids=["text", "jax type", "jax dtype", "numpy", "torch"],
)
def test_dtypes_of_every_library(dtype):
    model = LlamaModel(LLAMA | {"num_hidden_layers": 1}, dtype=dtype, param_dtype=torch.float16)
    assert (model.policy.dtype, model.policy.param_dtype) == (jnp.bfloat16, jnp.float16)
    assert {value.dtype for value in jax.tree.leaves(model.params)} == {jnp.dtype("float16")}
    assert model(**BATCH).last_hidden_state.dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", ["int8", torch.int32, None, 3, "torch.bfloat17"])
def test_dtypes_that_are_none_for_models(dtype):
    with pytest.raises(ConfigError) as error:
        LlamaModel.abstract(LLAMA, dtype=dtype)
    assert str(error.value) == (
        f"{dtype!r} is not a dtype for models: expected one of float32, bfloat16, float16, float64"
    )


def test_an_unknown_attention_implementation():
    with pytest.raises(ConfigError) as error:
        LlamaModel.abstract(LLAMA, attn_implementation="magic")
    assert str(error.value) == "attn_implementation='magic' is not known: expected one of eager, sdpa, flash"


@pytest.mark.parametrize("cast", ["to_bf16", "to_fp16", "to_fp32"])
def test_casts_take_floating_leaves_of_any_library_where_the_mask_is_true(classifier, cast):
    dtype = {"to_bf16": "bfloat16", "to_fp16": "float16", "to_fp32": "float32"}[cast]
    other = "float16" if dtype == "float32" else "float32"
    params = {
        "a": {"kernel": jnp.ones(2, other), "bias": np.ones(2, other)},
        "b": {"kernel": np.ones(2, other), "steps": jnp.ones(2, jnp.int32)},
    }
    found = jax.tree.map(lambda x: str(x.dtype), getattr(classifier, cast)(params))
    assert found == {"a": {"kernel": dtype, "bias": dtype}, "b": {"kernel": dtype, "steps": "int32"}}
    mask = {"a": {"kernel": True, "bias": False}, "b": {"kernel": True, "steps": True}}
    masked = jax.tree.map(lambda x: str(x.dtype), getattr(classifier, cast)(params, mask))
    assert masked == {"a": {"kernel": dtype, "bias": other}, "b": {"kernel": dtype, "steps": "int32"}}
    assert {str(x.dtype) for x in jax.tree.leaves(getattr(classifier, cast)())} == {dtype}
    assert {str(x.dtype) for x in jax.tree.leaves(classifier.params)} == {"float32"}
    with pytest.raises(FlaxModelsError) as error:
        getattr(classifier, cast)(params, {"a": {"kernel": True, "bias": True}, "b": {"kernel": True, "step": True}})
    assert str(error.value) == ("the parameters do not fit the model:\n  - missing b/steps\n  - unexpected b/step")


def test_params_in_half_precision_can_be_set_and_used():
    model = LlamaForCausalLM(LLAMA)
    model.params = model.to_bf16(model.params)
    assert {str(x.dtype) for x in jax.tree.leaves(model.params)} == {"bfloat16"}
    assert model(**BATCH).logits.dtype == jnp.float32


# ---- configurations and conventions of other libraries


def test_the_old_constructor(classifier):
    model = BertForSequenceClassification(
        BertConfig(**BERT), input_shape=(1, 1), seed=0, dtype=jnp.float32, _do_init=True
    )
    assert same_params(model.params, classifier.params)
    assert same_params(
        BertForSequenceClassification(BertConfig(**BERT), (1, 1), 0, jnp.float32).params, classifier.params
    )
    assert (model.seed, model.framework, model.base_model_prefix) == (0, "flax", "bert")
    assert (model.base_model, model.main_input_name) == (vars(model)["bert"], "input_ids")


def test_configurations_of_transformers(classifier):
    theirs = transformers.BertConfig(**BERT)
    model = BertForSequenceClassification(theirs)
    assert jnp.array_equal(model(**BATCH).logits, classifier(**BATCH).logits)
    assert model.config.to_dict().items() >= {"hidden_size": 36, "num_attention_heads": 4}.items()
    with pytest.raises(ConfigError) as error:
        BertModel(transformers.GPT2Config())
    assert str(error.value) == "expected a configuration of model_type 'bert', got 'gpt2'"
    with pytest.raises(ConfigError) as error:
        BertModel(3)
    assert str(error.value) == "expected a BertConfig, got int"


def test_a_call_is_compiled_ahead_of_time(llama):
    ids = np.array([[5, 7, 11], [2, 9, 4]], np.int32)
    described = LlamaModel.abstract(llama.config)
    shape = jax.ShapeDtypeStruct(ids.shape, ids.dtype)
    compiled = described.get_compiled_call(input_ids=shape, output_hidden_states=True)
    found, expected = compiled(input_ids=ids, params=llama.params), llama(ids, output_hidden_states=True)
    np.testing.assert_allclose(found.last_hidden_state, expected.last_hidden_state, rtol=1e-6, atol=1e-6)
    assert len(found.hidden_states) == len(expected.hidden_states)
    with pytest.raises(TypeError):
        compiled(input_ids=ids[:1], params=llama.params)

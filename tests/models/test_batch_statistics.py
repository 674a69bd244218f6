"""Statistics that are saved and not trained: batch norms beside torch's, in training and after it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from models.comparisons import assert_close, same_params
from models.tiny_configs import HEADS, for_cases
from models.torch_reference import inputs_for, tensors_in, torch_model, torch_state

from flaxmodels import CheckpointError, ConfigError, FlaxModelsError, ResNetForImageClassification
from flaxmodels.parameters import flatten

LABELS = np.array([0, 3, 1])
RATE = 0.05


for_resnet = for_cases(case for case in HEADS if case.head == "ResNetForImageClassification")


@for_resnet
def test_parameters_and_statistics_are_apart(model, reference):
    trained, kept = flatten(model.params), flatten(model.batch_stats)
    assert {name.rpartition("/")[2] for name in kept} == {"running_mean", "running_var", "num_batches_tracked"}
    assert {name.rpartition("/")[2] for name in trained} == {"kernel", "scale", "bias"}
    assert not trained.keys() & kept.keys()
    assert model.num_parameters() == sum(parameter.numel() for parameter in reference.parameters())
    assert {value.dtype.name for value in flatten(model.to_bf16()).values()} == {"bfloat16"}
    bytes_kept = sum(value.nbytes for value in kept.values())
    assert model.get_memory_footprint() - model.get_memory_footprint(return_buffers=False) == bytes_kept


@for_resnet
def test_a_half_precision_model_keeps_its_statistics_in_float32(case, folder, model):
    half = case.ours.from_pretrained(folder, torch_dtype="bfloat16")
    assert same_params(half.batch_stats, model.batch_stats)


def train_torch(reference, pixels, steps):
    """Plain gradient descent. Losses, and the state of the model afterwards."""
    reference.train()
    optimizer = torch.optim.SGD(reference.parameters(), RATE)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(reference(torch.from_numpy(pixels)).logits, torch.from_numpy(LABELS))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    reference.eval()
    return losses, {name: tensor.numpy() for name, tensor in reference.state_dict().items()}


def train_ours(model, pixels, steps):
    """The same in one compiled step, which threads parameters, statistics and the optimizer's state."""
    optimizer = optax.sgd(RATE)

    @jax.jit
    def step(params, batch_stats, state):
        def loss(params):
            outputs = model(pixels, params=params, batch_stats=batch_stats, train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, LABELS)
            return losses.mean(), outputs.batch_stats

        (value, batch_stats), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), batch_stats, state, value

    params, batch_stats, losses = model.params, model.batch_stats, []
    state = optimizer.init(params)
    for _ in range(steps):
        params, batch_stats, state, loss = step(params, batch_stats, state)
        losses.append(float(loss))
    return losses, params, batch_stats


@for_resnet
def test_training_is_that_of_torch_and_comes_back_from_files(case, model, folder, tmp_path):
    pixels = inputs_for(case)["pixel_values"]
    trained = case.theirs.from_pretrained(folder)
    losses, state = train_torch(trained, pixels, 3)
    found, params, batch_stats = train_ours(model, pixels, 3)
    assert_close(found, losses, 1e-5)
    other = ResNetForImageClassification.abstract(model.config)
    other.params, other.batch_stats = params, batch_stats
    ours = other.state_dict()
    assert ours.keys() == state.keys()
    for name, value in state.items():
        assert ours[name].dtype == value.dtype
        assert_close(ours[name], value, 2e-5, name)
    other.save_pretrained(tmp_path)
    assert {name: array.tobytes() for name, array in tensors_in(tmp_path).items()} == {
        name: array.tobytes() for name, array in ours.items()
    }
    with torch.no_grad():
        expected = case.theirs.from_pretrained(tmp_path)(torch.from_numpy(pixels)).logits.numpy()
    assert_close(other(pixels).logits, expected, 1e-5)


@for_resnet
def test_outside_a_trace_and_without_training(model, case):
    pixels = inputs_for(case)["pixel_values"]
    before = jax.tree.map(np.asarray, model.batch_stats)
    assert model(pixels).batch_stats is None
    moved = model(pixels, train=True).batch_stats
    assert same_params(model.batch_stats, before)  # a call changes nothing; the caller decides
    assert not same_params(moved, before)
    evaluated = model(pixels, batch_stats=moved)
    assert not jnp.allclose(evaluated.logits, model(pixels).logits)


@for_resnet
def test_what_does_not_fit_is_refused(model):
    with pytest.raises(FlaxModelsError, match=r"^the parameters do not fit the model:\n  - missing resnet/"):
        model.batch_stats = {}
    with pytest.raises(FlaxModelsError, match=r"^the parameters do not fit the model:\n  - unexpected more$"):
        model.batch_stats = {**model.batch_stats, "more": jnp.zeros(2)}


@for_resnet
def test_a_counter_that_does_not_fit_is_refused(case, folder):
    state = tensors_in(folder)
    name = next(name for name in state if name.endswith("num_batches_tracked"))
    state[name] = np.array(2**40)
    other = case.ours.abstract(dict(case.values))
    with pytest.raises(CheckpointError, match=r"num_batches_tracked: int64 1099511627776 does not fit into int32$"):
        other.load_state_dict(state)


@for_resnet
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_images_in_both_layouts(model, case, layout):
    pixels = inputs_for(case)["pixel_values"]
    given = pixels if layout == "NCHW" else np.moveaxis(pixels, 1, -1)
    np.testing.assert_array_equal(model(given).logits, model(pixels).logits)


@for_resnet
def test_statistics_are_variables_of_their_own(model):
    kinds = {type(leaf) for _, leaf in nnx.to_flat_state(nnx.state(model))}
    assert kinds == {nnx.Param, nnx.BatchStat}


def test_stages_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError) as error:
        ResNetForImageClassification.config_class(out_features=["stage9"], hidden_act="magic")
    stages = "['stem', 'stage1', 'stage2', 'stage3', 'stage4']"
    assert f"out_features=['stage9']: expected names among {stages}" in str(error.value)


def test_segmentation_trains_with_an_auxiliary_head():
    case = next(case for case in HEADS if case.head == "BeitForSemanticSegmentation")
    reference = torch_model(case).train()
    reference.beit.eval()  # which has dropout, and no statistics
    model = case.ours.abstract(dict(case.values))
    model.load_state_dict(torch_state(reference))
    pixels = inputs_for(case)["pixel_values"]
    auxiliary = []
    reference.auxiliary_head.register_forward_hook(lambda module, inputs, output: auxiliary.append(output))
    expected = reference(torch.from_numpy(pixels)).logits
    found = model(pixels, train=True)
    assert_close(found.logits, expected.detach(), 1e-5)
    assert_close(found.auxiliary_logits, auxiliary[0].detach(), 1e-5)
    assert model(pixels).auxiliary_logits is None
    model.batch_stats = found.batch_stats
    moved = torch_state(reference)
    for name, value in model.state_dict().items():
        assert_close(value, moved[name], 2e-5, name)

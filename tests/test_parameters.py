"""The public protocol over the parameters of a module."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxmodels import parameters
from flaxmodels.errors import FlaxModelsError
from flaxmodels.nn import initializers
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.embedding import Embedding
from flaxmodels.nn.module import Module, ModuleList, statistic
from flaxmodels.nn.norms import LayerNorm
from flaxmodels.policy import Policy

KEY = jax.random.key(0)


class Part(Module):
    def __init__(self):
        self.first = Linear(2, 3, Policy(), init=initializers.normal(1.0))
        self.second = Linear(2, 3, Policy(), init=initializers.normal(1.0), use_bias=False)
        self.mean = statistic((3,), initializers.zeros)


class Whole(Module):
    def __init__(self):
        self.tokens = Embedding(5, 2, Policy(param_dtype=np.dtype("float16")), init=initializers.normal(1.0))
        self.parts = ModuleList([Part(), Part()])
        self.tied = self.tokens


NAMES = [
    "tokens/embedding",
    *(f"parts/{number}/{name}" for number in "01" for name in ("first/kernel", "first/bias", "second/kernel", "mean")),
]


def test_shapes_are_those_of_the_description_and_of_the_values():
    module = Whole()
    described = parameters.shapes(module)
    assert list(described) == NAMES
    assert described["tokens/embedding"] == jax.ShapeDtypeStruct((5, 2), jnp.float16)
    assert list(parameters.shapes(module, nnx.Param)) == [name for name in NAMES if "mean" not in name]
    assert list(parameters.shapes(module, nnx.BatchStat)) == [name for name in NAMES if "mean" in name]
    parameters.set_values(module, parameters.init_values(module, KEY), complete=nnx.Variable)
    assert parameters.shapes(module) == described
    assert {name: value.dtype for name, value in parameters.values(module).items()} == {
        name: shape.dtype for name, shape in described.items()
    }


def test_counts():
    module = Whole()
    assert parameters.count(module) == 10 + 2 * (6 + 3 + 6)
    assert parameters.count(module, exclude_embeddings=True) == 2 * (6 + 3 + 6)
    assert parameters.num_bytes(module) == 2 * 10 + 4 * 2 * (6 + 3 + 6 + 3)
    assert parameters.num_bytes(module, nnx.BatchStat) == 4 * 2 * 3


def test_initial_values_depend_on_key_and_path_alone():
    values = parameters.init_values(Whole(), KEY)
    again = parameters.init_values(Whole(), KEY, ["parts/0/first/kernel", "tokens/embedding"])
    assert sorted(again) == ["parts/0/first/kernel", "tokens/embedding"]
    assert all(jnp.array_equal(values[name], value) for name, value in again.items())
    raw = parameters.init_values(Whole(), jax.random.PRNGKey(0))
    assert all(jnp.array_equal(values[name], value) for name, value in raw.items())
    other = parameters.init_values(Whole(), jax.random.key(1))
    kernels = [np.asarray(values[name]) for name in NAMES if name.endswith("kernel")]
    kernels += [np.asarray(other[name]) for name in NAMES if name.endswith("kernel")]
    assert len({kernel.tobytes() for kernel in kernels}) == 8


def test_a_path_is_hashed_once(monkeypatch):
    calls, original = [], parameters._fold_in
    monkeypatch.setattr(parameters, "_fold_in", lambda *args: calls.append(args) or original(*args))
    parameters.init_values(Whole(), KEY)
    assert len(calls) == len(NAMES)


def test_the_hash_of_a_path_is_the_same_everywhere():
    """Else the same key would give other values in another process, or in a later version."""
    assert parameters._hash("layers/0/mlp/kernel").tolist() == [1844610673, 3936454368]


def test_values_that_do_not_fit_are_refused_and_none_is_set():
    module = Whole()
    parameters.set_values(module, parameters.init_values(module, KEY))
    before = parameters.values(module)
    given = dict(before) | {"tokens/embedding": np.ones((5, 3)), "parts/1/mean": np.ones(2), "parts/0/mean": np.ones(3)}
    with pytest.raises(FlaxModelsError) as error:
        parameters.set_values(module, given)
    assert str(error.value) == (
        "the parameters do not fit the model:\n"
        "  ! tokens/embedding: given (5, 3), model (5, 2)\n"
        "  ! parts/1/mean: given (2,), model (3,)"
    )
    with pytest.raises(FlaxModelsError) as error:
        parameters.set_values(module, {"tokens/embedding": before["tokens/embedding"]}, complete=nnx.Variable)
    missing = "\n".join(f"  - missing {name}" for name in sorted(NAMES[1:]))
    assert str(error.value) == f"the parameters do not fit the model:\n{missing}"
    with pytest.raises(FlaxModelsError) as error:
        parameters.set_values(module, {"nowhere": np.ones(2)})
    assert str(error.value) == "the parameters do not fit the model:\n  - unexpected nowhere"
    assert all(value is before[name] for name, value in parameters.values(module).items())
    parameters.set_values(module, {"parts/0/mean": np.full(3, 7.0, np.float32)})
    assert parameters.values(module)["parts/0/mean"].tolist() == [7.0] * 3


def test_values_with_a_tree_in_place_of_the_parameters():
    module = Whole()
    message = "the model holds no parameters: pass params=, or call init_weights()"
    with pytest.raises(FlaxModelsError, match=f"^{message.replace('(', '[(]').replace(')', '[)]')}$"):
        parameters.values(module)
    parameters.set_values(module, parameters.init_values(module, KEY))
    own = parameters.values(module)
    ones = {name: np.ones(shape.shape) for name, shape in parameters.shapes(module, nnx.Param).items()}
    found = parameters.values_with(module, parameters.nest(ones))
    assert list(found) == NAMES
    assert all(found[name] is (ones[name] if name in ones else own[name]) for name in NAMES)
    with pytest.raises(FlaxModelsError) as error:
        parameters.values_with(module, parameters.nest(ones | {"tokens/embedding": np.ones(3)}))
    assert str(error.value) == ("the parameters do not fit the model:\n  ! tokens/embedding: given (3,), model (5, 2)")


def test_a_parameter_without_an_initialiser_is_zero():
    module = LayerNorm(3, Policy(), epsilon=1e-5)
    module.extra = nnx.Param(jax.ShapeDtypeStruct((2,), jnp.float32))
    assert parameters.init_values(module, KEY)["extra"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "init",
    [
        initializers.normal(0.5),
        initializers.truncated_normal(0.5, lower=-1.0, upper=1.0),
        initializers.uniform(0.5),
        initializers.constant(0.5),
        initializers.he_normal(),
        initializers.lecun_normal(),
        initializers.xavier_uniform(),
        initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    ],
    ids=lambda init: init.function,
)
def test_initialisers_are_those_of_jax(init):
    make = getattr(jax.nn.initializers, init.function)
    expected = make(*init.arguments, **dict(init.options))(KEY, (4, 3), jnp.float32)
    np.testing.assert_allclose(init(KEY, (4, 3), jnp.float32), expected, rtol=1e-6)

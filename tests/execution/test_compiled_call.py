"""The forward pass compiled ahead of time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny_configs import HEADS
from transformers.generation.configuration_utils import CompileConfig

from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution import call
from flaxmodels.models.llama import LlamaModel

VALUES = next(dict(case.values) for case in HEADS if case.head == "LlamaModel") | {"num_hidden_layers": 1}
IDS = np.arange(8).reshape(2, 4)


@pytest.fixture
def llama() -> LlamaModel:
    return LlamaModel(VALUES)


@pytest.fixture
def compiled(monkeypatch) -> list:
    """The options of each program that is compiled ahead of time."""
    found, original = [], call.compile_call
    monkeypatch.setattr(call, "compile_call", lambda *args: (found.append(args[-1]), original(*args))[1])
    return found


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (None, {}),
        (CompileConfig(dynamic=False, fullgraph=True, mode="max-autotune"), {}),
        ({"xla_cpu_enable_fast_math": False}, {"xla_cpu_enable_fast_math": False}),
    ],
)
def test_a_call_is_compiled_once_for_each_shape(config, options, llama, compiled):
    run = llama.get_compiled_call(config)
    assert compiled == []
    for ids in (IDS, IDS + 1, IDS[:1]):
        np.testing.assert_allclose(run(ids).last_hidden_state, llama(ids).last_hidden_state, atol=1e-6)
    assert compiled == [options] * 2
    params = jax.tree.map(jnp.zeros_like, llama.params)
    assert not run(IDS, params=params).last_hidden_state.any()
    assert len(run(input_ids=IDS, output_hidden_states=True).hidden_states) == 2
    assert compiled == [options] * 3


def test_a_call_hears_of_changes_and_can_be_traced(llama, compiled):
    run = llama.get_compiled_call(compile_config=None)
    run(IDS)
    llama.policy = LlamaModel.abstract(VALUES, dtype="bfloat16", param_dtype="float32").policy
    assert run(IDS).last_hidden_state.dtype == jnp.bfloat16
    assert len(compiled) == 2
    assert jax.eval_shape(run, IDS).last_hidden_state.dtype == jnp.bfloat16
    assert len(compiled) == 2


def test_both_options_and_inputs(llama):
    run = llama.get_compiled_call({"xla_cpu_enable_fast_math": False}, input_ids=jax.ShapeDtypeStruct((2, 4), "int32"))
    np.testing.assert_allclose(run(input_ids=IDS).last_hidden_state, llama(IDS).last_hidden_state, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            CompileConfig(backend="eager"),
            "compile_config asks torch for backend='eager' and options=None, and XLA compiles here: give a mapping of "
            "options for XLA, or neither",
        ),
        ("fast", "compile_config: expected a mapping of options for XLA, or a CompileConfig, got str"),
    ],
)
def test_other_configurations(config, message, llama):
    with pytest.raises(FlaxModelsError) as error:
        llama.get_compiled_call(config)
    assert str(error.value) == message

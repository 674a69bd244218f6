"""Programs for GPUs and TPUs, lowered here: JAX has the rules for them on every machine."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxmodels import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM
from flaxmodels.generation.loop import compiled, generate_tokens
from flaxmodels.generation.plan import plan

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
IDS = np.array([[5, 7, 11, 2]])
BACKENDS = {"cuda": "gpu", "tpu": "tpu"}


@pytest.fixture(params=BACKENDS)
def platform(request, monkeypatch):
    """A platform that the code takes for the one that computes."""
    monkeypatch.setattr(jax, "default_backend", lambda: BACKENDS[request.param])
    return request.param


@pytest.mark.parametrize("scan_layers", [False, True])
def test_decoding_multiplies_by_matrices_in_half_precision(platform, scan_layers):
    model = LlamaForCausalLM.abstract(LlamaConfig(**SIZES), dtype="bfloat16", scan_layers=scan_layers)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), model.params_shape_tree)
    job = plan(model, IDS, max_new_tokens=8, params=params)
    program = compiled(model, generate_tokens).trace(job.values, job.request, program=job.program)
    text = program.lower(lowering_platforms=(platform,)).as_text()
    converted = re.findall(r"stablehlo\.convert .*: \(tensor<(\d+)x(\d+)xbf16>\) -> tensor<\d+x\d+xf32>", text)
    matrices = {leaf.shape[-2:] for leaf in jax.tree.leaves(params) if leaf.ndim > 1}
    assert (32, 48) in matrices
    assert matrices.isdisjoint((int(rows), int(columns)) for rows, columns in converted)
    assert len(re.findall(r"dot_general .*bf16>\) -> tensor<.*xf32>", text)) >= 14


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_step_is_lowered(platform, dtype):
    model = MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4), dtype=dtype, scan_layers=True, remat="full")
    optimizer = optax.adamw(1e-3)

    def step(params, state):
        def loss(params):
            outputs = model(IDS, params=params, train=True, dropout_rng=jax.random.key(0), output_router_logits=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits[:, :-1], IDS[:, 1:])
            return losses.mean() + outputs.aux_loss

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    program = jax.jit(step).trace(model.params, optimizer.init(model.params))
    assert "ragged_dot_general" in str(program.jaxpr)
    assert "while" in program.lower(lowering_platforms=(platform,)).as_text()

"""Programs for CPUs, GPUs and TPUs, lowered here: each has what is fast on its platform, wherever it is compiled."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
import optax
import pytest

from flaxmodels import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM
from flaxmodels.generation.prepare import prepare_call
from flaxmodels.generation.runner import compiled
from flaxmodels.generation.sampling import generate_tokens
from flaxmodels.nn.attention import MAX_QUERIES_OF_EINSUM, dot_product_attention
from flaxmodels.nn.dense import matmul

SIZES = {
    "vocab_size": 2048,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
IDS = np.array([[5, 7, 11, 2]])
PLATFORMS = ("cpu", "cuda", "tpu")


def lowered(function, *arguments, **static) -> dict[str, str]:
    """The texts of one trace of a function, lowered for each platform."""
    trace = getattr(function, "trace", jax.jit(function).trace)(*arguments, **static)
    return {platform: trace.lower(lowering_platforms=(platform,)).as_text() for platform in PLATFORMS}


def where(texts: dict[str, str], pattern: str) -> list[str]:
    """The platforms whose programs have what matches."""
    return [platform for platform, text in texts.items() if re.search(pattern, text)]


def array(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


BARRIER, PADDED_ROW = r"optimization_barrier", r"stablehlo\.pad .*-> tensor<2x"
PRODUCTS = {
    "folded": (array(1, 64), array(64, 2048), 0, BARRIER),
    "folded, half": (array(1, 64, dtype="bfloat16"), array(64, 2048, dtype="bfloat16"), 0, BARRIER),
    "weighted rows, half": (array(1, 64, dtype="bfloat16"), array(2048, 64, dtype="bfloat16"), 1, BARRIER),
    "padded, half": (array(1, 64, dtype="bfloat16"), array(64, 48, dtype="bfloat16"), 0, PADDED_ROW),
    "padded and transposed, half": (array(1, 63, dtype="bfloat16"), array(48, 63, dtype="bfloat16"), 1, PADDED_ROW),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_one_row(name):
    x, weight, contract, mark = PRODUCTS[name]
    texts = lowered(lambda x, weight: matmul(x, weight, contract), x, weight)
    assert where(texts, mark) == ["cpu"]
    assert where(texts, r"dot_general %arg0, %arg1, ") == ["cuda", "tpu"]


@pytest.mark.parametrize("rows", [2, 5])
def test_products_of_several_rows_are_the_same_everywhere(rows):
    texts = lowered(matmul, array(rows, 64), array(64, 2048))
    assert texts["cpu"] == texts["cuda"] == texts["tpu"]


BY_EINSUM = r"dot_general .*batching_dims = \[0, 1\] x \[0, 2\]"
ATTENTION = {
    "few queries": (4, "float32", ["cpu"]),
    "many queries": (MAX_QUERIES_OF_EINSUM + 1, "float32", []),
    "many queries, half": (MAX_QUERIES_OF_EINSUM + 1, "bfloat16", ["cpu"]),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name):
    length, dtype, platforms = ATTENTION[name]
    query, key = array(2, length, 4, 8, dtype=dtype), array(2, length, 2, 8, dtype=dtype)
    assert where(lowered(lambda *arrays: dot_product_attention(*arrays)[0], query, key, key), BY_EINSUM) == platforms


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_decoding(dtype, scan_layers):
    """Matrices are read as they are but on a CPU, which has kernels of its own."""
    model = LlamaForCausalLM.abstract(LlamaConfig(**SIZES), dtype=dtype, scan_layers=scan_layers)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), model.params_shape_tree)
    call = prepare_call(model, IDS, max_new_tokens=8, params=params)
    texts = lowered(compiled(model, program=generate_tokens), call.values, call.inputs, static=call.static)
    assert where(texts, BARRIER) == where(texts, BY_EINSUM) == ["cpu"]
    if dtype == "float32":
        return
    matrices = {leaf.shape[-2:] for leaf in jax.tree.leaves(params) if leaf.ndim > 1}
    assert (32, 48) in matrices
    for text in (texts["cuda"], texts["tpu"]):
        converted = re.findall(r"stablehlo\.convert .*: \(tensor<(\d+)x(\d+)xbf16>\) -> tensor<\d+x\d+xf32>", text)
        assert matrices.isdisjoint((int(rows), int(columns)) for rows, columns in converted)
        assert len(re.findall(r"dot_general .*bf16>\) -> tensor<.*xf32>", text)) >= 14


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_step(dtype):
    """Experts are grouped but on a CPU, where one after another is faster."""
    model = MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4), dtype=dtype, scan_layers=True, remat="full")
    optimizer = optax.adamw(1e-3)

    def step(params, state):
        def loss(params):
            outputs: Any
            outputs = model(IDS, params=params, train=True, dropout_rng=jax.random.key(0), output_router_logits=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits[:, :-1], IDS[:, 1:])
            return losses.mean() + outputs.aux_loss

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    texts = lowered(step, model.params, optimizer.init(model.params))
    assert where(texts, "while") == list(PLATFORMS)
    assert where(texts, "ragged_dot") == ["cuda", "tpu"]

"""All implementations of attention beside the eager one, and that one beside its definition."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.comparisons import assert_close

from flaxmodels.nn import attention
from flaxmodels.nn.attention import dot_product_attention
from flaxmodels.nn.flash import flash_attention

BATCH, Q_LEN, KV_LEN, HEADS, KV_HEADS, HEAD_DIM = 2, 5, 11, 6, 2, 7


def gaussian(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


QUERY = gaussian(BATCH, Q_LEN, HEADS, HEAD_DIM)
KEY, VALUE = gaussian(BATCH, KV_LEN, KV_HEADS, HEAD_DIM), gaussian(BATCH, KV_LEN, KV_HEADS, HEAD_DIM) + 1.0
CAUSAL = jnp.tril(jnp.ones((Q_LEN, KV_LEN), bool), KV_LEN - Q_LEN)[None, None]
PADDING = (jnp.arange(KV_LEN)[None] < jnp.array([[KV_LEN], [4]]))[:, None, None]
BIAS = gaussian(1, HEADS, Q_LEN, KV_LEN)

CASES = {
    "plain": {},
    "causal": {"mask": CAUSAL},
    "padded": {"mask": CAUSAL & PADDING},
    "biased": {"bias": BIAS, "mask": PADDING},
    "bias of a row": {"bias": BIAS[:, :, :1]},
    "scaled": {"scale": 0.3},
}


def by_definition(mask=None, bias=None, scale=None, sinks=None):
    """In numpy, float64, one head of one sequence at a time."""
    result = np.zeros((BATCH, Q_LEN, HEADS, HEAD_DIM))
    full = (BATCH, HEADS, Q_LEN, KV_LEN)
    mask = np.ones(full, bool) if mask is None else np.broadcast_to(mask, full)
    bias = np.zeros(full) if bias is None else np.broadcast_to(bias, full)
    for row in range(BATCH):
        for head in range(HEADS):
            group = head // (HEADS // KV_HEADS)
            keys, values = (np.asarray(array[row, :, group], np.float64) for array in (KEY, VALUE))
            scores = np.asarray(QUERY[row, :, head], np.float64) @ keys.T * (scale or HEAD_DIM**-0.5) + bias[row, head]
            weights = np.where(mask[row, head], np.exp(scores), 0.0)
            further = 0.0 if sinks is None else np.exp(np.float64(sinks[head]))
            result[row, :, head] = weights @ values / (weights.sum(-1, keepdims=True) + further)
    return result


@pytest.mark.parametrize("given", CASES.values(), ids=CASES)
@pytest.mark.parametrize("implementation", ["eager", "sdpa", "flash"])
def test_every_implementation_computes_the_definition(given, implementation):
    found, weights = dot_product_attention(QUERY, KEY, VALUE, implementation=implementation, **given)
    assert weights is None
    assert_close(found, by_definition(**given), 2e-6)


@pytest.mark.parametrize("given", CASES.values(), ids=CASES)
def test_the_attention_of_jax_computes_the_definition(given, monkeypatch):
    """Few queries, as everywhere in these tests, are left to einsums on a CPU."""
    calls, original = [], jax.nn.dot_product_attention
    monkeypatch.setattr(attention, "MAX_QUERIES_OF_EINSUM", 0)
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *a, **kw: calls.append(a) or original(*a, **kw))
    found, _ = dot_product_attention(QUERY, KEY, VALUE, implementation="sdpa", **given)
    assert len(calls) == 1
    assert_close(found, by_definition(**given), 2e-6)


def test_sinks_take_a_part_of_the_weight():
    sinks = gaussian(HEADS)
    found, weights = dot_product_attention(QUERY, KEY, VALUE, CAUSAL, sinks=sinks, return_weights=True)
    assert_close(found, by_definition(CAUSAL, sinks=sinks), 2e-6)
    assert weights is not None
    assert (weights.sum(-1) < 1).all()


@pytest.mark.parametrize("block", [1, 3, 4, 11, 512])
def test_flash_attention_in_blocks_of_any_size(block):
    found = flash_attention(QUERY, KEY, VALUE, CAUSAL & PADDING, BIAS, None, block)
    assert_close(found, by_definition(CAUSAL & PADDING, BIAS), 2e-6)


@pytest.fixture
def cudnn(monkeypatch):
    """A GPU, as far as the code can see, with a kernel that this machine computes. The shapes of its queries."""
    calls, original = [], jax.nn.dot_product_attention

    def kernel(query, key, value, bias, mask, *, scale, implementation):
        calls.append(query.shape)
        assert implementation == "cudnn"
        for array, dtype in (bias, query.dtype), (mask, bool):
            assert array is None or (array.shape[2:], array.dtype) == ((query.shape[1], key.shape[1]), dtype)
        if query.shape[-1] % 8:
            raise NotImplementedError("The head dim must be a multiple of 8")
        return original(query, key, value, bias, mask, scale=scale)

    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, cuda, default: cuda(*arrays))
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    return calls


@pytest.mark.parametrize("q_len", [1, 4, 5])
@pytest.mark.parametrize("head_dim", [8, 7])
@pytest.mark.parametrize("name", ["plain", "masked", "biased"])
def test_cudnn_attends_where_it_can(cudnn, name, head_dim, q_len):
    """With a mask its backward pass takes even lengths only, which matters for more than one query."""
    query, key, value = (gaussian(BATCH, length, HEADS, head_dim).astype(jnp.bfloat16) for length in (q_len, 6, 6))
    mask = (jnp.arange(6)[None] < jnp.array([[6], [4]]))[:, None, None]
    given = {"plain": {}, "masked": {"mask": mask}, "biased": {"mask": mask, "bias": gaussian(1, HEADS, 1, 6)}}[name]
    found, _ = dot_product_attention(query, key, value, implementation="flash", **given)
    assert bool(cudnn) == (name == "plain" or q_len != 5)
    expected, _ = dot_product_attention(query, key, value, implementation="eager", **given)
    assert_close(found.astype(jnp.float32), expected.astype(jnp.float32), 2e-2)


def test_flash_attention_has_the_gradients_of_the_eager_one():
    def loss(implementation, *arrays):
        query, key, value, bias = arrays
        options = {"mask": CAUSAL & PADDING, "bias": bias, "implementation": implementation}
        return jnp.square(dot_product_attention(query, key, value, **options)[0]).sum()

    arrays = (QUERY, KEY, VALUE, BIAS)
    gradients = {name: jax.grad(loss, range(1, 5))(name, *arrays) for name in ("eager", "flash")}
    for ours, theirs in zip(gradients["flash"], gradients["eager"], strict=True):
        assert_close(ours, theirs, 1e-5)


def test_a_query_that_may_look_nowhere_attends_uniformly():
    nowhere = jnp.zeros((BATCH, 1, 1, KV_LEN), bool)
    mean = jnp.repeat(VALUE.mean(1, keepdims=True), HEADS // KV_HEADS, axis=2) + jnp.zeros_like(QUERY)
    for implementation in ("eager", "sdpa", "flash"):
        found, _ = dot_product_attention(QUERY, KEY, VALUE, nowhere, implementation=implementation)
        assert_close(found, mean, 2e-6)


def test_the_memory_of_flash_attention_does_not_grow_with_the_square_of_the_length():
    def temporary(length):
        shape = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
        memory: Any = jax.jit(flash).lower(shape, shape, shape).compile().memory_analysis()
        return memory.temp_size_in_bytes

    def flash(query, key, value):
        return flash_attention(query, key, value, None, None, None, 64)

    assert temporary(4096) < 3 * temporary(2048)
    assert temporary(4096) < 4096**2 * QUERY.itemsize / 10

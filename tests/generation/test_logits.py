"""Logits processors beside the warpers of transformers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.generation import logits_process

from flaxmodels.generation.logits import process, temperature, top_k, top_p

WARPERS = {
    "temperature": logits_process.TemperatureLogitsWarper,
    "top_k": logits_process.TopKLogitsWarper,
    "top_p": logits_process.TopPLogitsWarper,
}
OURS = {"temperature": temperature, "top_k": top_k, "top_p": top_p}


def random_scores(shape=(4, 211), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32)


def warped(scores: np.ndarray, **settings) -> np.ndarray:
    """The scores after the warpers of transformers, in the order of `settings`."""
    tensor = torch.tensor(scores)
    for name, value in settings.items():
        tensor = WARPERS[name](value)(torch.zeros(len(scores), 1, dtype=torch.long), tensor)
    return tensor.numpy()


def assert_same(ours, theirs) -> None:
    """The same tokens are removed; the others differ by the rounding of a division."""
    np.testing.assert_allclose(ours, theirs, rtol=2e-7)


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", value) for value in (0.3, 1.0, 2.5)]
    + [("top_k", value) for value in (1, 2, 17, 210, 211, 5000)]
    + [("top_p", value) for value in (1e-9, 0.2, 0.5, 0.9, 0.999)],
)
def test_a_processor_equals_its_warper(name, value):
    scores = random_scores()
    assert_same(jax.jit(OURS[name])(scores, value), warped(scores, **{name: value}))


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
        {"top_k": 3, "top_p": 0.99},
        {"temperature": 3.0, "top_p": 0.5},
        {"temperature": 1.5, "top_k": 40},
        {},
    ],
)
def test_processors_apply_in_the_order_of_transformers(settings):
    scores = random_scores(seed=1)
    assert_same(process(scores, dict(reversed(settings.items()))), warped(scores, **settings))


def test_tokens_that_tie_with_the_last_one_stay():
    scores = np.array([[1.0, 5.0, 3.0, 3.0, 3.0, -2.0]], np.float32)
    expected = [[-np.inf, 5.0, 3.0, 3.0, 3.0, -np.inf]]
    np.testing.assert_array_equal(top_k(scores, 2), expected)
    np.testing.assert_array_equal(top_k(scores, 2), warped(scores, top_k=2))
    np.testing.assert_array_equal(top_p(scores, 0.85), expected)


def test_the_token_that_crosses_the_threshold_stays():
    scores = np.log([[0.5, 0.3, 0.15, 0.05]]).astype(np.float32)
    assert np.isfinite(top_p(scores, 0.6)).tolist() == [[True, True, False, False]]
    assert np.isfinite(top_p(scores, 0.4)).tolist() == [[True, False, False, False]]


def test_removed_tokens_stay_removed():
    scores = np.where(np.arange(211) % 2, random_scores(), -np.inf)
    np.testing.assert_array_equal(top_k(scores, 150), scores)
    np.testing.assert_array_equal(top_p(scores, 0.9), warped(scores, top_p=0.9))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_any_shape_and_dtype_gives_float32(dtype):
    scores = jnp.asarray(random_scores((2, 3, 50)), dtype)
    for name, value in {"temperature": 0.5, "top_k": 7, "top_p": 0.7}.items():
        result = OURS[name](scores, value)
        assert (result.shape, result.dtype) == (scores.shape, jnp.float32)
        expected = warped(np.asarray(scores, np.float32).reshape(6, 50), **{name: value})
        assert_same(result.reshape(6, 50), expected)
    assert process(scores, {}).dtype == jnp.float32

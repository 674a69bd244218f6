"""Mixtures of experts: every implementation beside a loop over tokens, in values, gradients and half precision."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.comparisons import assert_close

from flaxmodels.errors import ConfigError
from flaxmodels.models.mixtral import MixtralConfig, MixtralForCausalLM
from flaxmodels.nn.moe import load_balancing_loss, mix_experts, route
from flaxmodels.policy import EXPERTS_IMPLEMENTATIONS, Policy

TOKENS, EXPERTS, HIDDEN, INNER, TOP_K = 11, 5, 6, 4, 2


def gaussian(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


X, PARAMETERS = (
    gaussian(TOKENS, HIDDEN),
    {
        "up": gaussian(EXPERTS, HIDDEN, INNER),
        "up_bias": gaussian(EXPERTS, INNER),
        "down": gaussian(EXPERTS, INNER, HIDDEN),
    },
)
LOGITS = gaussian(TOKENS, EXPERTS).at[:, 3].set(-9.0)
"""No token goes to the fourth expert."""


def expert(x, own, product):
    return product(jnp.tanh(product(x, own["up"], own["up_bias"])), own["down"], None)


def outputs_of(parameters, x, logits, implementation, normalise=True):
    return mix_experts(expert, parameters, x, route(logits, TOP_K, normalise=normalise), implementation)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("implementation", EXPERTS_IMPLEMENTATIONS)
def test_every_implementation_computes_the_definition(implementation, normalise):
    x, logits = np.asarray(X, np.float64), np.asarray(LOGITS, np.float64)
    own = {name: np.asarray(value, np.float64) for name, value in PARAMETERS.items()}
    expected = np.zeros_like(x)
    for token in range(TOKENS):
        shares = np.exp(logits[token]) / np.exp(logits[token]).sum()
        best = np.argsort(-shares)[:TOP_K]
        for number in best:
            inner = np.tanh(x[token] @ own["up"][number] + own["up_bias"][number])
            weight = shares[number] / (shares[best].sum() if normalise else 1.0)
            expected[token] += weight * (inner @ own["down"][number])
    assert_close(outputs_of(PARAMETERS, X, LOGITS, implementation, normalise), expected, 1e-6)


@pytest.mark.parametrize("implementation", EXPERTS_IMPLEMENTATIONS[1:])
def test_gradients_are_those_of_the_eager_loop(implementation):
    def gradients(implementation):
        def loss(*args):
            return jnp.sum(outputs_of(*args, implementation=implementation, normalise=False) ** 2)

        return jax.grad(loss, (0, 1, 2))(PARAMETERS, X, LOGITS)

    found, expected = gradients(implementation), gradients("eager")
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(ours, theirs, 1e-6)
    assert not np.asarray(expected[0]["up"][3]).any()


@pytest.mark.parametrize("implementation", EXPERTS_IMPLEMENTATIONS)
def test_half_precision_is_close_and_stays_half(implementation):
    half = [jax.tree.map(lambda array: array.astype(jnp.bfloat16), value) for value in (PARAMETERS, X)]
    found = outputs_of(half[0], half[1], LOGITS, implementation)
    assert found.dtype == jnp.bfloat16
    assert_close(found, outputs_of(PARAMETERS, X, LOGITS, "eager"), 3e-2)


def test_the_loss_of_balanced_experts_is_the_number_of_choices():
    chosen_equally = jnp.eye(4)[jnp.arange(8) % 4] * 1e-6
    assert load_balancing_loss([chosen_equally] * 2, 1) == pytest.approx(1.0)
    one_for_all = jnp.zeros((8, 4)).at[:, 2].set(50.0)
    assert load_balancing_loss([one_for_all], 1) == pytest.approx(4.0)
    mask = jnp.arange(8) < 4
    assert load_balancing_loss([jnp.where(mask[:, None], chosen_equally, one_for_all)], 1, mask) == pytest.approx(1.0)


TINY = MixtralConfig(
    vocab_size=13,
    hidden_size=8,
    intermediate_size=6,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_models_compute_the_same_with_every_implementation(scan_layers):
    ids = np.arange(10).reshape(2, 5)
    outputs = [
        MixtralForCausalLM(TINY, experts_implementation=name, scan_layers=scan_layers)(ids).logits
        for name in EXPERTS_IMPLEMENTATIONS
    ]
    for found in outputs[1:]:
        assert_close(found, outputs[0], 1e-5)


def test_the_loss_counts_the_new_tokens_alone_with_a_cache():
    model = MixtralForCausalLM(TINY)
    ids, mask = np.arange(10).reshape(2, 5), np.array([[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]])
    start = model(ids[:, :3], attention_mask=mask, past_key_values=model.init_cache(2, 5))
    found: Any
    found = model(ids[:, 3:], attention_mask=mask, past_key_values=start.past_key_values, output_router_logits=True)
    assert start.aux_loss is None
    assert found.router_logits[0].shape == (4, 8)
    assert_close(found.aux_loss, load_balancing_loss(found.router_logits, 2), 1e-6)


def test_noise_takes_place_in_training_alone():
    config = MixtralConfig.from_any({**TINY.to_dict(), "router_jitter_noise": 0.3})
    model, ids = MixtralForCausalLM(config), np.arange(10).reshape(2, 5)
    plain, noisy = model(ids).logits, model(ids, train=True, dropout_rng=jax.random.key(0)).logits
    np.testing.assert_array_equal(plain, MixtralForCausalLM(TINY)(ids).logits)
    assert (noisy != plain).all()


def test_unknown_implementations_are_refused():
    message = "experts_implementation='fused' is not known: expected one of eager, batched, grouped"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Policy(experts_implementation="fused")


def test_more_choices_than_experts_are_refused():
    with pytest.raises(ConfigError, match=r"num_experts_per_tok=9: expected 1 to 8 experts$"):
        MixtralConfig(num_experts_per_tok=9)

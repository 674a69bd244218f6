"""Unusual decoders against the same mathematics in numpy: one token after another, with loops in place of products."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from bases.unusual import LinearAttention, SharedExpertsMLP, StateSpace, make
from models.comparisons import assert_close
from scipy.special import erf

from flaxmodels.parameters import init_values, set_values

IDS = np.random.default_rng(0).integers(4, 31, (1, 6))
STATES = np.random.default_rng(1).normal(size=(1, 6, 24)).astype(np.float32)


def part(kind, name):
    """A part of a model of that name, with parameters of its own, and these in float64."""

    model = make(name, _do_init=False)
    module = kind(model.config, model.policy)
    set_values(module, init_values(module, jax.random.key(2)))
    return module, {
        name: np.asarray(value, np.float64) for name, value in init_values(module, jax.random.key(2)).items()
    }


def softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def silu(x):
    return x / (1 + np.exp(-x))


def layer_norm(x, scale=1.0):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale


def rotated(x, rotary_dim):
    """`[length, head_dim]`, whose first `rotary_dim` features are pairs of neighbours that turn."""
    x = x.copy()
    for position in range(len(x)):
        for pair in range(0, rotary_dim, 2):
            angle = position * 10000.0 ** (-pair / rotary_dim)
            first, second = x[position, pair : pair + 2]
            x[position, pair] = first * np.cos(angle) - second * np.sin(angle)
            x[position, pair + 1] = second * np.cos(angle) + first * np.sin(angle)
    return x


def parallel_layer(layer, x):
    attn, normalised, heads = layer["self_attn"], layer_norm(x), []
    key, value = rotated(normalised @ attn["k_proj"]["kernel"], 4), normalised @ attn["v_proj"]["kernel"]
    for query in np.split(normalised @ attn["q_proj"]["kernel"], 4, axis=-1):
        scores = 5.0 * np.tanh(0.2 * rotated(query, 4) @ key.T / 5.0)
        heads.append(softmax(np.where(np.tri(len(x), dtype=bool), scores, -np.inf)) @ value)
    inner = normalised @ layer["mlp"]["fc1"]["kernel"] + layer["mlp"]["fc1"]["bias"]
    inner = inner * (1 + erf(inner / 2**0.5)) / 2
    mlp_output = inner @ layer["mlp"]["fc2"]["kernel"] + layer["mlp"]["fc2"]["bias"]
    return x + 0.5 * np.concatenate(heads, axis=-1) @ attn["o_proj"]["kernel"] + 0.5 * mlp_output


def test_parallel_branches_one_key_head_partial_rotation_and_multipliers():

    model = make("parallel")
    params = jax.tree.map(lambda array: np.asarray(array, np.float64), model.params)
    base, x = params["model"], params["model"]["embed_tokens"]["embedding"][IDS[0]] * 3.0
    for number in range(3):
        x = parallel_layer(base["layers"][str(number)], x)
    logits = layer_norm(x, base["norm"]["scale"]) @ params["lm_head"]["kernel"] * 0.25
    assert_close(model(IDS).logits[0], logits, 1e-5)


def test_linear_attention_is_attention_without_softmax():
    module, params = part(LinearAttention, "hybrid")
    fused = np.split(STATES[0].astype(np.float64) @ params["qkv_proj/kernel"], 3, axis=-1)
    heads = []
    for query, key, value in zip(*(np.split(array, 4, axis=-1) for array in fused), strict=True):
        query, key = (np.where(array > 0, array + 1, np.exp(array)) for array in (query, key))
        weights = np.tri(6) * (query @ key.T)
        heads.append(weights @ value / (weights.sum(-1, keepdims=True) + 1e-6))
    expected = np.concatenate(heads, axis=-1) @ params["o_proj/kernel"]
    found = module(jnp.asarray(STATES), None, {"valid": jnp.ones((1, 6), bool)}, None).hidden_states[0]
    assert_close(found, expected, 1e-5)


def test_a_state_space_model_token_by_token():
    module, params = part(StateSpace, "state-space")
    state, window, expected = np.zeros((48, 4)), np.zeros((3, 48)), []
    for token in STATES[0].astype(np.float64):
        x, gate = np.split(token @ params["in_proj/kernel"], 2)
        window = np.stack([*window[1:], x])
        x = silu((window * params["conv"]).sum(0))
        step, write, read = np.split(x @ params["x_proj/kernel"] + params["x_proj/bias"], (1, 5))
        step = np.log1p(np.exp(step))
        state = state * np.exp(-step * np.exp(params["log_rates"])) + step * x[:, None] * write[None]
        expected.append((state @ read * silu(gate)) @ params["out_proj/kernel"])
    found = module(jnp.asarray(STATES), None, {"valid": jnp.ones((1, 6), bool)}, None).hidden_states[0]
    assert_close(found, np.stack(expected), 1e-5)


def test_experts_and_those_that_all_tokens_go_to():
    module, params = part(SharedExpertsMLP, "latent")
    expected = []
    for token in STATES[0].astype(np.float64):
        shared = {name: params[f"shared_experts/{name}/kernel"] for name in ("gate_proj", "up_proj", "down_proj")}
        total = (silu(token @ shared["gate_proj"]) * (token @ shared["up_proj"])) @ shared["down_proj"]
        shares = softmax(token @ params["gate/kernel"])
        chosen = np.argsort(shares)[-2:]
        for expert in chosen:
            gate, up = np.split(token @ params["experts/gate_up_proj"][expert], 2)
            total = (
                total + shares[expert] / shares[chosen].sum() * (silu(gate) * up) @ params["experts/down_proj"][expert]
            )
        expected.append(total)
    assert_close(module(jnp.asarray(STATES), None)[0][0], np.stack(expected), 1e-5)

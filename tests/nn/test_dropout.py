"""Layers that are dropped whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxmodels.nn.dropout import layer_dropout


def test_a_layer_is_left_out_as_often_as_asked():
    inputs, outputs = jnp.zeros((2, 3)), jnp.ones((2, 3))
    sampled = [layer_dropout(inputs, outputs, 0.25, key) for key in jax.random.split(jax.random.key(0), 400)]
    kept = jnp.stack(sampled).reshape(400, -1)
    assert ((kept == kept[:, :1]).all(-1)).all()
    assert abs(float(kept.mean()) - 0.75) < 0.06


def test_without_a_key_or_a_rate_it_stays():
    inputs, outputs = jnp.zeros(3), jnp.ones(3)
    assert layer_dropout(inputs, outputs, 0.9, None) is outputs
    assert layer_dropout(inputs, outputs, 0.0, jax.random.key(0)) is outputs

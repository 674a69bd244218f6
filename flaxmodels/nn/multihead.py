"""Attention with its dense layers, as several models name them."""

from __future__ import annotations

from typing import Any

import jax

from flaxmodels.nn.attention import (
    dot_product_attention,
    keys_and_values,
    merge_heads,
    split_heads,
)
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.initializers import Initializer
from flaxmodels.nn.module import Module
from flaxmodels.policy import Policy


class MultiHeadAttention(Module):
    """Attention of hidden states to themselves, to a cache, or to those of an encoder.

    `names` are those of the dense layers for queries, keys, values and output.
    """

    def __init__(
        self,
        features: int,
        heads: int,
        policy: Policy,
        *,
        dropout_rate: float = 0.0,
        use_bias: bool = True,
        key_bias: bool = True,
        names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "out_proj"),
        init: Initializer,
        out_init: Initializer | None = None,
    ):
        self.heads, self.dropout_rate, self.implementation = heads, dropout_rate, policy.attn_implementation
        self.names = query, key, value, out = names
        setattr(self, key, Linear(features, features, policy, use_bias=use_bias and key_bias, init=init))
        setattr(self, value, Linear(features, features, policy, use_bias=use_bias, init=init))
        setattr(self, query, Linear(features, features, policy, use_bias=use_bias, init=init))
        setattr(self, out, Linear(features, features, policy, use_bias=use_bias, init=out_init or init))

    def __call__(
        self,
        hidden_states: jax.Array,
        mask: jax.Array | None,
        *,
        bias: jax.Array | None = None,
        encoder_hidden_states: jax.Array | None = None,
        cache: Any = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None, Any]:
        """`[batch, q_len, features]`, the weights `[batch, heads, q_len, kv_len]` if asked for, and the cache."""
        to_query, to_key, to_value, to_out = (getattr(self, name) for name in self.names)

        def project(source: jax.Array) -> list[jax.Array]:
            return [split_heads(layer(source), self.heads) for layer in (to_key, to_value)]

        key, value, cache = keys_and_values(project, hidden_states, encoder_hidden_states, cache)
        attn_output, weights = dot_product_attention(
            split_heads(to_query(hidden_states), self.heads),
            key,
            value,
            mask,
            bias=bias,
            implementation=self.implementation,
            return_weights=output_attentions,
            dropout_rate=self.dropout_rate,
            dropout_rng=dropout_rng,
        )
        return to_out(merge_heads(attn_output)), weights, cache

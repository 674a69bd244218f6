"""Attention with its dense layers, as several models name them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from flaxmodels.nn.attention import (
    cached_attention,
    dot_product_attention,
    keys_and_values,
    merge_heads,
    split_heads,
)
from flaxmodels.nn.linear import Linear
from flaxmodels.nn.module import Module
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.rope import apply_rope


class MultiHeadAttention(Module):
    """Attention of hidden states to themselves, to a cache, or to `memory`, an encoder's hidden states.

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
        memory: jax.Array | None = None,
        cache: Any = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None, Any]:
        """`[batch, q_len, features]`, the weights `[batch, heads, q_len, kv_len]` if asked for, and the cache."""
        to_query, to_key, to_value, to_out = (getattr(self, name) for name in self.names)

        def project(source: jax.Array) -> list[jax.Array]:
            return [split_heads(layer(source), self.heads) for layer in (to_key, to_value)]

        key, value, cache = keys_and_values(project, hidden_states, memory, cache)
        mixed, weights = dot_product_attention(
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
        return to_out(merge_heads(mixed)), weights, cache


class FusedAttention(Module):
    """Self-attention with one dense layer for query, key and value of the first head, then those of the second, ..."""

    def __init__(
        self,
        features: int,
        heads: int,
        policy: Policy,
        *,
        dropout_rate: float = 0.0,
        use_bias: bool = True,
        init: Initializer,
    ):
        self.heads, self.dropout_rate, self.implementation = heads, dropout_rate, policy.attn_implementation
        self.query_key_value = Linear(features, 3 * features, policy, use_bias=use_bias, init=init)
        self.dense = Linear(features, features, policy, use_bias=use_bias, init=init)

    def __call__(
        self,
        hidden_states: jax.Array,
        mask: jax.Array,
        *,
        bias: jax.Array | None = None,
        rope: tuple[jax.Array, jax.Array] | None = None,
        cache: Any = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None, Any]:
        """`[batch, q_len, features]`, the weights `[batch, heads, q_len, kv_len]` if asked for, and the cache.

        Positions are known by a `bias` of the scores, or by `rope`, which turns queries and keys.
        """
        query, key, value = jnp.split(split_heads(self.query_key_value(hidden_states), self.heads), 3, axis=-1)
        if rope is not None:
            query, key = apply_rope(query, *rope), apply_rope(key, *rope)
        mixed, weights, cache = cached_attention(
            query,
            key,
            value,
            mask,
            cache,
            bias=bias,
            implementation=self.implementation,
            return_weights=output_attentions,
            dropout_rate=self.dropout_rate,
            dropout_rng=dropout_rng,
        )
        return self.dense(mixed), weights, cache

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
    """Attention of hidden states to themselves, to a cache, or to `memory`, an encoder's hidden states."""

    def __init__(
        self,
        features: int,
        heads: int,
        policy: Policy,
        *,
        dropout_rate: float = 0.0,
        use_bias: bool = True,
        key_bias: bool = True,
        init: Initializer,
        out_init: Initializer | None = None,
    ):
        self.heads, self.dropout_rate, self.implementation = heads, dropout_rate, policy.attn_implementation
        self.k_proj = Linear(features, features, policy, use_bias=use_bias and key_bias, init=init)
        self.v_proj = Linear(features, features, policy, use_bias=use_bias, init=init)
        self.q_proj = Linear(features, features, policy, use_bias=use_bias, init=init)
        self.out_proj = Linear(features, features, policy, use_bias=use_bias, init=out_init or init)

    def __call__(
        self,
        hidden_states: jax.Array,
        mask: jax.Array | None,
        *,
        memory: jax.Array | None = None,
        cache: Any = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None, Any]:
        """`[batch, q_len, features]`, the weights `[batch, heads, q_len, kv_len]` if asked for, and the cache."""
        key, value, cache = keys_and_values(self._project, hidden_states, memory, cache)
        mixed, weights = dot_product_attention(
            split_heads(self.q_proj(hidden_states), self.heads),
            key,
            value,
            mask,
            implementation=self.implementation,
            return_weights=output_attentions,
            dropout_rate=self.dropout_rate,
            dropout_rng=dropout_rng,
        )
        return self.out_proj(merge_heads(mixed)), weights, cache

    def _project(self, source: jax.Array) -> tuple[jax.Array, jax.Array]:
        return split_heads(self.k_proj(source), self.heads), split_heads(self.v_proj(source), self.heads)


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

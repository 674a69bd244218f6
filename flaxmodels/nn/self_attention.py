"""Causal self-attention as a mixer of decoder layers: what all kinds share, and those that several architectures have.

A mixer is called as `mixer(hidden_states, cache, context, dropout_rng) -> BlockOutput`, and makes its cache by
`init_cache(batch_size, cache_len, dtype, window)`. Of the `context`, a dict of what the model gives its layers,
self-attention reads "mask", "output_attentions", and where positions are known by them "rope" or "bias".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmodels.nn.attention import cached_attention, merge_heads, split_heads
from flaxmodels.nn.cache import KeyValueCache, empty_cache
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.initializers import Initializer
from flaxmodels.nn.module import Module
from flaxmodels.nn.stack import BlockOutput
from flaxmodels.policy import Policy

Rotation = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""`apply_rope` or `apply_interleaved_rope`."""


class SelfAttention(Module):
    """Self-attention of any projections, which a subclass makes; it defines `project` and `output`.

    Attributes:
        sinks: float `[heads]`, a further logit of each head, whose weight is dropped; `None` for none.
    """

    sinks: nnx.Param | None = None

    def __init__(
        self,
        policy: Policy,
        *,
        heads: int,
        head_dim: int,
        kv_heads: int | None = None,
        rotate: Rotation | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        dropout_rate: float = 0.0,
    ):
        """Set what does not depend on the projections.

        Args:
            heads, kv_heads: number of heads of queries, and of keys and values if these are fewer.
            head_dim: features of a head.
            rotate: how queries and keys are rotated; not at all by default.
            scale, softcap: as in `dot_product_attention`.
            dropout_rate: of the weights.
        """
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads or heads, head_dim
        self.rotate, self.scale, self.softcap = rotate, scale, softcap
        self.dropout_rate, self.implementation = dropout_rate, policy.attn_implementation

    def project(self, hidden_states: jax.Array, context: Mapping[str, Any]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries `[batch, q_len, heads, head_dim]`, keys and values `[batch, q_len, kv_heads, head_dim]`."""
        raise NotImplementedError

    def output(self, attn_output: jax.Array) -> jax.Array:
        """From merged heads `[batch, q_len, heads * head_dim]` to `[batch, q_len, features]`."""
        raise NotImplementedError

    def __call__(
        self, hidden_states: jax.Array, cache: Any, context: Mapping[str, Any], dropout_rng: jax.Array | None
    ) -> BlockOutput:
        """`[batch, q_len, features]`, the cache, and the weights `[batch, heads, q_len, kv_len]` if asked for."""
        query, key, value = self.project(hidden_states, context)
        if self.rotate is not None:
            query, key = (self.rotate(array, *context["rope"]) for array in (query, key))
        attn_output, weights, cache = cached_attention(
            query,
            key,
            value,
            context["mask"],
            cache,
            bias=context.get("bias"),
            sinks=None if self.sinks is None else self.sinks[...],
            implementation=self.implementation,
            return_weights=context["output_attentions"],
            dropout_rate=self.dropout_rate,
            dropout_rng=dropout_rng,
            scale=self.scale,
            softcap=self.softcap,
        )
        return BlockOutput(self.output(attn_output), cache, weights)

    def init_cache(self, batch_size: int, cache_len: int, dtype: Any, window: int | None) -> KeyValueCache:
        """An empty cache of one layer for `cache_len` tokens, or for as many as a `window` needs."""
        return empty_cache(batch_size, cache_len, self.kv_heads, self.head_dim, dtype, window)


class GroupedQueryAttention(SelfAttention):
    """Groups of query heads share a key-value head (arXiv 2305.13245); one that all share is multi-query attention."""

    def __init__(
        self,
        features: int,
        policy: Policy,
        *,
        use_bias: bool = False,
        use_output_bias: bool | None = None,
        init: Initializer,
        **options: Any,
    ):
        """Make the projections.

        Args:
            features: of hidden states.
            use_bias: whether the projections have a bias; that to the output may differ by `use_output_bias`.
            options: of `SelfAttention`.
        """
        super().__init__(policy, **options)
        output_bias = use_bias if use_output_bias is None else use_output_bias
        inner, kv_inner = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.q_proj = Linear(features, inner, policy, use_bias=use_bias, init=init)
        self.k_proj = Linear(features, kv_inner, policy, use_bias=use_bias, init=init)
        self.v_proj = Linear(features, kv_inner, policy, use_bias=use_bias, init=init)
        self.o_proj = Linear(inner, features, policy, use_bias=output_bias, init=init)

    def project(self, hidden_states, context):
        query, key, value = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        return split_heads(query, self.heads), split_heads(key, self.kv_heads), split_heads(value, self.kv_heads)

    def output(self, attn_output):
        return self.o_proj(attn_output)


class HeadNormAttention(GroupedQueryAttention):
    """Grouped-query attention that normalises each head of queries and keys."""

    def __init__(self, features: int, policy: Policy, *, norm: Callable[[int], Module], **options: Any):
        """`norm` makes a norm of so many features."""
        super().__init__(features, policy, **options)
        self.q_norm = norm(self.head_dim)
        self.k_norm = norm(self.head_dim)

    def project(self, hidden_states, context):
        query, key, value = super().project(hidden_states, context)
        return self.q_norm(query), self.k_norm(key), value


class ProjectionNormAttention(GroupedQueryAttention):
    """Grouped-query attention that normalises queries and keys over all of their heads."""

    def __init__(self, features: int, policy: Policy, *, norm: Callable[[int], Module], **options: Any):
        """`norm` makes a norm of so many features."""
        super().__init__(features, policy, **options)
        self.q_norm = norm(self.heads * self.head_dim)
        self.k_norm = norm(self.kv_heads * self.head_dim)

    def project(self, hidden_states, context):
        query, key, value = super().project(hidden_states, context)
        query, key = self.q_norm(merge_heads(query)), self.k_norm(merge_heads(key))
        return split_heads(query, self.heads), split_heads(key, self.kv_heads), value


class MultiHeadSelfAttention(SelfAttention):
    """As many heads for keys and values as for queries, and names of the projections as in fairseq."""

    def __init__(self, features: int, policy: Policy, *, use_bias: bool = True, init: Initializer, **options: Any):
        """Make the projections; `options` are those of `SelfAttention`."""
        super().__init__(policy, **options)
        self.k_proj = Linear(features, features, policy, use_bias=use_bias, init=init)
        self.v_proj = Linear(features, features, policy, use_bias=use_bias, init=init)
        self.q_proj = Linear(features, features, policy, use_bias=use_bias, init=init)
        self.out_proj = Linear(features, features, policy, use_bias=use_bias, init=init)

    def project(self, hidden_states, context):
        query, key, value = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        return split_heads(query, self.heads), split_heads(key, self.heads), split_heads(value, self.heads)

    def output(self, attn_output):
        return self.out_proj(attn_output)


class FusedAttention(SelfAttention):
    """One dense layer for query, key and value of the first head, then those of the second, ..."""

    def __init__(self, features: int, policy: Policy, *, use_bias: bool = True, init: Initializer, **options: Any):
        """Make the projections; `options` are those of `SelfAttention`."""
        super().__init__(policy, **options)
        self.query_key_value = Linear(features, 3 * features, policy, use_bias=use_bias, init=init)
        self.dense = Linear(features, features, policy, use_bias=use_bias, init=init)

    def project(self, hidden_states, context):
        fused = split_heads(self.query_key_value(hidden_states), self.heads)
        query, key, value = jnp.split(fused, 3, axis=-1)
        return query, key, value

    def output(self, attn_output):
        return self.dense(attn_output)

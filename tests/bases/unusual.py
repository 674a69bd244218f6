"""Decoders of kinds that the library does not have yet, each a page of parts as those of `flaxmodels.models` are.

They are not tested for what they compute, but for what the skeleton has to take: caches of their own, several mixers in
a layer, layers of several kinds, and norms, residuals and multipliers at unusual points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.bases.decoder import DecoderModel, Tokens, causal_masks, rotary_tables
from flaxmodels.bases.decoder_config import DecoderConfig
from flaxmodels.bases.decoder_heads import DecoderForCausalLM
from flaxmodels.bases.decoder_layer import (
    PRE_NORM,
    DecoderLayer,
    FeedForward,
    Mixer,
    SparseFeedForward,
    parallel,
    sequential,
)
from flaxmodels.bases.decoder_parts import attention, gated_mlp, rms_norm, token_embedding
from flaxmodels.bases.sparse_decoder import SparseDecoderConfig, SparseDecoderForCausalLM, SparseDecoderModel
from flaxmodels.execution.inputs import PADDING_MASK
from flaxmodels.nn.attention import dot_product_attention, merge_heads, split_heads
from flaxmodels.nn.cache import KeyValueCache, LayerCache
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.initializers import normal
from flaxmodels.nn.masks import token_mask
from flaxmodels.nn.mlp import MLP, GatedMLP
from flaxmodels.nn.module import Module, param
from flaxmodels.nn.moe import Router, SeparateExperts, routed
from flaxmodels.nn.norms import LayerNorm
from flaxmodels.nn.rope import apply_interleaved_rope
from flaxmodels.nn.stack import BlockOutput, MixedStack, Stack
from flaxmodels.policy import Policy

SIZES = {
    "vocab_size": 31,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 3,
    "initializer_range": 0.3,
}


def valid_tokens(config: Any, tokens: Tokens) -> tuple[Any, ...]:
    """Which of the new tokens a recurrence reads, bool `[batch or 1, q_len]`: those that are not padding."""
    valid = jnp.ones((1, tokens.q_len), bool)
    if tokens.attention_mask is not None:
        valid = token_mask(tokens.attention_mask, tokens.q_len, tokens.past_key_values)
    if tokens.cache is not None and tokens.cache.expected is not None:
        valid &= (jnp.arange(tokens.q_len) < tokens.cache.expected)[None]
    return (valid,) * config.num_hidden_layers


# ---- latent attention, dense layers first, shared experts (DeepSeek)


class LatentConfig(SparseDecoderConfig):
    model_type = "test_latent"

    kv_lora_rank: int = 10
    qk_nope_head_dim: int = 5
    qk_rope_head_dim: int = 4
    v_head_dim: int = 7
    first_k_dense_replace: int = 2
    num_experts: int = 5
    moe_intermediate_size: int = 6

    @property
    def features_per_head(self) -> int:
        """Those that rotate."""
        return self.qk_rope_head_dim


class LatentAttention(Module):
    """Keys and values of all heads come of one latent vector a token, which the cache holds (arXiv 2405.04434)."""

    def __init__(self, config: LatentConfig, policy: Policy):
        hidden, self.heads, init = config.hidden_size, config.num_attention_heads, normal(config.initializer_range)
        self.rank, self.nope, self.rope = config.kv_lora_rank, config.qk_nope_head_dim, config.qk_rope_head_dim
        self.q_proj = Linear(hidden, self.heads * (self.nope + self.rope), policy, use_bias=False, init=init)
        self.kv_a_proj = Linear(hidden, self.rank + self.rope, policy, use_bias=False, init=init)
        self.kv_a_layernorm = rms_norm(config, policy, self.rank)
        self.kv_b = param((self.rank, self.heads, self.nope + config.v_head_dim), policy.param_dtype, init)
        self.o_proj = Linear(self.heads * config.v_head_dim, hidden, policy, use_bias=False, init=init)

    def __call__(self, hidden_states, cache, context, dropout_rng) -> BlockOutput:
        query = split_heads(self.q_proj(hidden_states), self.heads)
        query, rotated = query[..., : self.nope], apply_interleaved_rope(query[..., self.nope :], *context["rope"])
        latent, key = jnp.split(self.kv_a_proj(hidden_states), (self.rank,), axis=-1)
        latent, key = self.kv_a_layernorm(latent)[:, :, None], apply_interleaved_rope(key[:, :, None], *context["rope"])
        if cache is not None:
            cache, latent, key = cache.extend(latent, key)
        attn_output, weights = self.attend(query, rotated, latent, key, context)
        return BlockOutput(self.o_proj(merge_heads(attn_output)), cache, weights)

    def attend(self, query, rotated, latent, key, context):
        """With the projections from the latent vectors absorbed by queries and outputs."""
        to_key, to_value = jnp.split(self.kv_b[...], (self.nope,), axis=-1)
        # [batch, q_len, heads, nope] . [rank, heads, nope] -> [batch, q_len, heads, rank]
        absorbed = jnp.einsum("bqhn,rhn->bqhr", query, to_key)
        attn_output, weights = dot_product_attention(
            jnp.concatenate([absorbed, rotated], axis=-1),
            jnp.concatenate([latent, key], axis=-1),
            latent,
            context["mask"],
            scale=(self.nope + self.rope) ** -0.5,
            return_weights=context["output_attentions"],
        )
        # [batch, q_len, heads, rank] . [rank, heads, value_dim] -> [batch, q_len, heads, value_dim]
        return jnp.einsum("bqhr,rhv->bqhv", attn_output, to_value), weights

    def init_cache(self, batch_size, cache_len, dtype, window) -> KeyValueCache:
        shapes = ((batch_size, cache_len, 1, features) for features in (self.rank, self.rope))
        return KeyValueCache(*(jnp.zeros(shape, dtype) for shape in shapes), length=jnp.zeros((), jnp.int32))


class DecompressedAttention(LatentAttention):
    """The same, with keys and values of all heads computed."""

    def attend(self, query, rotated, latent, key, context):
        # [batch, kv_len, rank] . [rank, heads, nope + value_dim] -> [batch, kv_len, heads, nope + value_dim]
        both = jnp.einsum("bsr,rhd->bshd", latent[:, :, 0], self.kv_b[...])
        keys, values = jnp.split(both, (self.nope,), axis=-1)
        keys = jnp.concatenate([keys, jnp.broadcast_to(key, (*keys.shape[:3], self.rope))], axis=-1)
        query, options = jnp.concatenate([query, rotated], axis=-1), {"return_weights": context["output_attentions"]}
        return dot_product_attention(query, keys, values, context["mask"], **options)


class SharedExpertsMLP(Module):
    """A router and its experts, and an MLP that all tokens go to."""

    def __init__(self, config: LatentConfig, policy: Policy):
        hidden, inner, init = config.hidden_size, config.moe_intermediate_size, normal(config.initializer_range)
        self.gate = Router(hidden, config.num_experts, policy, top_k=2, normalise=True, init=init)
        self.experts = SeparateExperts(config.num_experts, hidden, inner, policy, init=init)
        self.shared_experts = GatedMLP(hidden, inner, policy, activation="silu", init=init)

    def __call__(self, hidden_states, dropout_rng):
        mlp_output, router_logits = routed(self.gate, self.experts, hidden_states)
        return mlp_output + self.shared_experts(hidden_states), router_logits


class LatentDenseLayer(DecoderLayer):
    sublayers = PRE_NORM
    attention_class = LatentAttention

    def __init__(self, config: LatentConfig, policy: Policy):
        self.self_attn = self.attention_class(config, policy)
        self.mlp = gated_mlp(config, policy)
        self.input_layernorm = rms_norm(config, policy)
        self.post_attention_layernorm = rms_norm(config, policy)


class LatentSparseLayer(DecoderLayer):
    sublayers = (
        Mixer("self_attn", pre_norm="input_layernorm"),
        SparseFeedForward("mlp", pre_norm="post_attention_layernorm"),
    )

    def __init__(self, config: LatentConfig, policy: Policy):
        self.self_attn = LatentAttention(config, policy)
        self.mlp = SharedExpertsMLP(config, policy)
        self.input_layernorm = rms_norm(config, policy)
        self.post_attention_layernorm = rms_norm(config, policy)


class LatentModel(SparseDecoderModel):
    config_class = LatentConfig

    def setup(self, config: LatentConfig, policy: Policy):
        self.embed_tokens = token_embedding(config, policy)
        self.layers = Stack(
            lambda: LatentSparseLayer(config, policy),
            config.num_hidden_layers,
            policy,
            first=lambda: LatentDenseLayer(config, policy),
            num_first=config.first_k_dense_replace,
        )
        self.norm = rms_norm(config, policy)


class LatentForCausalLM(SparseDecoderForCausalLM):
    base_class = LatentModel


# ---- recurrences (Mamba, linear attention)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StateCache(LayerCache):
    """What a recurrence knows of the tokens that it has read, `[batch, ...]`, and the last inputs of a convolution,
    `[batch, width - 1, features]`. It forgets nothing on request.
    """

    state: jax.Array
    inputs: jax.Array


class StateSpace(Module):
    """A selective state-space model after a short convolution (arXiv 2312.00752)."""

    width, states = 3, 4

    def __init__(self, config: DecoderConfig, policy: Policy):
        hidden, self.inner, init = config.hidden_size, 2 * config.hidden_size, normal(config.initializer_range)
        self.in_proj = Linear(hidden, 2 * self.inner, policy, use_bias=False, init=init)
        self.conv = param((self.width, self.inner), policy.param_dtype, init)
        self.x_proj = Linear(self.inner, 1 + 2 * self.states, policy, init=init)
        self.log_rates = param((self.inner, self.states), policy.param_dtype, init)
        self.out_proj = Linear(self.inner, hidden, policy, use_bias=False, init=init)

    def __call__(self, hidden_states, cache, context, dropout_rng) -> BlockOutput:
        batch, q_len, _ = hidden_states.shape
        start = self.init_cache(batch, q_len, hidden_states.dtype, None) if cache is None else cache
        valid = jnp.broadcast_to(context["valid"], (batch, q_len))
        x, gate = jnp.split(self.in_proj(hidden_states), 2, axis=-1)
        inputs = jnp.concatenate([start.inputs.astype(x.dtype), x * valid[..., None]], axis=1)
        x = jax.nn.silu(sum(inputs[:, n : n + q_len] * self.conv[...][None, n : n + 1] for n in range(self.width)))
        steps, writes, reads = jnp.split(self.x_proj(x), (1, 1 + self.states), axis=-1)
        rates = -jnp.exp(self.log_rates[...])[None]

        def step(state, token):
            x, size, write, read, valid = token
            size = jax.nn.softplus(size)[..., None]  # [batch, 1, 1]
            new = state * jnp.exp(size * rates) + size * x[..., None] * write[:, None]
            state = jnp.where(valid[:, None, None], new, state)
            # [batch, inner, states] . [batch, states] -> [batch, inner]
            return state, jnp.einsum("bis,bs->bi", state, read)

        tokens = jax.tree.map(lambda array: array.swapaxes(0, 1), (x, steps, writes, reads, valid))
        state, outputs = jax.lax.scan(step, start.state, tokens)
        if cache is not None:
            count = q_len if cache.expected is None else cache.expected
            kept = jax.lax.dynamic_slice_in_dim(inputs, count, self.width - 1, axis=1)
            cache = cache.advanced(q_len, state=state, inputs=kept.astype(cache.inputs.dtype))
        return BlockOutput(self.out_proj(outputs.swapaxes(0, 1) * jax.nn.silu(gate)), cache)

    def init_cache(self, batch_size, cache_len, dtype, window) -> StateCache:
        state = jnp.zeros((batch_size, self.inner, self.states))
        inputs = jnp.zeros((batch_size, self.width - 1, self.inner), dtype)
        return StateCache(state, inputs, length=jnp.zeros((), jnp.int32))


class StateSpaceConfig(DecoderConfig):
    model_type = "test_state_space"


class StateSpaceLayer(DecoderLayer):
    """A mixer and nothing else."""

    sublayers = (Mixer("mixer", pre_norm="norm"),)

    def __init__(self, config: StateSpaceConfig, policy: Policy):
        self.norm = rms_norm(config, policy)
        self.mixer = StateSpace(config, policy)


class StateSpaceModel(DecoderModel):
    config_class = StateSpaceConfig
    base_model_prefix = "backbone"
    final_norm_path = "norm_f"
    layer_context = {"valid": valid_tokens}
    expected_inputs = {"attention_mask": PADDING_MASK}

    def setup(self, config: StateSpaceConfig, policy: Policy):
        self.embed_tokens = token_embedding(config, policy)
        self.layers = Stack(lambda: StateSpaceLayer(config, policy), config.num_hidden_layers, policy)
        self.norm_f = rms_norm(config, policy)


class StateSpaceForCausalLM(DecoderForCausalLM):
    base_class = StateSpaceModel


class LinearAttention(Module):
    """Attention without softmax, as a recurrence of a matrix for each head (arXiv 2006.16236)."""

    def __init__(self, config: DecoderConfig, policy: Policy):
        hidden, self.heads, init = config.hidden_size, config.num_attention_heads, normal(config.initializer_range)
        self.head_dim = hidden // self.heads
        self.qkv_proj = Linear(hidden, 3 * hidden, policy, use_bias=False, init=init)
        self.o_proj = Linear(hidden, hidden, policy, use_bias=False, init=init)

    def __call__(self, hidden_states, cache, context, dropout_rng) -> BlockOutput:
        batch, q_len, _ = hidden_states.shape
        start = self.init_cache(batch, q_len, hidden_states.dtype, None) if cache is None else cache
        fused = jnp.split(self.qkv_proj(hidden_states), 3, axis=-1)
        query, key, value = (split_heads(array, self.heads) for array in fused)
        key = jnp.where(context["valid"][..., None, None], jax.nn.elu(key) + 1, 0)
        value = jnp.concatenate([value, jnp.ones((*value.shape[:3], 1))], axis=-1)  # the last sums the weights

        def step(state, token):
            query, key, value = token
            # [batch, heads, head_dim], [batch, heads, value_dim] -> [batch, heads, head_dim, value_dim]
            state = state + jnp.einsum("bhd,bhv->bhdv", key, value)
            return state, jnp.einsum("bhd,bhdv->bhv", jax.nn.elu(query) + 1, state)

        tokens = jax.tree.map(lambda array: array.swapaxes(0, 1), (query, key, value))
        state, outputs = jax.lax.scan(step, start.state, tokens)
        attn_output = (outputs[..., :-1] / (outputs[..., -1:] + 1e-6)).swapaxes(0, 1)
        cache = None if cache is None else cache.advanced(q_len, state=state)
        return BlockOutput(self.o_proj(merge_heads(attn_output)), cache)

    def init_cache(self, batch_size, cache_len, dtype, window) -> StateCache:
        state = jnp.zeros((batch_size, self.heads, self.head_dim, self.head_dim + 1))
        return StateCache(state, jnp.zeros((batch_size, 0)), length=jnp.zeros((), jnp.int32))


# ---- layers of several kinds (Jamba), several mixers in a layer (Falcon-H1)


class HybridConfig(DecoderConfig):
    model_type = "test_hybrid"


class LinearAttentionLayer(DecoderLayer):
    """A norm around each branch."""

    sublayers = (
        Mixer("self_attn", pre_norm="input_layernorm", post_norm="post_attention_layernorm"),
        FeedForward("mlp", post_norm="post_feedforward_layernorm"),
    )

    def __init__(self, config: HybridConfig, policy: Policy):
        self.self_attn = LinearAttention(config, policy)
        self.mlp = gated_mlp(config, policy)
        self.input_layernorm = rms_norm(config, policy)
        self.post_attention_layernorm = rms_norm(config, policy)
        self.post_feedforward_layernorm = rms_norm(config, policy)


def mixers_in_parallel(hidden_states, branches):
    """The mixers read the input of the layer, the MLP their sum."""
    hidden_states, mixer_output = parallel(hidden_states, branches[:2])
    hidden_states, others = sequential(hidden_states, branches[2:])
    return hidden_states, mixer_output + others


class TwoMixersLayer(DecoderLayer):
    arrangement = staticmethod(mixers_in_parallel)
    sublayers = (
        Mixer("mamba", pre_norm="input_layernorm", multiplier=0.7),
        Mixer("self_attn", pre_norm="input_layernorm"),
        FeedForward("mlp", pre_norm="pre_ff_layernorm"),
    )

    def __init__(self, config: HybridConfig, policy: Policy):
        self.mamba = StateSpace(config, policy)
        self.self_attn = attention(config, policy)
        self.mlp = gated_mlp(config, policy)
        self.input_layernorm = rms_norm(config, policy)
        self.pre_ff_layernorm = rms_norm(config, policy)


class HybridModel(DecoderModel):
    """One layer of each kind."""

    config_class = HybridConfig
    layer_context = {"mask": causal_masks, "rope": rotary_tables, "valid": valid_tokens}
    expected_inputs = {"attention_mask": PADDING_MASK}

    def setup(self, config: HybridConfig, policy: Policy):
        self.embed_tokens = token_embedding(config, policy)
        kinds = (LinearAttentionLayer, TwoMixersLayer, StateSpaceLayer)
        self.layers = MixedStack(lambda number: kinds[number](config, policy), len(kinds), policy)
        self.norm = rms_norm(config, policy)


class HybridForCausalLM(DecoderForCausalLM):
    base_class = HybridModel


class TwoMixersModel(HybridModel):
    """Equal layers, each with two caches."""

    def setup(self, config: HybridConfig, policy: Policy):
        self.embed_tokens = token_embedding(config, policy)
        self.layers = Stack(lambda: TwoMixersLayer(config, policy), config.num_hidden_layers, policy)
        self.norm = rms_norm(config, policy)


class TwoMixersForCausalLM(DecoderForCausalLM):
    base_class = TwoMixersModel


# ---- one norm without parameters, one key-value head, partial and interleaved rotations, multipliers (Cohere, Falcon)


class ParallelConfig(DecoderConfig):
    model_type = "test_parallel"

    partial_rotary_factor: float | None = 0.7
    embedding_multiplier: float = 3.0
    logit_scale: float = 0.25


class ParallelLayer(DecoderLayer):
    arrangement = staticmethod(parallel)
    sublayers = (
        Mixer("self_attn", pre_norm="input_layernorm", multiplier=0.5, dropout_rate=0.3),
        FeedForward("mlp", pre_norm="input_layernorm", multiplier=0.5, dropout_rate=0.3),
    )

    def __init__(self, config: ParallelConfig, policy: Policy):
        init = normal(config.initializer_range)
        self.self_attn = attention(config, policy, kv_heads=1, rotate=apply_interleaved_rope, scale=0.2, softcap=5.0)
        self.mlp = MLP(config.hidden_size, config.intermediate_size, policy, activation="gelu", init=init)
        self.input_layernorm = LayerNorm(config.hidden_size, policy, epsilon=1e-5, affine=False)


class ParallelModel(DecoderModel):
    config_class = ParallelConfig

    def setup(self, config: ParallelConfig, policy: Policy):
        self.embed_tokens = token_embedding(config, policy)
        self.layers = Stack(lambda: ParallelLayer(config, policy), config.num_hidden_layers, policy)
        self.norm = LayerNorm(config.hidden_size, policy, epsilon=1e-5, use_bias=False)

    def embed_inputs(self, token_embeds, tokens, dropout_rng):
        return token_embeds * self.config.embedding_multiplier


class ParallelForCausalLM(DecoderForCausalLM):
    base_class = ParallelModel

    def logits(self, hidden_states):
        return super().logits(hidden_states) * self.config.logit_scale


MODELS = {
    "latent": LatentForCausalLM,
    "state-space": StateSpaceForCausalLM,
    "hybrid": HybridForCausalLM,
    "two-mixers": TwoMixersForCausalLM,
    "parallel": ParallelForCausalLM,
}


def make(name: str, **options: Any) -> Any:
    """The model of that name, of `SIZES`."""
    model_class = MODELS[name]
    return model_class(model_class.config_class(**SIZES), seed=1, **options)

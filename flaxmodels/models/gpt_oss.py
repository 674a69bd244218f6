"""gpt-oss (arXiv 2508.10925): decoder with attention sinks, windows in every other layer, and clamped, biased experts.

The published files hold the experts in MXFP4, which `flaxmodels.files.mxfp4` reads as bfloat16.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.bases.decoder_heads import DecoderForSequenceClassification, DecoderForTokenClassification
from flaxmodels.bases.decoder_layer import DecoderLayer
from flaxmodels.bases.decoder_parts import attention, rms_norm
from flaxmodels.bases.rotary_config import types_by_layer, windows_by_layer
from flaxmodels.bases.sparse_decoder import (
    SPARSE_PRE_NORM,
    SparseDecoderConfig,
    SparseDecoderForCausalLM,
    SparseDecoderModel,
)
from flaxmodels.fields import (
    Epsilon,
    ExpertCount,
    Layers,
    LayerType,
    Length,
    Positive,
    Scale,
    Size,
    SpecialId,
    SpecialIds,
    VocabSize,
)
from flaxmodels.nn.initializers import Initializer, normal
from flaxmodels.nn.module import Module, param
from flaxmodels.nn.moe import Experts, Router, routed
from flaxmodels.nn.self_attention import GroupedQueryAttention
from flaxmodels.policy import Policy

_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


class GptOssConfig(SparseDecoderConfig):
    """Configuration of gpt-oss; the defaults are those of gpt-oss-120b."""

    model_type = "gpt_oss"
    attribute_map = {"num_experts": "num_local_experts"}
    default_theta = 150000.0

    vocab_size: VocabSize = 201088
    hidden_size: Size = 2880
    intermediate_size: Size = 2880
    num_hidden_layers: Layers = 36
    num_attention_heads: Size = 64
    num_key_value_heads: Size | None = 8
    head_dim: Size | None = 64
    max_position_embeddings: Length = 131072
    rms_norm_eps: Epsilon = 1e-5
    num_experts_per_tok: ExpertCount = 4
    num_local_experts: ExpertCount = 128
    sliding_window: Length | None = 128
    layer_types: list[LayerType] | None = None
    attention_bias: bool = True
    swiglu_alpha: Scale = 1.702
    swiglu_limit: Positive = 7.0
    bos_token_id: SpecialId | None = None
    eos_token_id: SpecialIds | None = None

    @property
    def rope_fields(self) -> dict[str, Any]:
        values = super().rope_fields
        stated = values["rope_parameters"] or values["rope_scaling"]
        return values if stated else values | {"rope_parameters": _ROPE}

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        alternating = types_by_layer(self.num_hidden_layers, lambda number: number % 2 == 0)
        return windows_by_layer(self.layer_types or alternating, self.sliding_window)


class GptOssAttention(GroupedQueryAttention):
    """Attention in which each head has a further logit, whose weight goes nowhere."""

    def __init__(self, features: int, policy: Policy, *, init: Initializer, **options: Any):
        super().__init__(features, policy, init=init, **options)
        self.sinks = param((self.heads,), policy.param_dtype, init)


class GptOssExperts(Experts):
    """Experts whose gates and ups alternate: `down((up + 1) * gate * sigmoid(alpha * gate))`, both clamped."""

    def __init__(self, config: GptOssConfig, policy: Policy):
        sizes = (config.num_experts, config.hidden_size, config.intermediate_size)
        super().__init__(*sizes, policy, use_bias=True, init=normal(config.initializer_range))
        self.alpha, self.limit = config.swiglu_alpha, config.swiglu_limit

    def gated(self, gate_up: jax.Array) -> jax.Array:
        gate = jnp.minimum(gate_up[..., ::2], self.limit)
        up = jnp.clip(gate_up[..., 1::2], -self.limit, self.limit)
        return (up + 1) * (gate * jax.nn.sigmoid(gate * self.alpha))


class GptOssMLP(Module):
    """A router and its experts."""

    def __init__(self, config: GptOssConfig, policy: Policy):
        choice = {"top_k": config.num_experts_per_tok, "normalise": True, "use_bias": True}
        init = normal(config.initializer_range)
        self.router = Router(config.hidden_size, config.num_experts, policy, init=init, **choice)
        self.experts = GptOssExperts(config, policy)

    def __call__(self, hidden_states: jax.Array, dropout_rng: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        return routed(self.router, self.experts, hidden_states)


class GptOssDecoderLayer(DecoderLayer):
    """Attention and experts, each with a norm before it."""

    sublayers = SPARSE_PRE_NORM

    def __init__(self, config: GptOssConfig, policy: Policy):
        self.self_attn = attention(config, policy, GptOssAttention, use_bias=config.attention_bias)
        self.mlp = GptOssMLP(config, policy)
        self.input_layernorm = rms_norm(config, policy)
        self.post_attention_layernorm = rms_norm(config, policy)


class GptOssModel(SparseDecoderModel):
    """The decoder without a head."""

    config_class = GptOssConfig
    layer_class = GptOssDecoderLayer


class GptOssForCausalLM(SparseDecoderForCausalLM):
    base_class = GptOssModel


class GptOssForSequenceClassification(DecoderForSequenceClassification):
    base_class = GptOssModel


class GptOssForTokenClassification(DecoderForTokenClassification):
    base_class = GptOssModel

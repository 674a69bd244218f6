"""Phi-3 (arXiv 2404.14219): decoder with fused projections, partial and long rotary positions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.bases.decoder import DecoderModel
from flaxmodels.bases.decoder_config import DecoderConfig
from flaxmodels.bases.decoder_heads import (
    DecoderForCausalLM,
    DecoderForSequenceClassification,
    DecoderForTokenClassification,
)
from flaxmodels.bases.decoder_layer import DecoderLayer, FeedForward, Mixer
from flaxmodels.bases.decoder_parts import attention, rms_norm
from flaxmodels.fields import Epsilon, Length, Rate, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.attention import split_heads
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.initializers import Initializer, normal
from flaxmodels.nn.module import Module
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.self_attention import SelfAttention
from flaxmodels.policy import Policy


class Phi3Config(DecoderConfig):
    """Configuration of Phi-3; the defaults are those of Phi-3 mini."""

    model_type = "phi3"

    vocab_size: VocabSize = 32064
    hidden_size: Size = 3072
    intermediate_size: Size = 8192
    max_position_embeddings: Length = 4096
    original_max_position_embeddings: Length = 4096  # pyright: ignore[reportIncompatibleVariableOverride]  # checked when set
    rms_norm_eps: Epsilon = 1e-5
    resid_pdrop: Rate = 0.0
    embd_pdrop: Rate = 0.0
    eos_token_id: SpecialIds | None = 32000
    pad_token_id: SpecialId | None = 32000
    sliding_window: Length | None = None

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        return (self.sliding_window,) * self.num_hidden_layers

    @property
    def rope_fields(self) -> dict[str, Any]:
        """As for all; early files call "longrope" "su"."""
        values = super().rope_fields
        scaling = values.get("rope_scaling")
        if scaling and scaling.get("type", scaling.get("rope_type")) in ("su", "yarn"):
            values["rope_scaling"] = {k: v for k, v in scaling.items() if k != "type"} | {"rope_type": "longrope"}
        return values


class Phi3Attention(SelfAttention):
    """Attention with one dense layer for all queries, then all keys, then all values."""

    def __init__(self, features: int, policy: Policy, *, init: Initializer, **options: Any):
        super().__init__(policy, **options)
        inner, kv_inner = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.o_proj = Linear(inner, features, policy, use_bias=False, init=init)
        self.qkv_proj = Linear(features, inner + 2 * kv_inner, policy, use_bias=False, init=init)

    def project(self, hidden_states, context):
        inner, kv_inner = self.heads * self.head_dim, self.kv_heads * self.head_dim
        query, key, value = jnp.split(self.qkv_proj(hidden_states), (inner, inner + kv_inner), axis=-1)
        return split_heads(query, self.heads), split_heads(key, self.kv_heads), split_heads(value, self.kv_heads)

    def output(self, attn_output):
        return self.o_proj(attn_output)


class Phi3MLP(Module):
    """A gated MLP whose first two matrices are one."""

    def __init__(self, config: Phi3Config, policy: Policy):
        hidden, inner, init = config.hidden_size, config.intermediate_size, normal(config.initializer_range)
        self.activation = get_activation(config.hidden_act)
        self.gate_up_proj = Linear(hidden, 2 * inner, policy, use_bias=False, init=init)
        self.down_proj = Linear(inner, hidden, policy, use_bias=False, init=init)

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        gate, up = jnp.split(self.gate_up_proj(hidden_states), 2, axis=-1)
        return self.down_proj(up * self.activation(gate))


class Phi3DecoderLayer(DecoderLayer):
    """Attention and MLP, each with a norm before it and dropout after it."""

    def __init__(self, config: Phi3Config, policy: Policy):
        self.sublayers = (
            Mixer("self_attn", pre_norm="input_layernorm", dropout_rate=config.resid_pdrop),
            FeedForward("mlp", pre_norm="post_attention_layernorm", dropout_rate=config.resid_pdrop),
        )
        self.self_attn = attention(config, policy, Phi3Attention)
        self.mlp = Phi3MLP(config, policy)
        self.input_layernorm = rms_norm(config, policy)
        self.post_attention_layernorm = rms_norm(config, policy)


class Phi3Model(DecoderModel):
    """The decoder without a head."""

    config_class = Phi3Config
    layer_class = Phi3DecoderLayer
    tp_plan = {"(qkv_proj|gate_up_proj|lm_head)": COLUMN, "(o_proj|down_proj|embed_tokens)": ROW}


class Phi3ForCausalLM(DecoderForCausalLM):
    base_class = Phi3Model


class Phi3ForSequenceClassification(DecoderForSequenceClassification):
    base_class = Phi3Model


class Phi3ForTokenClassification(DecoderForTokenClassification):
    base_class = Phi3Model

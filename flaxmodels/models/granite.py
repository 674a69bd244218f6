"""Granite (arXiv 2408.13359): decoder with rotary positions, grouped heads and gated MLP, and with multipliers of
embeddings, scores, residuals and logits.
"""

from __future__ import annotations

import jax

from flaxmodels.bases.decoder import DecoderModel, Tokens
from flaxmodels.bases.decoder_config import DecoderConfig
from flaxmodels.bases.decoder_heads import DecoderForCausalLM
from flaxmodels.bases.decoder_layer import DecoderLayer, FeedForward, Mixer
from flaxmodels.bases.decoder_parts import attention, gated_mlp, rms_norm
from flaxmodels.fields import Positive
from flaxmodels.policy import Policy


class GraniteConfig(DecoderConfig):
    """Configuration of Granite; the defaults are those of transformers."""

    model_type = "granite"

    attention_bias: bool = False
    mlp_bias: bool = False
    embedding_multiplier: Positive = 1.0
    attention_multiplier: Positive = 1.0
    residual_multiplier: Positive = 1.0
    logits_scaling: Positive = 1.0


class GraniteDecoderLayer(DecoderLayer):
    """Attention and MLP, each with a norm before it and a multiplier after it."""

    def __init__(self, config: GraniteConfig, policy: Policy):
        self.sublayers = (
            Mixer("self_attn", pre_norm="input_layernorm", multiplier=config.residual_multiplier),
            FeedForward("mlp", pre_norm="post_attention_layernorm", multiplier=config.residual_multiplier),
        )
        scale = config.attention_multiplier
        self.self_attn = attention(config, policy, use_bias=config.attention_bias, scale=scale)
        self.mlp = gated_mlp(config, policy, use_bias=config.mlp_bias)
        self.input_layernorm = rms_norm(config, policy)
        self.post_attention_layernorm = rms_norm(config, policy)


class GraniteModel(DecoderModel):
    """The decoder without a head."""

    config_class = GraniteConfig
    layer_class = GraniteDecoderLayer

    def embed_inputs(self, token_embeds: jax.Array, tokens: Tokens, dropout_rng: jax.Array | None) -> jax.Array:
        return token_embeds * self.config.embedding_multiplier


class GraniteForCausalLM(DecoderForCausalLM):
    base_class = GraniteModel

    def logits(self, hidden_states):
        return super().logits(hidden_states) / self.config.logits_scaling

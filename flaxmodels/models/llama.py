"""Llama (arXiv 2302.13971, 2307.09288, 2407.21783): decoder with rotary positions, grouped heads and gated MLP."""

from __future__ import annotations

from flaxmodels.bases.decoder import DecoderModel
from flaxmodels.bases.decoder_config import DecoderConfig
from flaxmodels.bases.decoder_heads import (
    DecoderForCausalLM,
    DecoderForSequenceClassification,
    DecoderForTokenClassification,
)
from flaxmodels.bases.decoder_layer import PRE_NORM, DecoderLayer
from flaxmodels.bases.decoder_parts import attention, gated_mlp, rms_norm
from flaxmodels.bases.heads import ForQuestionAnswering
from flaxmodels.fields import ABSENT, Size
from flaxmodels.policy import Policy


class LlamaConfig(DecoderConfig):
    """Configuration of Llama; the defaults are those of Llama 7B."""

    model_type = "llama"

    attention_bias: bool = False
    mlp_bias: bool = False
    pretraining_tp: Size | None = ABSENT


class LlamaDecoderLayer(DecoderLayer):
    """Attention and MLP, each with a norm before it."""

    sublayers = PRE_NORM

    def __init__(self, config: LlamaConfig, policy: Policy):
        self.self_attn = attention(config, policy, use_bias=config.attention_bias)
        self.mlp = gated_mlp(config, policy, use_bias=config.mlp_bias)
        self.input_layernorm = rms_norm(config, policy)
        self.post_attention_layernorm = rms_norm(config, policy)


class LlamaModel(DecoderModel):
    """The decoder without a head."""

    config_class = LlamaConfig
    layer_class = LlamaDecoderLayer


class LlamaForCausalLM(DecoderForCausalLM):
    base_class = LlamaModel


class LlamaForSequenceClassification(DecoderForSequenceClassification):
    base_class = LlamaModel


class LlamaForTokenClassification(DecoderForTokenClassification):
    base_class = LlamaModel


class LlamaForQuestionAnswering(ForQuestionAnswering):
    base_class = LlamaModel
    base_model_prefix = "transformer"

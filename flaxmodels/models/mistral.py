"""Mistral (arXiv 2310.06825): decoder with rotary positions, grouped heads and gated MLP, whose tokens look back over a
window.
"""

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
from flaxmodels.fields import Length, Size
from flaxmodels.policy import Policy


class MistralConfig(DecoderConfig):
    """Configuration of Mistral; the defaults are those of Mistral 7B v0.1."""

    model_type = "mistral"

    intermediate_size: Size = 14336
    num_key_value_heads: Size | None = 8
    max_position_embeddings: Length = 131072
    sliding_window: Length | None = 4096

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        return (self.sliding_window,) * self.num_hidden_layers


class MistralDecoderLayer(DecoderLayer):
    """Attention and MLP, each with a norm before it."""

    sublayers = PRE_NORM

    def __init__(self, config: MistralConfig, policy: Policy):
        self.self_attn = attention(config, policy)
        self.mlp = gated_mlp(config, policy)
        self.input_layernorm = rms_norm(config, policy)
        self.post_attention_layernorm = rms_norm(config, policy)


class MistralModel(DecoderModel):
    """The decoder without a head."""

    config_class = MistralConfig
    layer_class = MistralDecoderLayer


class MistralForCausalLM(DecoderForCausalLM):
    base_class = MistralModel


class MistralForSequenceClassification(DecoderForSequenceClassification):
    base_class = MistralModel


class MistralForTokenClassification(DecoderForTokenClassification):
    base_class = MistralModel


class MistralForQuestionAnswering(ForQuestionAnswering):
    base_class = MistralModel

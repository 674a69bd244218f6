"""Qwen2 (arXiv 2407.10671): decoder with rotary positions, biased projections, and windows in its upper layers if so
configured.
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
from flaxmodels.bases.rotary_config import types_by_layer, windows_by_layer
from flaxmodels.fields import Count, LayerType, Length, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.policy import Policy


class Qwen2Config(DecoderConfig):
    """Configuration of Qwen2; the defaults are those of transformers."""

    model_type = "qwen2"

    vocab_size: VocabSize = 151936
    intermediate_size: Size = 22016
    num_key_value_heads: Size | None = 32
    max_position_embeddings: Length = 32768
    bos_token_id: SpecialId | None = None
    eos_token_id: SpecialIds | None = None
    use_sliding_window: bool = False
    sliding_window: Length | None = 4096
    max_window_layers: Count = 28
    layer_types: list[LayerType] | None = None

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        upper = types_by_layer(self.num_hidden_layers, lambda number: number >= self.max_window_layers)
        return windows_by_layer(self.layer_types or upper, self.sliding_window if self.use_sliding_window else None)


class Qwen2DecoderLayer(DecoderLayer):
    """Attention and MLP, each with a norm before it."""

    sublayers = PRE_NORM

    def __init__(self, config: Qwen2Config, policy: Policy):
        self.self_attn = attention(config, policy, use_bias=True, use_output_bias=False)
        self.mlp = gated_mlp(config, policy)
        self.input_layernorm = rms_norm(config, policy)
        self.post_attention_layernorm = rms_norm(config, policy)


class Qwen2Model(DecoderModel):
    """The decoder without a head."""

    config_class = Qwen2Config
    layer_class = Qwen2DecoderLayer


class Qwen2ForCausalLM(DecoderForCausalLM):
    base_class = Qwen2Model


class Qwen2ForSequenceClassification(DecoderForSequenceClassification):
    base_class = Qwen2Model


class Qwen2ForTokenClassification(DecoderForTokenClassification):
    base_class = Qwen2Model


class Qwen2ForQuestionAnswering(ForQuestionAnswering):
    base_class = Qwen2Model
    base_model_prefix = "transformer"

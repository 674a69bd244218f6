"""Qwen3 (arXiv 2505.09388): decoder with rotary positions, and norms of each head of queries and keys."""

from __future__ import annotations

from functools import partial

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
from flaxmodels.nn.self_attention import HeadNormAttention
from flaxmodels.policy import Policy


class Qwen3Config(DecoderConfig):
    """Configuration of Qwen3; the defaults are those of transformers."""

    model_type = "qwen3"

    vocab_size: VocabSize = 151936
    intermediate_size: Size = 22016
    num_key_value_heads: Size | None = 32
    head_dim: Size | None = 128
    max_position_embeddings: Length = 32768
    bos_token_id: SpecialId | None = None
    eos_token_id: SpecialIds | None = None
    attention_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: Length | None = 4096
    max_window_layers: Count = 28
    layer_types: list[LayerType] | None = None

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        upper = types_by_layer(self.num_hidden_layers, lambda number: number >= self.max_window_layers)
        return windows_by_layer(self.layer_types or upper, self.sliding_window if self.use_sliding_window else None)


class Qwen3DecoderLayer(DecoderLayer):
    """Attention and MLP, each with a norm before it."""

    sublayers = PRE_NORM

    def __init__(self, config: Qwen3Config, policy: Policy):
        norm = partial(rms_norm, config, policy)
        self.self_attn = attention(config, policy, HeadNormAttention, use_bias=config.attention_bias, norm=norm)
        self.mlp = gated_mlp(config, policy)
        self.input_layernorm = norm()
        self.post_attention_layernorm = norm()


class Qwen3Model(DecoderModel):
    """The decoder without a head."""

    config_class = Qwen3Config
    layer_class = Qwen3DecoderLayer


class Qwen3ForCausalLM(DecoderForCausalLM):
    base_class = Qwen3Model


class Qwen3ForSequenceClassification(DecoderForSequenceClassification):
    base_class = Qwen3Model


class Qwen3ForTokenClassification(DecoderForTokenClassification):
    base_class = Qwen3Model


class Qwen3ForQuestionAnswering(ForQuestionAnswering):
    base_class = Qwen3Model
    base_model_prefix = "transformer"

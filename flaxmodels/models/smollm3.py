"""SmolLM3: decoder in which every fourth layer has no rotary positions (arXiv 2501.18795)."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Interval

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
from flaxmodels.fields import Layers, LayerType, Length, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.nn.rope import RopeConfig
from flaxmodels.policy import Policy


class SmolLM3Config(DecoderConfig):
    """Configuration of SmolLM3; the defaults are those of SmolLM3 3B."""

    model_type = "smollm3"
    default_theta = 2e6
    lengths = (*DecoderConfig.lengths, ("no_rope_layers", "num_hidden_layers"))

    vocab_size: VocabSize = 128256
    hidden_size: Size = 2048
    num_hidden_layers: Layers = 36
    num_attention_heads: Size = 16
    num_key_value_heads: Size | None = 4
    max_position_embeddings: Length = 32768
    pad_token_id: SpecialId | None = 128004
    bos_token_id: SpecialId | None = 128000
    eos_token_id: SpecialIds | None = 128001
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: Length | None = None
    no_rope_layers: list[Annotated[int, Interval(ge=0, le=1)]] | None = None
    no_rope_layer_interval: Size = 4
    layer_types: list[LayerType] | None = None

    @property
    def rotates(self) -> list[bool]:
        """Whether each layer has rotary positions, for which `no_rope_layers` has a 1."""
        if self.no_rope_layers is not None:
            return [bool(flag) for flag in self.no_rope_layers]
        return [(number + 1) % self.no_rope_layer_interval != 0 for number in range(self.num_hidden_layers)]

    @property
    def ropes(self) -> tuple[RopeConfig | None, ...]:
        rope = self.rope
        return tuple(rope if rotates else None for rotates in self.rotates)

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        unrotated = types_by_layer(self.num_hidden_layers, lambda number: not self.rotates[number])
        return windows_by_layer(self.layer_types or unrotated, self.sliding_window if self.use_sliding_window else None)


class SmolLM3DecoderLayer(DecoderLayer):
    """Attention and MLP, each with a norm before it."""

    sublayers = PRE_NORM

    def __init__(self, config: SmolLM3Config, policy: Policy):
        self.self_attn = attention(config, policy, use_bias=config.attention_bias)
        self.mlp = gated_mlp(config, policy, use_bias=config.mlp_bias)
        self.input_layernorm = rms_norm(config, policy)
        self.post_attention_layernorm = rms_norm(config, policy)


class SmolLM3Model(DecoderModel):
    """The decoder without a head."""

    config_class = SmolLM3Config
    layer_class = SmolLM3DecoderLayer


class SmolLM3ForCausalLM(DecoderForCausalLM):
    base_class = SmolLM3Model


class SmolLM3ForSequenceClassification(DecoderForSequenceClassification):
    base_class = SmolLM3Model


class SmolLM3ForTokenClassification(DecoderForTokenClassification):
    base_class = SmolLM3Model


class SmolLM3ForQuestionAnswering(ForQuestionAnswering):
    base_class = SmolLM3Model
    base_model_prefix = "transformer"

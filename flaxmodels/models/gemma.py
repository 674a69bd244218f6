"""Gemma (arXiv 2403.08295): decoder with rotary positions, scaled embeddings, norms around one and a gated GELU."""

from __future__ import annotations

from flaxmodels.bases.decoder import DecoderModel
from flaxmodels.bases.decoder_config import CausalOnly, DecoderConfig
from flaxmodels.bases.decoder_heads import (
    DecoderForCausalLM,
    DecoderForSequenceClassification,
    DecoderForTokenClassification,
)
from flaxmodels.bases.decoder_layer import PRE_NORM, DecoderLayer
from flaxmodels.bases.decoder_parts import attention, gated_mlp, rms_norm
from flaxmodels.fields import Activation, Layers, Length, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.nn.embedding import ScaledEmbedding
from flaxmodels.nn.initializers import normal
from flaxmodels.policy import Policy


class GemmaConfig(DecoderConfig):
    """Configuration of Gemma; the defaults are those of Gemma 7B."""

    model_type = "gemma"

    vocab_size: VocabSize = 256000
    hidden_size: Size = 3072
    intermediate_size: Size = 24576
    num_hidden_layers: Layers = 28
    num_attention_heads: Size = 16
    num_key_value_heads: Size | None = 16
    head_dim: Size | None = 256
    hidden_act: Activation = "gelu_pytorch_tanh"
    max_position_embeddings: Length = 8192
    pad_token_id: SpecialId | None = 0
    eos_token_id: SpecialIds | None = 1
    bos_token_id: SpecialId | None = 2
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    use_bidirectional_attention: CausalOnly = None

    @property
    def activation(self) -> str:
        """The first files of Gemma say "gelu" and mean its approximation."""
        return "gelu_pytorch_tanh" if self.hidden_act == "gelu" else self.hidden_act


class GemmaDecoderLayer(DecoderLayer):
    """Attention and MLP, each with a norm before it."""

    sublayers = PRE_NORM

    def __init__(self, config: GemmaConfig, policy: Policy):
        self.self_attn = attention(config, policy, use_bias=config.attention_bias)
        self.mlp = gated_mlp(config, policy, activation=config.activation)
        self.input_layernorm = rms_norm(config, policy, offset=1.0)
        self.post_attention_layernorm = rms_norm(config, policy, offset=1.0)


class GemmaModel(DecoderModel):
    """The decoder without a head."""

    config_class = GemmaConfig
    layer_class = GemmaDecoderLayer

    def setup(self, config: GemmaConfig, policy: Policy):
        init, scale = normal(config.initializer_range), config.hidden_size**0.5
        self.embed_tokens = ScaledEmbedding(config.vocab_size, config.hidden_size, policy, scale=scale, init=init)
        self.layers = self.make_layers(config, policy)
        self.norm = rms_norm(config, policy, offset=1.0)


class GemmaForCausalLM(DecoderForCausalLM):
    base_class = GemmaModel


class GemmaForSequenceClassification(DecoderForSequenceClassification):
    base_class = GemmaModel


class GemmaForTokenClassification(DecoderForTokenClassification):
    base_class = GemmaModel

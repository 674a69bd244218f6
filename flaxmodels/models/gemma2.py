"""Gemma 2 (arXiv 2408.00118): decoder with norms on both sides of attention and MLP, soft caps, and windows in every
other layer.
"""

from __future__ import annotations

from functools import partial

from flaxmodels.bases.decoder import DecoderModel
from flaxmodels.bases.decoder_config import CausalOnly, DecoderConfig
from flaxmodels.bases.decoder_heads import (
    DecoderForCausalLM,
    DecoderForSequenceClassification,
    DecoderForTokenClassification,
)
from flaxmodels.bases.decoder_layer import DecoderLayer, FeedForward, Mixer
from flaxmodels.bases.decoder_parts import attention, gated_mlp, rms_norm
from flaxmodels.bases.rotary_config import types_by_layer, windows_by_layer
from flaxmodels.fields import Activation, Layers, LayerType, Length, Positive, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.nn.activations import softcap
from flaxmodels.nn.embedding import ScaledEmbedding
from flaxmodels.nn.initializers import normal
from flaxmodels.policy import Policy


class Gemma2Config(DecoderConfig):
    """Configuration of Gemma 2; the defaults are those of Gemma 2 2B."""

    model_type = "gemma2"

    vocab_size: VocabSize = 256000
    hidden_size: Size = 2304
    intermediate_size: Size = 9216
    num_hidden_layers: Layers = 26
    num_attention_heads: Size = 8
    num_key_value_heads: Size | None = 4
    head_dim: Size | None = 256
    hidden_act: Activation = "gelu_pytorch_tanh"
    hidden_activation: Activation = "gelu_pytorch_tanh"
    max_position_embeddings: Length = 8192
    pad_token_id: SpecialId | None = 0
    eos_token_id: SpecialIds | None = 1
    bos_token_id: SpecialId | None = 2
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    query_pre_attn_scalar: Positive = 256
    sliding_window: Length | None = 4096
    layer_types: list[LayerType] | None = None
    final_logit_softcapping: Positive | None = 30.0
    attn_logit_softcapping: Positive | None = 50.0
    use_bidirectional_attention: CausalOnly = None

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        alternating = types_by_layer(self.num_hidden_layers, lambda number: number % 2 == 0)
        return windows_by_layer(self.layer_types or alternating, self.sliding_window)


class Gemma2DecoderLayer(DecoderLayer):
    """Attention and MLP, each with a norm before and after it."""

    sublayers = (
        Mixer("self_attn", pre_norm="input_layernorm", post_norm="post_attention_layernorm"),
        FeedForward("mlp", pre_norm="pre_feedforward_layernorm", post_norm="post_feedforward_layernorm"),
    )

    def __init__(self, config: Gemma2Config, policy: Policy):
        norm = partial(rms_norm, config, policy, offset=1.0)
        self.self_attn = attention(
            config,
            policy,
            use_bias=config.attention_bias,
            scale=config.query_pre_attn_scalar**-0.5,
            softcap=config.attn_logit_softcapping,
        )
        self.mlp = gated_mlp(config, policy, activation=config.hidden_activation)
        self.input_layernorm = norm()
        self.post_attention_layernorm = norm()
        self.pre_feedforward_layernorm = norm()
        self.post_feedforward_layernorm = norm()


class Gemma2Model(DecoderModel):
    """The decoder without a head."""

    config_class = Gemma2Config
    layer_class = Gemma2DecoderLayer

    def setup(self, config: Gemma2Config, policy: Policy):
        init, scale = normal(config.initializer_range), config.hidden_size**0.5
        self.embed_tokens = ScaledEmbedding(config.vocab_size, config.hidden_size, policy, scale=scale, init=init)
        self.layers = self.make_layers(config, policy)
        self.norm = rms_norm(config, policy, offset=1.0)


class Gemma2ForCausalLM(DecoderForCausalLM):
    base_class = Gemma2Model

    def logits(self, hidden_states):
        return softcap(super().logits(hidden_states), self.config.final_logit_softcapping)


class Gemma2ForSequenceClassification(DecoderForSequenceClassification):
    base_class = Gemma2Model


class Gemma2ForTokenClassification(DecoderForTokenClassification):
    base_class = Gemma2Model

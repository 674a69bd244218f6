"""Gemma 3, its text models (arXiv 2503.19786): decoder with norms on both sides of attention and MLP, and of each head
of queries and keys, and with windows and faster rotations in most layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from flaxmodels.bases.decoder import DecoderModel
from flaxmodels.bases.decoder_config import CausalOnly, DecoderConfig
from flaxmodels.bases.decoder_heads import DecoderForCausalLM, DecoderForSequenceClassification
from flaxmodels.bases.decoder_layer import DecoderLayer, FeedForward, Mixer
from flaxmodels.bases.decoder_parts import attention, gated_mlp, rms_norm
from flaxmodels.bases.rotary_config import types_by_layer, windows_by_layer
from flaxmodels.fields import Activation, Layers, LayerType, Length, Positive, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.nn.activations import softcap
from flaxmodels.nn.embedding import ScaledEmbedding
from flaxmodels.nn.initializers import normal
from flaxmodels.nn.rope import RopeConfig
from flaxmodels.nn.self_attention import HeadNormAttention
from flaxmodels.policy import Policy


class Gemma3TextConfig(DecoderConfig):
    """Configuration of the text models of Gemma 3; the defaults are those of transformers."""

    model_type = "gemma3_text"

    vocab_size: VocabSize = 262208
    hidden_size: Size = 2304
    intermediate_size: Size = 9216
    num_hidden_layers: Layers = 26
    num_attention_heads: Size = 8
    num_key_value_heads: Size | None = 4
    head_dim: Size | None = 256
    hidden_act: Activation = "gelu_pytorch_tanh"
    hidden_activation: Activation = "gelu_pytorch_tanh"
    max_position_embeddings: Length = 131072
    pad_token_id: SpecialId | None = 0
    eos_token_id: SpecialIds | None = 1
    bos_token_id: SpecialId | None = 2
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    query_pre_attn_scalar: Positive = 256
    sliding_window: Length | None = 4096
    sliding_window_pattern: Size = 6
    layer_types: list[LayerType] | None = None
    final_logit_softcapping: Positive | None = None
    attn_logit_softcapping: Positive | None = None
    rope_local_base_freq: Positive = 10000.0
    # Fields are checked when they are set: this one holds what others hold, by type of layer.
    rope_parameters: dict[LayerType, dict[str, Any] | None] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    use_bidirectional_attention: CausalOnly = False

    @property
    def kinds(self) -> Sequence[LayerType]:
        """Whether each layer is of "sliding_attention" or, every sixth one, of "full_attention"."""
        every = self.sliding_window_pattern
        return self.layer_types or types_by_layer(self.num_hidden_layers, lambda number: (number + 1) % every != 0)

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        return windows_by_layer(self.kinds, self.sliding_window)

    @property
    def ropes(self) -> tuple[RopeConfig, ...]:
        """Layers with a window rotate faster than the others."""
        stated = self.rope_parameters or {}
        windowed = {"rope_theta": self.rope_local_base_freq} | (stated.get("sliding_attention") or {})
        scaled = stated.get("full_attention") or self.rope_scaling or {}
        full = {"rope_theta": self.rope_theta or 1e6} | scaled
        ropes = self.ropes_by_type({"sliding_attention": windowed, "full_attention": full})
        return tuple(ropes[kind] for kind in self.kinds)


class Gemma3DecoderLayer(DecoderLayer):
    """Attention and MLP, each with a norm before and after it."""

    sublayers = (
        Mixer("self_attn", pre_norm="input_layernorm", post_norm="post_attention_layernorm"),
        FeedForward("mlp", pre_norm="pre_feedforward_layernorm", post_norm="post_feedforward_layernorm"),
    )

    def __init__(self, config: Gemma3TextConfig, policy: Policy):
        norm = partial(rms_norm, config, policy, offset=1.0)
        self.self_attn = attention(
            config,
            policy,
            HeadNormAttention,
            use_bias=config.attention_bias,
            norm=norm,
            scale=config.query_pre_attn_scalar**-0.5,
            softcap=config.attn_logit_softcapping,
        )
        self.mlp = gated_mlp(config, policy, activation=config.hidden_activation)
        self.input_layernorm = norm()
        self.post_attention_layernorm = norm()
        self.pre_feedforward_layernorm = norm()
        self.post_feedforward_layernorm = norm()


class Gemma3TextModel(DecoderModel):
    """The decoder without a head."""

    config_class = Gemma3TextConfig
    layer_class = Gemma3DecoderLayer

    def setup(self, config: Gemma3TextConfig, policy: Policy):
        init, scale = normal(config.initializer_range), config.hidden_size**0.5
        self.embed_tokens = ScaledEmbedding(config.vocab_size, config.hidden_size, policy, scale=scale, init=init)
        self.layers = self.make_layers(config, policy)
        self.norm = rms_norm(config, policy, offset=1.0)


class Gemma3ForCausalLM(DecoderForCausalLM):
    base_class = Gemma3TextModel

    def logits(self, hidden_states):
        return softcap(super().logits(hidden_states), self.config.final_logit_softcapping)


class Gemma3TextForSequenceClassification(DecoderForSequenceClassification):
    base_class = Gemma3TextModel

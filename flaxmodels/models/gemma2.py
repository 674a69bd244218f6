"""Gemma 2 (arXiv 2408.00118): Gemma with norms on both sides, soft caps, and windows in every other layer.

Parameter names and numerics follow the reference implementation in transformers (`Gemma2Model`, `Gemma2For...`).
"""

from __future__ import annotations

from collections.abc import Sequence

from flaxmodels.fields import Activation, Layers, LayerType, Length, Positive, Size
from flaxmodels.models.gemma import (
    GemmaConfig,
    GemmaDecoderLayer,
    GemmaForCausalLM,
    GemmaForSequenceClassification,
    GemmaForTokenClassification,
    GemmaModel,
    GemmaPreTrainedModel,
)


class Gemma2Config(GemmaConfig):
    """Configuration of Gemma 2; the defaults are those of Gemma 2 2B."""

    model_type = "gemma2"

    hidden_size: Size = 2304
    intermediate_size: Size = 9216
    num_hidden_layers: Layers = 26
    num_attention_heads: Size = 8
    num_key_value_heads: Size | None = 4
    hidden_activation: Activation = "gelu_pytorch_tanh"
    query_pre_attn_scalar: Positive = 256
    sliding_window: Length | None = 4096
    layer_types: list[LayerType] | None = None
    final_logit_softcapping: Positive | None = 30.0
    attn_logit_softcapping: Positive | None = 50.0

    @property
    def activation(self) -> str:
        return self.hidden_activation

    @property
    def attention_scale(self) -> float:
        return self.query_pre_attn_scalar**-0.5

    @property
    def attention_softcap(self) -> float | None:
        return self.attn_logit_softcapping

    @property
    def logit_softcap(self) -> float | None:
        return self.final_logit_softcapping

    @property
    def kinds(self) -> Sequence[LayerType]:
        """Whether each layer is of "sliding_attention" or "full_attention"."""
        turns: tuple[LayerType, ...] = ("sliding_attention", "full_attention")
        return self.layer_types or [turns[number % 2] for number in range(self.num_hidden_layers)]

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        return tuple(self.sliding_window if kind == "sliding_attention" else None for kind in self.kinds)


class Gemma2DecoderLayer(GemmaDecoderLayer):
    norms = (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    )


class Gemma2PreTrainedModel(GemmaPreTrainedModel):
    """Base of the Gemma2 models. All take the inputs of `LlamaModel.forward`."""

    config_class = Gemma2Config


class Gemma2Model(Gemma2PreTrainedModel, GemmaModel):
    """The decoder without a head."""

    layer_class = Gemma2DecoderLayer


Gemma2PreTrainedModel.base_class = Gemma2Model


class Gemma2ForCausalLM(Gemma2PreTrainedModel, GemmaForCausalLM):
    """Next token prediction."""


class Gemma2ForSequenceClassification(Gemma2PreTrainedModel, GemmaForSequenceClassification):
    """Classification of a sequence by its last token that is not padding."""


class Gemma2ForTokenClassification(Gemma2PreTrainedModel, GemmaForTokenClassification):
    """Classification of each token."""

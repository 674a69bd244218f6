"""Mistral (arXiv 2310.06825): Llama whose tokens look back over a window.

Parameter names and numerics follow the reference implementation in transformers (`MistralModel`, `MistralFor...`).
"""

from __future__ import annotations

from flaxmodels.fields import Length, Size
from flaxmodels.models.llama import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
    LlamaPreTrainedModel,
)


class MistralConfig(LlamaConfig):
    """Configuration of Mistral; the defaults are those of Mistral 7B v0.1."""

    model_type = "mistral"

    intermediate_size: Size = 14336
    num_key_value_heads: Size | None = 8
    max_position_embeddings: Length = 131072
    sliding_window: Length | None = 4096

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        return (self.sliding_window,) * self.num_hidden_layers


class MistralPreTrainedModel(LlamaPreTrainedModel):
    """Base of the Mistral models. All take the inputs of `LlamaModel.forward`."""

    config_class = MistralConfig


class MistralModel(MistralPreTrainedModel, LlamaModel):
    """The decoder without a head."""


MistralPreTrainedModel.base_class = MistralModel


class MistralForCausalLM(MistralPreTrainedModel, LlamaForCausalLM):
    """Next token prediction."""


class MistralForSequenceClassification(MistralPreTrainedModel, LlamaForSequenceClassification):
    """Classification of a sequence by its last token that is not padding."""


class MistralForTokenClassification(MistralPreTrainedModel, LlamaForTokenClassification):
    """Classification of each token."""


class MistralForQuestionAnswering(MistralPreTrainedModel, LlamaForQuestionAnswering):
    """Where in the text the answer begins and ends."""

    base_model_prefix = "model"

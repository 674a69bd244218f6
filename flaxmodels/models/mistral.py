"""Mistral (arXiv 2310.06825): Llama whose tokens look back over a window.

Parameter names and numerics follow the reference implementation in transformers (`MistralModel`, `MistralFor...`).
"""

from __future__ import annotations

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

    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 131072
    sliding_window: int | None = 4096

    def problems(self) -> list[str]:
        found = super().problems()
        if self.sliding_window is not None and self.sliding_window < 1:
            found.append(f"sliding_window={self.sliding_window}: expected an integer above 0, or null for none")
        return found

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

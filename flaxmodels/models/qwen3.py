"""Qwen3 (arXiv 2505.09388): Qwen2 without biases, and with norms of queries and keys.

Parameter names and numerics follow the reference implementation in transformers (`Qwen3Model`, `Qwen3For...`).
"""

from __future__ import annotations

from flaxmodels.fields import Size
from flaxmodels.models.qwen2 import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForQuestionAnswering,
    Qwen2ForSequenceClassification,
    Qwen2ForTokenClassification,
    Qwen2Model,
    Qwen2PreTrainedModel,
)


class Qwen3Config(Qwen2Config):
    """Configuration of Qwen3; the defaults are those of transformers."""

    model_type = "qwen3"
    query_key_norm = "head"

    head_dim: Size | None = 128

    @property
    def attention_biases(self) -> tuple[bool, bool]:
        return self.attention_bias, self.attention_bias


class Qwen3PreTrainedModel(Qwen2PreTrainedModel):
    """Base of the Qwen3 models. All take the inputs of `LlamaModel.forward`."""

    config_class = Qwen3Config


class Qwen3Model(Qwen3PreTrainedModel, Qwen2Model):
    """The decoder without a head."""


Qwen3PreTrainedModel.base_class = Qwen3Model


class Qwen3ForCausalLM(Qwen3PreTrainedModel, Qwen2ForCausalLM):
    """Next token prediction."""


class Qwen3ForSequenceClassification(Qwen3PreTrainedModel, Qwen2ForSequenceClassification):
    """Classification of a sequence by its last token that is not padding."""


class Qwen3ForTokenClassification(Qwen3PreTrainedModel, Qwen2ForTokenClassification):
    """Classification of each token."""


class Qwen3ForQuestionAnswering(Qwen3PreTrainedModel, Qwen2ForQuestionAnswering):
    """Where in the text the answer begins and ends."""

"""RoBERTa with pre-layer norms (arXiv 2202.08005, after arXiv 1904.01038): a norm before each half of a layer.

Parameter names and numerics follow the reference implementation in transformers (`RobertaPreLayerNormModel`, ...).
"""

from __future__ import annotations

from typing import Any

import jax

from flaxmodels.models.roberta import (
    RobertaConfig,
    RobertaForCausalLM,
    RobertaForMaskedLM,
    RobertaForMultipleChoice,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    RobertaModel,
    RobertaPreTrainedModel,
)
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.stack import StackOutput


class RobertaPreLayerNormConfig(RobertaConfig):
    """Configuration of RoBERTa with pre-layer norms; the defaults are those of transformers."""

    model_type = "roberta-prelayernorm"
    norm_first = True


class RobertaPreLayerNormPreTrainedModel(RobertaPreTrainedModel):
    """Base of these models. All take the inputs of `BertModel.forward`."""

    config_class = RobertaPreLayerNormConfig
    base_model_prefix = "roberta_prelayernorm"


class RobertaPreLayerNormModel(RobertaPreLayerNormPreTrainedModel, RobertaModel):
    """The encoder (or decoder) without a head, and the pooler unless `add_pooling_layer=False`."""

    def build(self, config: RobertaPreLayerNormConfig, policy: Policy, *, add_pooling_layer: bool = True):
        super().build(config, policy, add_pooling_layer=add_pooling_layer)
        self.LayerNorm = config.norm(policy)

    def encode(self, embeddings: jax.Array, **options: Any) -> StackOutput:
        return super().encode(embeddings, **options).normed(self.LayerNorm)


RobertaPreLayerNormPreTrainedModel.base_class = RobertaPreLayerNormModel


class RobertaPreLayerNormForMaskedLM(RobertaPreLayerNormPreTrainedModel, RobertaForMaskedLM):
    """Masked language modelling."""


class RobertaPreLayerNormForCausalLM(RobertaPreLayerNormPreTrainedModel, RobertaForCausalLM):
    """Next token prediction; the configuration must have `is_decoder=True`."""


class RobertaPreLayerNormForSequenceClassification(
    RobertaPreLayerNormPreTrainedModel, RobertaForSequenceClassification
):
    """Sentence (pair) classification or regression, by the first token."""


class RobertaPreLayerNormForMultipleChoice(RobertaPreLayerNormPreTrainedModel, RobertaForMultipleChoice):
    """Which of several choices? Inputs are `[batch, num_choices, q_len]`."""


class RobertaPreLayerNormForTokenClassification(RobertaPreLayerNormPreTrainedModel, RobertaForTokenClassification):
    """A label for each token."""


class RobertaPreLayerNormForQuestionAnswering(RobertaPreLayerNormPreTrainedModel, RobertaForQuestionAnswering):
    """The span of the text that answers a question."""

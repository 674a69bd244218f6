"""XLM-RoBERTa (arXiv 1911.02116): RoBERTa of many languages, the same model under other names.

Parameter names and numerics follow the reference implementation in transformers (`XLMRobertaModel`, ...).
"""

from __future__ import annotations

from flaxmodels.fields import VocabSize
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


class XLMRobertaConfig(RobertaConfig):
    """Configuration of XLM-RoBERTa; the defaults are those of transformers."""

    model_type = "xlm-roberta"

    vocab_size: VocabSize = 30522


class XLMRobertaPreTrainedModel(RobertaPreTrainedModel):
    """Base of the XLM-RoBERTa models. All take the inputs of `BertModel.forward`."""

    config_class = XLMRobertaConfig


class XLMRobertaModel(XLMRobertaPreTrainedModel, RobertaModel):
    """The encoder (or decoder) without a head, and the pooler unless `add_pooling_layer=False`."""


XLMRobertaPreTrainedModel.base_class = XLMRobertaModel


class XLMRobertaForMaskedLM(XLMRobertaPreTrainedModel, RobertaForMaskedLM):
    """Masked language modelling."""


class XLMRobertaForCausalLM(XLMRobertaPreTrainedModel, RobertaForCausalLM):
    """Next token prediction; the configuration must have `is_decoder=True`."""


class XLMRobertaForSequenceClassification(XLMRobertaPreTrainedModel, RobertaForSequenceClassification):
    """Sentence (pair) classification or regression."""


class XLMRobertaForMultipleChoice(XLMRobertaPreTrainedModel, RobertaForMultipleChoice):
    """Which of several choices? Inputs are `[batch, num_choices, q_len]`."""


class XLMRobertaForTokenClassification(XLMRobertaPreTrainedModel, RobertaForTokenClassification):
    """A label for each token."""


class XLMRobertaForQuestionAnswering(XLMRobertaPreTrainedModel, RobertaForQuestionAnswering):
    """The span of the text that answers a question."""

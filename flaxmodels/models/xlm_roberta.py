"""XLM-RoBERTa (arXiv 1911.02116): RoBERTa of many languages, the same model under other names."""

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
)


class XLMRobertaConfig(RobertaConfig):
    """Configuration of XLM-RoBERTa; the defaults are those of transformers."""

    model_type = "xlm-roberta"

    vocab_size: VocabSize = 30522


class XLMRobertaModel(RobertaModel):
    """The encoder (or decoder) without a head, and the pooler unless `add_pooling_layer=False`."""

    config_class = XLMRobertaConfig


class XLMRobertaForMaskedLM(RobertaForMaskedLM):
    base_class = XLMRobertaModel


class XLMRobertaForCausalLM(RobertaForCausalLM):
    base_class = XLMRobertaModel


class XLMRobertaForSequenceClassification(RobertaForSequenceClassification):
    base_class = XLMRobertaModel


class XLMRobertaForMultipleChoice(RobertaForMultipleChoice):
    base_class = XLMRobertaModel


class XLMRobertaForTokenClassification(RobertaForTokenClassification):
    base_class = XLMRobertaModel


class XLMRobertaForQuestionAnswering(RobertaForQuestionAnswering):
    base_class = XLMRobertaModel

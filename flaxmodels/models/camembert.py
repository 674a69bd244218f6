"""CamemBERT (arXiv 1911.03894): RoBERTa of French, the same model under other names."""

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


class CamembertConfig(RobertaConfig):
    """Configuration of CamemBERT; the defaults are those of transformers."""

    model_type = "camembert"

    vocab_size: VocabSize = 30522


class CamembertModel(RobertaModel):
    """The encoder (or decoder) without a head, and the pooler unless `add_pooling_layer=False`."""

    config_class = CamembertConfig


class CamembertForMaskedLM(RobertaForMaskedLM):
    base_class = CamembertModel


class CamembertForCausalLM(RobertaForCausalLM):
    base_class = CamembertModel


class CamembertForSequenceClassification(RobertaForSequenceClassification):
    base_class = CamembertModel


class CamembertForMultipleChoice(RobertaForMultipleChoice):
    base_class = CamembertModel


class CamembertForTokenClassification(RobertaForTokenClassification):
    base_class = CamembertModel


class CamembertForQuestionAnswering(RobertaForQuestionAnswering):
    base_class = CamembertModel

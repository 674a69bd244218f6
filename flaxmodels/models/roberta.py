"""RoBERTa (arXiv 1907.11692): BERT with positions counted after the padding token, and other heads."""

from __future__ import annotations

from flaxmodels.bases.encoder_heads import (
    EncoderForCausalLM,
    EncoderForFirstTokenClassification,
    EncoderForMaskedLM,
    EncoderForMultipleChoice,
    EncoderForQuestionAnswering,
    EncoderForTokenClassification,
)
from flaxmodels.execution.inputs import DefaultPositions
from flaxmodels.fields import SpecialId, SpecialIds, TokenId, VocabSize
from flaxmodels.models.bert import BertConfig, BertModel
from flaxmodels.nn.partition import COLUMN, ROW


class RobertaConfig(BertConfig):
    """Configuration of RoBERTa; the defaults are those of transformers."""

    model_type = "roberta"

    vocab_size: VocabSize = 50265
    pad_token_id: TokenId = 1  # pyright: ignore[reportIncompatibleVariableOverride]  # checked when set
    bos_token_id: SpecialId | None = 0
    eos_token_id: SpecialIds | None = 2

    def validation_errors(self) -> list[str]:
        found, positions, pad = super().validation_errors(), self.max_position_embeddings, self.pad_token_id
        if positions < pad + 2:
            found.append(
                f"max_position_embeddings={positions}: positions begin after pad_token_id={pad}, expected more"
            )
        return found


class RobertaModel(BertModel):
    """The encoder (or decoder) without a head, and the pooler unless `add_pooling_layer=False`."""

    config_class = RobertaConfig
    base_model_prefix = "roberta"
    tp_plan = {
        "(self/(query|key|value)|intermediate/dense|lm_head/decoder)": COLUMN,
        "(output/dense|word_embeddings)": ROW,
    }
    lm_head_names = {
        "dense": "lm_head.dense",
        "norm": "lm_head.layer_norm",
        "bias": "lm_head.bias",
        "decoder": "lm_head.decoder",
    }
    lm_head_activation = "gelu"

    @property
    def default_positions(self) -> DefaultPositions:
        """Tokens count from `pad_token_id + 1` on; padding has the position of its id."""
        return DefaultPositions(self.config.pad_token_id + 1, ("input_ids", self.config.pad_token_id))


class RobertaForMaskedLM(EncoderForMaskedLM):
    base_class = RobertaModel


class RobertaForCausalLM(EncoderForCausalLM):
    base_class = RobertaModel


class RobertaForSequenceClassification(EncoderForFirstTokenClassification):
    base_class = RobertaModel


class RobertaForMultipleChoice(EncoderForMultipleChoice):
    base_class = RobertaModel


class RobertaForTokenClassification(EncoderForTokenClassification):
    base_class = RobertaModel


class RobertaForQuestionAnswering(EncoderForQuestionAnswering):
    base_class = RobertaModel

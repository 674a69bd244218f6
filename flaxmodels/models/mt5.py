"""mT5 (arXiv 2010.11934): T5 of many languages with gates in its feed-forward networks."""

from __future__ import annotations

from flaxmodels.fields import Layers, Size, TokenId, VocabSize
from flaxmodels.models.t5 import (
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5ForQuestionAnswering,
    T5ForSequenceClassification,
    T5ForTokenClassification,
    T5Model,
)


class MT5Config(T5Config):
    """Configuration of mT5; the defaults are those of mt5-small, but for tied embeddings."""

    model_type = "mt5"

    vocab_size: VocabSize = 250112
    d_ff: Size = 1024
    num_layers: Layers = 8
    num_heads: Size = 6
    feed_forward_proj: str = "gated-gelu"
    decoder_start_token_id: TokenId | None = 0

    @property
    def scales_logits(self) -> bool:
        return False


class MT5Model(T5Model):
    """Encoder and decoder without a head."""

    config_class = MT5Config


class MT5EncoderModel(T5EncoderModel):
    base_class = MT5Model


class MT5ForConditionalGeneration(T5ForConditionalGeneration):
    base_class = MT5Model


class MT5ForSequenceClassification(T5ForSequenceClassification):
    base_class = MT5Model


class MT5ForTokenClassification(T5ForTokenClassification):
    base_class = MT5EncoderModel


class MT5ForQuestionAnswering(T5ForQuestionAnswering):
    base_class = MT5Model

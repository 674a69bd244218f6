"""mT5 (arXiv 2010.11934): T5 of many languages with gates in its feed-forward layers.

Parameter names and numerics follow the reference implementation in transformers (`MT5Model`, `MT5For...`).
"""

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
    T5PreTrainedModel,
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


class MT5PreTrainedModel(T5PreTrainedModel):
    """Base of the mT5 models. All take the inputs of the T5 models."""

    config_class = MT5Config


class MT5Model(MT5PreTrainedModel, T5Model):
    """Encoder and decoder without a head."""


class MT5EncoderModel(MT5PreTrainedModel, T5EncoderModel):
    """The encoder alone."""


MT5PreTrainedModel.base_class, MT5PreTrainedModel.encoder_class = MT5Model, MT5EncoderModel


class MT5ForConditionalGeneration(MT5PreTrainedModel, T5ForConditionalGeneration):
    """The next token of the decoder's text."""


class MT5ForSequenceClassification(MT5PreTrainedModel, T5ForSequenceClassification):
    """Classification of a text, by the decoder's state at its last end token."""


class MT5ForTokenClassification(MT5PreTrainedModel, T5ForTokenClassification):
    """A label for each token, by the encoder alone."""


class MT5ForQuestionAnswering(MT5PreTrainedModel, T5ForQuestionAnswering):
    """Where in the text the answer begins and ends."""

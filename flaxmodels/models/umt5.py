"""UMT5 (arXiv 2304.09151): mT5 with a bias for distances in every layer.

Parameter names and numerics follow the reference implementation in transformers (`UMT5Model`, `UMT5For...`).
"""

from __future__ import annotations

from flaxmodels.fields import Layers, Size, TokenId, VocabSize
from flaxmodels.models.t5 import (
    T5Attention,
    T5Block,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5ForQuestionAnswering,
    T5ForSequenceClassification,
    T5ForTokenClassification,
    T5Model,
    T5PreTrainedModel,
    T5RelativeBias,
    T5Stack,
)
from flaxmodels.nn.policy import Policy


class UMT5Config(T5Config):
    """Configuration of UMT5; the defaults are those of transformers."""

    model_type = "umt5"

    vocab_size: VocabSize = 250112
    d_ff: Size = 1024
    num_layers: Layers = 8
    num_heads: Size = 6
    feed_forward_proj: str = "gated-gelu"
    decoder_start_token_id: TokenId | None = 0


class UMT5Attention(T5Attention):
    """Attention to the hidden states themselves, which are given as `bias` the bucket of each query and key."""

    def __init__(self, config: UMT5Config, policy: Policy):
        super().__init__(config, policy)
        self.relative_attention_bias = T5RelativeBias(config, policy)

    def __call__(self, hidden_states, mask, *, bias, **options):
        return super().__call__(hidden_states, mask, bias=self.relative_attention_bias(bias), **options)


class UMT5Block(T5Block):
    attention_class = UMT5Attention


class UMT5Stack(T5Stack):
    block_class = UMT5Block
    shares_bias = False


class UMT5PreTrainedModel(T5PreTrainedModel):
    """Base of the UMT5 models. All take the inputs of the T5 models."""

    config_class = UMT5Config
    stack_class = UMT5Stack


class UMT5Model(UMT5PreTrainedModel, T5Model):
    """Encoder and decoder without a head."""


class UMT5EncoderModel(UMT5PreTrainedModel, T5EncoderModel):
    """The encoder alone."""


UMT5PreTrainedModel.base_class, UMT5PreTrainedModel.encoder_class = UMT5Model, UMT5EncoderModel


class UMT5ForConditionalGeneration(UMT5PreTrainedModel, T5ForConditionalGeneration):
    """The next token of the decoder's text."""


class UMT5ForSequenceClassification(UMT5PreTrainedModel, T5ForSequenceClassification):
    """Classification of a text, by the decoder's state at its last end token."""


class UMT5ForTokenClassification(UMT5PreTrainedModel, T5ForTokenClassification):
    """A label for each token, by the encoder alone."""


class UMT5ForQuestionAnswering(UMT5PreTrainedModel, T5ForQuestionAnswering):
    """Where in the text the answer begins and ends."""

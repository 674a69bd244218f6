"""Marian (arXiv 1804.00344): a BART for translation, with fixed positions, and with two vocabularies if so configured.

Parameter names and numerics follow the reference implementation in transformers (`MarianModel`, `MarianMTModel`, ...).
"""

from __future__ import annotations

from flaxmodels.fields import SpecialId, SpecialIds, TokenId, VocabSize
from flaxmodels.models.bart import (
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BartModel,
    BartPreTrainedModel,
    BartTower,
)


class MarianConfig(BartConfig):
    """Configuration of Marian; the defaults are those of transformers."""

    model_type = "marian"
    default_num_labels = 2

    vocab_size: VocabSize = 58101
    decoder_vocab_size: VocabSize | None = None
    bos_token_id: SpecialId | None = None
    pad_token_id: SpecialId | None = 58100
    eos_token_id: SpecialIds | None = 0
    decoder_start_token_id: TokenId | None = 58100
    forced_eos_token_id: SpecialIds | None = 0
    share_encoder_decoder_embeddings: bool = True

    @property
    def shares_embeddings(self) -> bool:
        return self.share_encoder_decoder_embeddings

    @property
    def target_vocab_size(self) -> int:
        return self.vocab_size if self.shares_embeddings else self.decoder_vocab_size or self.vocab_size


class MarianTower(BartTower):
    norms_embeddings = False
    sinusoidal = True
    scales_given = True


class MarianPreTrainedModel(BartPreTrainedModel):
    """Base of the Marian models. All take the inputs of `EncoderDecoderBase.forward`, but `MarianForCausalLM`."""

    config_class = MarianConfig
    tower_class = MarianTower


class MarianModel(MarianPreTrainedModel, BartModel):
    """Encoder and decoder without a head."""


MarianPreTrainedModel.base_class = MarianModel


class MarianMTModel(MarianPreTrainedModel, BartForConditionalGeneration):
    """The next token of the translation."""

    unsaved_names = (r"embed_positions\.weight$",)


class MarianForCausalLM(MarianPreTrainedModel, BartForCausalLM):
    """Next token prediction by the decoder alone. Takes the inputs of `BartDecoder.forward`."""

"""Marian (arXiv 1804.00344): a BART for translation, with fixed positions, and two vocabularies if so configured."""

from __future__ import annotations

from flaxmodels.fields import SpecialId, SpecialIds, TokenId, VocabSize
from flaxmodels.models.bart import (
    BartConfig,
    BartDecoder,
    BartForCausalLM,
    BartForConditionalGeneration,
    BartModel,
    BartStack,
)
from flaxmodels.nn.embedding import SinusoidalPositions
from flaxmodels.policy import Policy


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


class MarianStack(BartStack):
    """The encoder or the decoder."""

    normalises_embeddings = False
    scales_inputs_embeds = True

    def make_positions(self, config: MarianConfig, policy: Policy) -> SinusoidalPositions:
        return SinusoidalPositions(config.max_position_embeddings, config.d_model, policy)


class MarianModel(BartModel):
    """Encoder and decoder without a head."""

    config_class = MarianConfig
    stack_class = MarianStack


class MarianMTModel(BartForConditionalGeneration):
    """The next token of the translation."""

    base_class = MarianModel
    keys_to_ignore_on_save = (r"embed_positions\.weight$",)


class MarianDecoder(BartDecoder):
    base_class = MarianModel


class MarianForCausalLM(BartForCausalLM):
    base_class = MarianDecoder

"""PEGASUS (arXiv 1912.08777): a BART for summaries, with fixed positions, and norms before the parts of its layers.

Parameter names and numerics follow the reference implementation in transformers (`PegasusModel`, `PegasusFor...`).
"""

from __future__ import annotations

from flaxmodels.fields import SpecialId, SpecialIds, TokenId
from flaxmodels.models.bart import (
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BartModel,
    BartPreTrainedModel,
    BartTower,
)


class PegasusConfig(BartConfig):
    """Configuration of PEGASUS; the defaults are those of transformers."""

    model_type = "pegasus"
    default_num_labels = 2

    bos_token_id: SpecialId | None = None
    pad_token_id: SpecialId | None = 0
    eos_token_id: SpecialIds | None = 1
    decoder_start_token_id: TokenId | None = 0
    forced_eos_token_id: SpecialIds | None = 1


class PegasusTower(BartTower):
    pre_norm = True
    norms_embeddings = False
    sinusoidal = True
    scales_given = True


class PegasusPreTrainedModel(BartPreTrainedModel):
    """Base of the PEGASUS models. All take the inputs of `EncoderDecoderBase.forward`, but `PegasusForCausalLM`."""

    config_class = PegasusConfig
    tower_class = PegasusTower


class PegasusModel(PegasusPreTrainedModel, BartModel):
    """Encoder and decoder without a head."""


PegasusPreTrainedModel.base_class = PegasusModel


class PegasusForConditionalGeneration(PegasusPreTrainedModel, BartForConditionalGeneration):
    """The next token of the decoder's text."""


class PegasusForCausalLM(PegasusPreTrainedModel, BartForCausalLM):
    """Next token prediction by the decoder alone. Takes the inputs of `BartDecoder.forward`."""

"""PEGASUS (arXiv 1912.08777): a BART for summaries, with fixed positions, and norms before the parts of its layers."""

from __future__ import annotations

from flaxmodels.bases.transformer import pre_norm
from flaxmodels.fields import SpecialId, SpecialIds, TokenId
from flaxmodels.models.bart import (
    BartConfig,
    BartDecoder,
    BartForCausalLM,
    BartForConditionalGeneration,
    BartLayer,
    BartModel,
    BartStack,
)
from flaxmodels.nn.embedding import SinusoidalPositions
from flaxmodels.policy import Policy


class PegasusConfig(BartConfig):
    """Configuration of PEGASUS; the defaults are those of transformers."""

    model_type = "pegasus"
    default_num_labels = 2

    bos_token_id: SpecialId | None = None
    pad_token_id: SpecialId | None = 0
    eos_token_id: SpecialIds | None = 1
    decoder_start_token_id: TokenId | None = 0
    forced_eos_token_id: SpecialIds | None = 1


class PegasusLayer(BartLayer):
    """A layer with norms before its parts."""

    residual = staticmethod(pre_norm)


class PegasusStack(BartStack):
    """The encoder or the decoder, which ends with a norm."""

    layer_class = PegasusLayer
    normalises_embeddings = False
    normalises_output = True
    scales_inputs_embeds = True

    def make_positions(self, config: PegasusConfig, policy: Policy) -> SinusoidalPositions:
        return SinusoidalPositions(config.max_position_embeddings, config.d_model, policy)


class PegasusModel(BartModel):
    """Encoder and decoder without a head."""

    config_class = PegasusConfig
    stack_class = PegasusStack


class PegasusForConditionalGeneration(BartForConditionalGeneration):
    base_class = PegasusModel


class PegasusDecoder(BartDecoder):
    base_class = PegasusModel


class PegasusForCausalLM(BartForCausalLM):
    base_class = PegasusDecoder

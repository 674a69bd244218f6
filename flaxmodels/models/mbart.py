"""mBART (arXiv 2001.08210): a multilingual BART with norms before the parts of its layers.

Parameter names and numerics follow the reference implementation in transformers (`MBartModel`, `MBartFor...`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxmodels.fields import TokenId
from flaxmodels.models.bart import (
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BartForQuestionAnswering,
    BartForSequenceClassification,
    BartModel,
    BartPreTrainedModel,
    BartTower,
)


class MBartConfig(BartConfig):
    """Configuration of mBART; the defaults are those of transformers."""

    model_type = "mbart"
    default_num_labels = 2

    pad_token_id: TokenId = 1
    decoder_start_token_id: TokenId | None = None


class MBartTower(BartTower):
    pre_norm = True


class MBartPreTrainedModel(BartPreTrainedModel):
    """Base of the mBART models. All take the inputs of `EncoderDecoderBase.forward`, but `MBartForCausalLM`."""

    config_class = MBartConfig
    tower_class = MBartTower
    config: MBartConfig


class MBartModel(MBartPreTrainedModel, BartModel):
    """Encoder and decoder without a head."""

    def shift_right(self, input_ids: jax.Array) -> jax.Array:
        """`input_ids` behind their last token that is not padding, that of the language; -100 becomes padding."""
        pad = self.config.pad_token_id
        ids = jnp.where(input_ids == -100, pad, input_ids)
        last = (ids != pad).sum(axis=1) - 1
        return jnp.concatenate([jnp.take_along_axis(ids, last[:, None], axis=1), ids[:, :-1]], axis=1)


MBartPreTrainedModel.base_class = MBartModel


class MBartForConditionalGeneration(MBartPreTrainedModel, BartForConditionalGeneration):
    """The next token of the decoder's text."""


class MBartForSequenceClassification(MBartPreTrainedModel, BartForSequenceClassification):
    """Classification of a text, by the decoder's state at its last end token."""


class MBartForQuestionAnswering(MBartPreTrainedModel, BartForQuestionAnswering):
    """Where in the text the answer begins and ends."""


class MBartForCausalLM(MBartPreTrainedModel, BartForCausalLM):
    """Next token prediction by the decoder alone. Takes the inputs of `BartDecoder.forward`."""

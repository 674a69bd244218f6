"""mBART (arXiv 2001.08210): a multilingual BART with norms before the parts of its layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxmodels.bases.transformer import pre_norm
from flaxmodels.fields import TokenId
from flaxmodels.models.bart import (
    BartConfig,
    BartDecoder,
    BartForCausalLM,
    BartForConditionalGeneration,
    BartForQuestionAnswering,
    BartForSequenceClassification,
    BartLayer,
    BartModel,
    BartStack,
)


class MBartConfig(BartConfig):
    """Configuration of mBART; the defaults are those of transformers."""

    model_type = "mbart"
    default_num_labels = 2

    pad_token_id: TokenId = 1  # pyright: ignore[reportIncompatibleVariableOverride]  # checked when set
    decoder_start_token_id: TokenId | None = None


class MBartLayer(BartLayer):
    """A layer with norms before its parts."""

    residual = staticmethod(pre_norm)


class MBartStack(BartStack):
    """The encoder or the decoder, which ends with a norm."""

    layer_class = MBartLayer
    normalises_output = True


class MBartModel(BartModel):
    """Encoder and decoder without a head."""

    config_class = MBartConfig
    stack_class = MBartStack

    def shift_right(self, input_ids: jax.Array) -> jax.Array:
        """`input_ids` after their last token that is not padding, that of the language; -100 becomes padding."""
        pad = self.config.pad_token_id
        ids = jnp.where(input_ids == -100, pad, input_ids)
        last = (ids != pad).sum(axis=1) - 1
        return jnp.concatenate([jnp.take_along_axis(ids, last[:, None], axis=1), ids[:, :-1]], axis=1)


class MBartForConditionalGeneration(BartForConditionalGeneration):
    base_class = MBartModel


class MBartForSequenceClassification(BartForSequenceClassification):
    base_class = MBartModel


class MBartForQuestionAnswering(BartForQuestionAnswering):
    base_class = MBartModel


class MBartDecoder(BartDecoder):
    base_class = MBartModel


class MBartForCausalLM(BartForCausalLM):
    base_class = MBartDecoder

"""RoBERTa (arXiv 1907.11692): BERT with positions counted behind the padding token, and other heads.

Parameter names and numerics follow the reference implementation in transformers (`RobertaModel`, `RobertaFor...`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import normal

from flaxmodels.fields import SpecialId, SpecialIds, TokenId, VocabSize
from flaxmodels.models.bert import (
    BertConfig,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertModel,
    BertPreTrainedModel,
    FirstTokenClassifier,
)
from flaxmodels.nn.cache import Cache
from flaxmodels.nn.heads import MaskedLMHead
from flaxmodels.nn.inputs import DefaultPositions
from flaxmodels.nn.linear import Linear, TiedLinear
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.outputs import CausalLMOutput, MaskedLMOutput


class RobertaConfig(BertConfig):
    """Configuration of RoBERTa; the defaults are those of transformers."""

    model_type = "roberta"

    vocab_size: VocabSize = 50265
    pad_token_id: TokenId = 1
    bos_token_id: SpecialId | None = 0
    eos_token_id: SpecialIds | None = 2

    def problems(self) -> list[str]:
        found, positions, pad = super().problems(), self.max_position_embeddings, self.pad_token_id
        if positions < pad + 2:
            found.append(
                f"max_position_embeddings={positions}: positions begin after pad_token_id={pad}, expected more"
            )
        return found


class RobertaPreTrainedModel(BertPreTrainedModel):
    """Base of the RoBERTa models. All take the inputs of `BertModel.forward`."""

    config_class = RobertaConfig
    base_model_prefix = "roberta"
    tp_plan = {
        "(self/(query|key|value)|intermediate/dense|lm_head/decoder)": COLUMN,
        "(output/dense|word_embeddings)": ROW,
    }
    config: RobertaConfig

    @property
    def default_positions(self) -> DefaultPositions:
        return DefaultPositions(self.config.pad_token_id + 1, ("input_ids", self.config.pad_token_id))

    def prepare_inputs_for_generation(
        self, input_ids: jax.Array, attention_mask: jax.Array, position_ids: jax.Array, cache: Cache
    ) -> dict[str, Any]:
        positions = position_ids + self.default_positions.first
        return super().prepare_inputs_for_generation(input_ids, attention_mask, positions, cache)


class RobertaModel(RobertaPreTrainedModel, BertModel):
    """The encoder (or decoder) without a head, and the pooler unless `add_pooling_layer=False`."""

    def positions(self, input_ids: jax.Array | None, shape: tuple[int, int], start: jax.Array | int) -> jax.Array:
        """Tokens that are not padding are counted from `pad_token_id + 1`; padding has the position of its id."""
        pad = self.config.pad_token_id
        if input_ids is None:
            return super().positions(input_ids, shape, start) + pad + 1
        counted = (input_ids != pad).astype(jnp.int32)
        return (counted.cumsum(-1) + start) * counted + pad


RobertaPreTrainedModel.base_class = RobertaModel


class _RobertaWithLMHead(RobertaPreTrainedModel):
    def build(self, config: RobertaConfig, policy: Policy):
        base = self.set_base(config, policy, add_pooling_layer=False)
        self.lm_head = MaskedLMHead(
            config.hidden_size,
            base.embeddings.word_embeddings,
            policy,
            epsilon=config.layer_norm_eps,
            tied=config.tie_word_embeddings,
            init=normal(config.initializer_range),
        )

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.lm_head.decoder


class RobertaForMaskedLM(_RobertaWithLMHead):
    """Masked language modelling."""

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(MaskedLMOutput, logits=self.lm_head(outputs.last_hidden_state))


class RobertaForCausalLM(_RobertaWithLMHead):
    """Next token prediction; the configuration must have `is_decoder=True`."""

    predicts_next_token = True

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(CausalLMOutput, logits=self.lm_head(outputs.last_hidden_state))


class RobertaForSequenceClassification(RobertaPreTrainedModel, FirstTokenClassifier):
    """Sentence (pair) classification or regression, by the first token."""


class RobertaForMultipleChoice(RobertaPreTrainedModel, BertForMultipleChoice):
    """Which of several choices? Inputs are `[batch, num_choices, q_len]`."""


class RobertaForTokenClassification(RobertaPreTrainedModel, BertForTokenClassification):
    """A label for each token."""


class RobertaForQuestionAnswering(RobertaPreTrainedModel, BertForQuestionAnswering):
    """The span of the text that answers a question."""

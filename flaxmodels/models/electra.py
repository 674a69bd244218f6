"""ELECTRA (arXiv 2003.10555): a BERT that tells replaced tokens from original ones, and its small generator.

Parameter names and numerics follow the reference implementation in transformers (`ElectraModel`, `ElectraFor...`).
"""

from __future__ import annotations

from typing import Any, Literal

import jax
from jax.nn.initializers import normal, zeros

from flaxmodels.fields import ABSENT, Activation, Rate, Size, SummaryType
from flaxmodels.models.bert import (
    BertConfig,
    BertEmbeddings,
    BertEncoder,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertModel,
    BertPreTrainedModel,
    FirstTokenClassifier,
)
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.heads import SequenceSummary
from flaxmodels.nn.linear import LayerNorm, Linear, TiedLinear, vocabulary_projection
from flaxmodels.nn.module import Module, param
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.stack import StackOutput
from flaxmodels.outputs import CausalLMOutput, MaskedLMOutput, ReplacedTokensOutput


class ElectraConfig(BertConfig):
    """Configuration of ELECTRA; the defaults are those of electra-small-discriminator."""

    model_type = "electra"

    embedding_size: Size = 128
    hidden_size: Size = 256
    num_attention_heads: Size = 4
    intermediate_size: Size = 1024
    summary_type: SummaryType = "first"
    summary_use_proj: bool = True
    summary_activation: Literal["", Activation] | None = "gelu"
    summary_last_dropout: Rate = 0.1
    summary_first_dropout: Rate = ABSENT
    summary_proj_to_labels: bool = ABSENT

    def problems(self) -> list[str]:
        found = super().problems()
        if getattr(self, "summary_proj_to_labels", False):
            found.append("summary_proj_to_labels=True: only a projection to hidden_size is implemented")
        return found


class ElectraDiscriminatorPredictions(Module):
    """Two dense layers: was the token replaced?"""

    def __init__(self, config: ElectraConfig, policy: Policy):
        init = normal(config.initializer_range)
        self.activation = get_activation(config.hidden_act)
        self.dense = Linear(config.hidden_size, config.hidden_size, policy, init=init)
        self.dense_prediction = Linear(config.hidden_size, 1, policy, init=init)

    def __call__(self, hidden_states):
        return self.dense_prediction(self.activation(self.dense(hidden_states)))[..., 0]


class ElectraGeneratorPredictions(Module):
    """From hidden states to the size of the embeddings."""

    def __init__(self, config: ElectraConfig, policy: Policy):
        self.activation = get_activation("gelu")
        self.LayerNorm = LayerNorm(config.embedding_size, policy, epsilon=config.layer_norm_eps)
        init = normal(config.initializer_range)
        self.dense = Linear(config.hidden_size, config.embedding_size, policy, init=init)

    def __call__(self, hidden_states):
        return self.LayerNorm(self.activation(self.dense(hidden_states)))


class ElectraPreTrainedModel(BertPreTrainedModel):
    """Base of the ELECTRA models. All take the inputs of `BertModel.forward`."""

    config_class = ElectraConfig
    base_model_prefix = "electra"
    tp_plan = {
        "(self/(query|key|value)|intermediate/dense|generator_lm_head)": COLUMN,
        "(output/dense|word_embeddings)": ROW,
    }
    config: ElectraConfig


class ElectraModel(ElectraPreTrainedModel, BertModel):
    """The discriminator or the generator (or a decoder) without a head."""

    def build(self, config: ElectraConfig, policy: Policy, *, add_pooling_layer: bool = False):
        """There is no pooler, whatever a head asks for."""
        inner, outer, init = config.embedding_size, config.hidden_size, normal(config.initializer_range)
        self.embeddings = BertEmbeddings(config, policy)
        self.embeddings_project = Linear(inner, outer, policy, init=init) if inner != outer else None
        self.encoder = BertEncoder(config, policy)
        self.pooler = None

    def encode(self, embeddings: jax.Array, **options: Any) -> StackOutput:
        projected = embeddings if self.embeddings_project is None else self.embeddings_project(embeddings)
        return super().encode(projected, **options)


ElectraPreTrainedModel.base_class = ElectraModel


class ElectraForPreTraining(ElectraPreTrainedModel):
    """The discriminator: which tokens were replaced?"""

    def build(self, config: ElectraConfig, policy: Policy):
        self.set_base(config, policy)
        self.discriminator_predictions = ElectraDiscriminatorPredictions(config, policy)

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(ReplacedTokensOutput, logits=self.discriminator_predictions(outputs.last_hidden_state))


class _ElectraWithLMHead(ElectraPreTrainedModel):
    def build(self, config: ElectraConfig, policy: Policy):
        table = self.set_base(config, policy).embeddings.word_embeddings
        self.generator_predictions = ElectraGeneratorPredictions(config, policy)
        tied, bias = config.tie_word_embeddings, param((config.vocab_size,), policy.param_dtype, zeros)
        init = normal(config.initializer_range)
        self.generator_lm_head = vocabulary_projection(table, policy, tied=tied, init=init, bias=bias)

    def predict(self, hidden_states: jax.Array) -> jax.Array:
        """`[batch, q_len, vocab]`."""
        return self.generator_lm_head(self.generator_predictions(hidden_states))

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.generator_lm_head


class ElectraForMaskedLM(_ElectraWithLMHead):
    """The generator: masked language modelling."""

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(MaskedLMOutput, logits=self.predict(outputs.last_hidden_state))


class ElectraForCausalLM(_ElectraWithLMHead):
    """Next token prediction; the configuration must have `is_decoder=True`."""

    predicts_next_token = True

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(CausalLMOutput, logits=self.predict(outputs.last_hidden_state))


class ElectraForSequenceClassification(ElectraPreTrainedModel, FirstTokenClassifier):
    """Sentence (pair) classification or regression, by the first token."""

    classifier_activation = "gelu"


class ElectraForMultipleChoice(ElectraPreTrainedModel, BertForMultipleChoice):
    """Which of several choices? Inputs are `[batch, num_choices, q_len]`."""

    def build(self, config: ElectraConfig, policy: Policy):
        self.set_base(config, policy)
        size, init = config.hidden_size, normal(config.initializer_range)
        self.sequence_summary = SequenceSummary(
            size,
            size if config.summary_use_proj else None,
            policy,
            kind=config.summary_type,
            activation=config.summary_activation or "linear",
            dropout_rates=(getattr(config, "summary_first_dropout", 0.0), config.summary_last_dropout),
            init=init,
        )
        self.classifier = Linear(size, 1, policy, init=init)

    def classify(self, outputs, dropout_rng):
        return self.classifier(self.sequence_summary(outputs.last_hidden_state, dropout_rng=dropout_rng))


class ElectraForTokenClassification(ElectraPreTrainedModel, BertForTokenClassification):
    """A label for each token."""


class ElectraForQuestionAnswering(ElectraPreTrainedModel, BertForQuestionAnswering):
    """The span of the text that answers a question."""

"""ELECTRA (arXiv 2003.10555): a BERT that tells replaced tokens from original ones, and its small generator."""

from __future__ import annotations

from typing import Any, Literal

import jax

from flaxmodels.bases.encoder_heads import (
    EncoderForCausalLM,
    EncoderForFirstTokenClassification,
    EncoderForMaskedLM,
    EncoderForMultipleChoice,
    EncoderForQuestionAnswering,
    EncoderForTokenClassification,
    classifier,
)
from flaxmodels.bases.heads import ModelWithHead
from flaxmodels.bases.parts import place, set_base
from flaxmodels.fields import ABSENT, Activation, Rate, Size, SummaryType
from flaxmodels.models.bert import BertConfig, BertModel
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.heads import SequenceSummary
from flaxmodels.nn.initializers import normal
from flaxmodels.nn.module import Module
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.stack import StackOutput
from flaxmodels.outputs import ReplacedTokensOutput
from flaxmodels.policy import Policy


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

    def validation_errors(self) -> list[str]:
        found = super().validation_errors()
        if getattr(self, "summary_proj_to_labels", False):
            found.append("summary_proj_to_labels=True: only a projection to hidden_size is implemented")
        return found


class ElectraModel(BertModel):
    """The discriminator or the generator (or a decoder) without a head. There is no pooler, whatever is asked for."""

    config_class = ElectraConfig
    base_model_prefix = "electra"
    tp_plan = {
        "(self/(query|key|value)|intermediate/dense|generator_lm_head)": COLUMN,
        "(output/dense|word_embeddings)": ROW,
    }
    lm_head_names = {
        "norm": "generator_predictions.LayerNorm",
        "dense": "generator_predictions.dense",
        "decoder": "generator_lm_head",
    }
    lm_head_activation = "gelu"

    def setup(self, config: ElectraConfig, policy: Policy, *, add_pooling_layer: bool = False) -> None:
        inner, outer, init = config.embedding_size, config.hidden_size, normal(config.initializer_range)
        self.embeddings = self.make_embeddings(config, policy)
        self.embeddings_project = Linear(inner, outer, policy, init=init) if inner != outer else None
        place(self, self.layers_path, self.make_layers(config, policy))
        self.pooler = None

    def run_layers(self, hidden_states: jax.Array, **options: Any) -> StackOutput:
        project = self.embeddings_project
        return super().run_layers(hidden_states if project is None else project(hidden_states), **options)


class ElectraDiscriminatorPredictions(Module):
    """Two dense layers: was the token replaced?"""

    def __init__(self, config: ElectraConfig, policy: Policy):
        init = normal(config.initializer_range)
        self.activation = get_activation(config.hidden_act)
        self.dense = Linear(config.hidden_size, config.hidden_size, policy, init=init)
        self.dense_prediction = Linear(config.hidden_size, 1, policy, init=init)

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        """`[batch, q_len, hidden]` to `[batch, q_len]`."""
        return self.dense_prediction(self.activation(self.dense(hidden_states)))[..., 0]


class ElectraForPreTraining(ModelWithHead):
    """The discriminator: which tokens were replaced?"""

    base_class = ElectraModel

    def setup(self, config: ElectraConfig, policy: Policy) -> None:
        set_base(self, config, policy)
        self.discriminator_predictions = ElectraDiscriminatorPredictions(config, policy)

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> ReplacedTokensOutput:
        return outputs.to(ReplacedTokensOutput, logits=self.discriminator_predictions(outputs.last_hidden_state))


class ElectraForMaskedLM(EncoderForMaskedLM):
    """The generator: masked language modelling."""

    base_class = ElectraModel


class ElectraForCausalLM(EncoderForCausalLM):
    base_class = ElectraModel


class ElectraForSequenceClassification(EncoderForFirstTokenClassification):
    base_class = ElectraModel
    classifier_activation = "gelu"


class ElectraForMultipleChoice(EncoderForMultipleChoice):
    base_class = ElectraModel

    def setup(self, config: ElectraConfig, policy: Policy) -> None:
        set_base(self, config, policy)
        size = config.hidden_size
        self.sequence_summary = SequenceSummary(
            size,
            size if config.summary_use_proj else None,
            policy,
            kind=config.summary_type,
            activation=config.summary_activation or "linear",
            dropout_rates=(getattr(config, "summary_first_dropout", 0.0), config.summary_last_dropout),
            init=normal(config.initializer_range),
        )
        self.classifier = classifier(config, policy, 1)

    def summarise(self, outputs: Any, dropout_rng: jax.Array | None) -> jax.Array:
        return self.sequence_summary(outputs.last_hidden_state, dropout_rng=dropout_rng)


class ElectraForTokenClassification(EncoderForTokenClassification):
    base_class = ElectraModel


class ElectraForQuestionAnswering(EncoderForQuestionAnswering):
    base_class = ElectraModel

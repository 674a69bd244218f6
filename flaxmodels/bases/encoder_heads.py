"""The heads of encoders of text. That of an architecture says which model it is built on: `base_class = BertModel`."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, ClassVar

import jax

from flaxmodels.bases.heads import DenseHead, ForQuestionAnswering, ForTokenClassification, ModelWithHead
from flaxmodels.bases.parts import place, set_base
from flaxmodels.execution.inputs import PER_CHOICE
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.cache import Cache
from flaxmodels.nn.dense import Linear, TiedLinear, vocabulary_projection
from flaxmodels.nn.dropout import dropout
from flaxmodels.nn.heads import ClassificationHead, score_choices
from flaxmodels.nn.initializers import normal, zeros
from flaxmodels.nn.module import param
from flaxmodels.nn.norms import LayerNorm
from flaxmodels.outputs import CausalLMOutput, MaskedLMOutput, MultipleChoiceOutput, SequenceClassifierOutput
from flaxmodels.policy import Policy

WITHOUT_POOLER = {"add_pooling_layer": False}
"""The base model of heads that read the state of each token."""


class EncoderWithLMHead(ModelWithHead):
    """Base of models that predict tokens, by a dense layer, an activation, a norm and a projection to the vocabulary,
    at the paths of `EncoderModel.lm_head_names`.
    """

    base_options = WITHOUT_POOLER

    def setup(self, config: Any, policy: Policy) -> None:
        base = set_base(self, config, policy, **self.base_options)
        self.activation = get_activation(base.lm_head_activation or config.layer_spec.activation)
        table, init = base.get_input_embeddings(), normal(config.initializer_range)
        vocab_size, hidden_size = table.embedding.get_raw_value().shape
        bias = param((vocab_size,), policy.param_dtype, zeros)
        parts = {
            "dense": Linear(config.hidden_size, hidden_size, policy, init=init),
            "norm": LayerNorm(hidden_size, policy, epsilon=config.layer_spec.epsilon),
            "bias": bias,
            "decoder": vocabulary_projection(table, policy, tied=config.tie_word_embeddings, init=init, bias=bias),
        }
        for role, path in base.lm_head_names.items():
            place(self, path, parts[role])

    def lm_head_part(self, role: str) -> Any:
        """The part of a role."""
        return attrgetter(self.base_class.lm_head_names[role])(self)

    def predict(self, hidden_states: jax.Array) -> jax.Array:
        """The logits `[batch, q_len, vocab]` of hidden states."""
        normalised = self.lm_head_part("norm")(self.activation(self.lm_head_part("dense")(hidden_states)))
        return self.lm_head_part("decoder")(normalised)

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.lm_head_part("decoder")


class EncoderForMaskedLM(EncoderWithLMHead):
    """Masked language modelling."""

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> MaskedLMOutput:
        return outputs.to(MaskedLMOutput, logits=self.predict(outputs.last_hidden_state))


class EncoderForCausalLM(EncoderWithLMHead):
    """Next token prediction; the configuration must have `is_decoder=True`."""

    predicts_next_token = True

    def prepare_inputs_for_generation(
        self, input_ids: jax.Array, attention_mask: jax.Array, position_ids: jax.Array, cache: Cache
    ) -> dict[str, Any]:
        first = self.base_model.default_positions.first
        return super().prepare_inputs_for_generation(input_ids, attention_mask, position_ids + first, cache)

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> CausalLMOutput:
        return outputs.to(CausalLMOutput, logits=self.predict(outputs.last_hidden_state))


class EncoderForSequenceClassification(DenseHead):
    """Sentence (pair) classification or regression, by the output of the pooler."""

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> SequenceClassifierOutput:
        logits = self.dense(dropout(outputs.pooler_output, self.config.classifier_rate, dropout_rng))
        return outputs.to(SequenceClassifierOutput, logits=logits)


class EncoderForFirstTokenClassification(ModelWithHead):
    """Sentence (pair) classification or regression, by two dense layers on the state of the first token.

    Attributes:
        classifier_activation: name of the activation between the dense layers.
    """

    base_options = WITHOUT_POOLER
    classifier_activation: ClassVar[str] = "tanh"

    def setup(self, config: Any, policy: Policy) -> None:
        set_base(self, config, policy, **self.base_options)
        self.classifier = ClassificationHead(
            config.hidden_size,
            config.num_labels,
            policy,
            dropout_rate=config.classifier_rate,
            init=normal(config.initializer_range),
            activation=self.classifier_activation,
        )

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> SequenceClassifierOutput:
        logits = self.classifier(outputs.last_hidden_state[:, 0], dropout_rng)
        return outputs.to(SequenceClassifierOutput, logits=logits)


class EncoderForMultipleChoice(DenseHead):
    """Which of several choices? Inputs are `[batch, num_choices, q_len]`."""

    expected_inputs = PER_CHOICE
    num_outputs = 1

    def forward(self, **inputs: Any) -> MultipleChoiceOutput:
        return score_choices(super().forward, inputs)

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> MultipleChoiceOutput:
        return outputs.to(MultipleChoiceOutput, logits=self.dense(self.summarise(outputs, dropout_rng)))

    def summarise(self, outputs: Any, dropout_rng: jax.Array | None) -> jax.Array:
        """One vector for each text, `[batch * num_choices, hidden]`."""
        return dropout(outputs.pooler_output, self.config.classifier_rate, dropout_rng)


class EncoderForTokenClassification(ForTokenClassification):
    """A label for each token."""

    base_options = WITHOUT_POOLER


class EncoderForQuestionAnswering(ForQuestionAnswering):
    """The span of the text that answers a question."""

    base_options = WITHOUT_POOLER


def classifier(config: Any, policy: Policy, labels: int) -> Linear:
    """A dense layer from hidden states to `labels` logits."""
    return Linear(config.hidden_size, labels, policy, init=normal(config.initializer_range))

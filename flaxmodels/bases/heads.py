"""Heads that encoders and decoders have in common: a base model, and one dense layer on what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar

import jax

from flaxmodels.bases.parts import place, set_base
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.cache import Cache
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.dropout import dropout
from flaxmodels.nn.heads import span_logits
from flaxmodels.nn.initializers import normal
from flaxmodels.outputs import QuestionAnsweringOutput, TokenClassifierOutput
from flaxmodels.policy import Policy


class ModelWithHead(PreTrainedModel):
    """A base model, which `base_class` names, and what a task needs beside it.

    Attributes:
        base_options: what the `setup` of the base model is told.
    """

    base_options: ClassVar[Mapping[str, bool]] = {}
    config: Any

    def init_cache(self, batch_size: int, max_length: int, dtype: Any = None) -> Cache:
        """The empty cache of the base model, as its `init_cache` says."""
        return self.base_model.init_cache(batch_size, max_length, dtype)


class DenseHead(ModelWithHead):
    """A base model and one dense layer.

    Attributes:
        head_name: path that the dense layer has in checkpoints.
        head_bias: whether the dense layer has a bias.
        num_outputs: how many values it makes; one a label if it is `None`.
    """

    head_name: ClassVar[str] = "classifier"
    head_bias: ClassVar[bool] = True
    num_outputs: ClassVar[int | None] = None

    def setup(self, config: Any, policy: Policy) -> None:
        features = set_base(self, config, policy, **self.base_options).output_features
        outputs, init = self.num_outputs or config.num_labels, normal(config.initializer_range)
        place(self, self.head_name, Linear(features, outputs, policy, use_bias=self.head_bias, init=init))

    @property
    def dense(self) -> Any:
        """The dense layer."""
        return attrgetter(self.head_name)(self)


class ForTokenClassification(DenseHead):
    """A label for each token."""

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> TokenClassifierOutput:
        logits = self.dense(dropout(outputs.last_hidden_state, self.classifier_rate, dropout_rng))
        return outputs.to(TokenClassifierOutput, logits=logits)

    @property
    def classifier_rate(self) -> float:
        """Dropout rate before the dense layer."""
        return self.config.classifier_rate


class ForQuestionAnswering(DenseHead):
    """The span of the text that answers a question."""

    head_name = "qa_outputs"
    num_outputs = 2

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> QuestionAnsweringOutput:
        start, end = span_logits(self.dense, outputs.last_hidden_state)
        return outputs.to(QuestionAnsweringOutput, start_logits=start, end_logits=end)

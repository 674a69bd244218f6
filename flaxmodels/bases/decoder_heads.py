"""The heads of decoders. That of an architecture says which model it is built on: `base_class = LlamaModel`."""

from __future__ import annotations

from typing import Any

import jax

from flaxmodels.bases.heads import DenseHead, ForTokenClassification
from flaxmodels.bases.parts import place, set_base
from flaxmodels.nn.dense import Linear, TiedLinear, vocabulary_projection
from flaxmodels.nn.embedding import Embedding
from flaxmodels.nn.heads import last_token
from flaxmodels.nn.initializers import normal
from flaxmodels.outputs import CausalLMOutput, SequenceClassifierOutput
from flaxmodels.policy import Policy


class DecoderWithLMHead(DenseHead):
    """A decoder and a projection to the vocabulary."""

    predicts_next_token = True
    head_name = "lm_head"

    def setup(self, config: Any, policy: Policy) -> None:
        table = set_base(self, config, policy).get_input_embeddings()
        place(self, self.head_name, self.make_projection(table, config, policy))

    def make_projection(self, table: Embedding, config: Any, policy: Policy) -> Linear | TiedLinear:
        """The projection to the vocabulary."""
        tied, init = config.tie_word_embeddings, normal(config.initializer_range)
        return vocabulary_projection(table, policy, tied=tied, init=init)

    def logits(self, hidden_states: jax.Array) -> jax.Array:
        """`[batch, q_len, vocab]`."""
        return self.dense(hidden_states)

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.dense


class DecoderForCausalLM(DecoderWithLMHead):
    """Next token prediction."""

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> CausalLMOutput:
        return outputs.to(CausalLMOutput, logits=self.logits(outputs.last_hidden_state))


class DecoderForSequenceClassification(DenseHead):
    """Classification of a sequence by its last token that is not padding."""

    head_name = "score"
    head_bias = False

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> SequenceClassifierOutput:
        logits = self.dense(outputs.last_hidden_state)
        chosen = last_token(logits, inputs.get("input_ids"), self.config.pad_token_id)
        return outputs.to(SequenceClassifierOutput, logits=chosen)


class DecoderForTokenClassification(ForTokenClassification):
    """A label for each token."""

    head_name = "score"

    @property
    def classifier_rate(self) -> float:
        rates = (getattr(self.config, name, None) for name in ("classifier_dropout", "hidden_dropout"))
        return next((rate for rate in rates if rate is not None), 0.1)

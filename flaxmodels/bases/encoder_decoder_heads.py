"""The heads of models of an encoder and a decoder, and the decoder as a model of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar

import jax

from flaxmodels.bases.encoder_decoder import EncoderDecoderModel
from flaxmodels.bases.parts import set_base
from flaxmodels.nn.cache import Cache
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.heads import ClassificationHead, last_chosen, span_logits
from flaxmodels.outputs import (
    CausalLMOutput,
    Seq2SeqLMOutput,
    Seq2SeqQuestionAnsweringOutput,
    Seq2SeqSequenceClassifierOutput,
)
from flaxmodels.policy import Policy


class EncoderDecoderWithLMHead(EncoderDecoderModel):
    """Base of models that predict tokens by the output of the decoder."""

    predicts_next_token = True
    output_projection = "lm_head"

    def setup(self, config: Any, policy: Policy) -> None:
        base = set_base(self, config, policy)
        self.add_output_projection(base.decoder.embed_tokens, policy)

    def predict(self, hidden_states: jax.Array) -> jax.Array:
        """The logits `[batch, q_len, vocab]` of hidden states."""
        return attrgetter(self.output_projection)(self)(hidden_states)


class EncoderDecoderForConditionalGeneration(EncoderDecoderWithLMHead):
    """The next token of the decoder."""

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> Seq2SeqLMOutput:
        return outputs.to(Seq2SeqLMOutput, logits=self.predict(outputs.last_hidden_state))


class EncoderDecoderForSequenceClassification(EncoderDecoderModel):
    """Classification of a text, by the decoder's state at its last end token."""

    def setup(self, config: Any, policy: Policy) -> None:
        set_base(self, config, policy)
        rate, init = config.classifier_dropout, config.classifier_init
        self.classification_head = ClassificationHead(
            config.hidden_size, config.num_labels, policy, dropout_rate=rate, init=init
        )

    def head(
        self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None
    ) -> Seq2SeqSequenceClassifierOutput:
        state = last_chosen(outputs.last_hidden_state, inputs["input_ids"] == self.config.eos_token_id)
        logits = self.classification_head(state, dropout_rng)
        return outputs.to(Seq2SeqSequenceClassifierOutput, logits=logits)


class EncoderDecoderForQuestionAnswering(EncoderDecoderModel):
    """Where in the text the answer begins and ends."""

    def setup(self, config: Any, policy: Policy) -> None:
        set_base(self, config, policy)
        self.qa_outputs = Linear(config.hidden_size, 2, policy, init=config.classifier_init)

    def head(
        self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None
    ) -> Seq2SeqQuestionAnsweringOutput:
        start, end = span_logits(self.qa_outputs, outputs.last_hidden_state)
        return outputs.to(Seq2SeqQuestionAnsweringOutput, start_logits=start, end_logits=end)


class DecoderOnlyForCausalLM(EncoderDecoderWithLMHead):
    """Next token prediction by the decoder alone, which attends to the hidden states of an encoder if they are given.

    Attributes:
        config_changes: what its configuration says that the one given does not.
    """

    padding_takes_positions = True
    config_changes: ClassVar[Mapping[str, bool]] = {"is_decoder": True, "is_encoder_decoder": False}

    def __init__(self, config: Any, *args: Any, **kwargs: Any):
        alone = copy.copy(self.config_class.from_any(config))
        for name, value in self.config_changes.items():
            setattr(alone, name, value)
        super().__init__(alone, *args, **kwargs)

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> CausalLMOutput:
        return outputs.to(CausalLMOutput, logits=self.predict(outputs.last_hidden_state))

    def prepare_inputs_for_generation(
        self, input_ids: jax.Array, attention_mask: jax.Array, position_ids: jax.Array, cache: Cache
    ) -> dict[str, Any]:
        """The inputs of `forward` for the next tokens; as in transformers, positions count padding too."""
        return {"input_ids": input_ids, "attention_mask": attention_mask, "past_key_values": cache}

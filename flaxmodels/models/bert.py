"""BERT (arXiv 1810.04805): bidirectional encoder, also usable as a decoder with cross-attention."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from flaxmodels.bases.encoder import EncoderEmbeddings, EncoderModel
from flaxmodels.bases.encoder_heads import (
    EncoderForCausalLM,
    EncoderForMaskedLM,
    EncoderForMultipleChoice,
    EncoderForQuestionAnswering,
    EncoderForSequenceClassification,
    EncoderForTokenClassification,
    EncoderWithLMHead,
    classifier,
)
from flaxmodels.bases.heads import DenseHead
from flaxmodels.bases.transformer import DropoutRates, LayerSpec, TransformerLayer
from flaxmodels.config import PreTrainedConfig
from flaxmodels.fields import Activation, Epsilon, Layers, Length, Rate, Scale, Size, SpecialId, VocabSize
from flaxmodels.nn.cache import Cache
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.outputs import BaseModelOutputWithPooling, PreTrainingOutput, SequenceClassifierOutput
from flaxmodels.policy import Policy


class BertConfig(PreTrainedConfig):
    """Configuration of BERT; the defaults are those of bert-base-uncased."""

    model_type = "bert"
    multiples = (("hidden_size", "num_attention_heads"),)

    vocab_size: VocabSize = 30522
    hidden_size: Size = 768
    num_hidden_layers: Layers = 12
    num_attention_heads: Size = 12
    intermediate_size: Size = 3072
    hidden_act: Activation = "gelu"
    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    max_position_embeddings: Length = 512
    type_vocab_size: Size = 2
    initializer_range: Scale = 0.02
    layer_norm_eps: Epsilon = 1e-12
    pad_token_id: SpecialId | None = 0
    position_embedding_type: Literal["absolute"] = "absolute"
    use_cache: bool = True
    classifier_dropout: Rate | None = None

    def validation_errors(self) -> list[str]:
        found = super().validation_errors()
        if self.add_cross_attention and not self.is_decoder:
            found.append("add_cross_attention=True needs is_decoder=True")
        return found

    @property
    def embedding_features(self) -> int:
        """Size of the embeddings."""
        return getattr(self, "embedding_size", self.hidden_size)

    @property
    def classifier_rate(self) -> float:
        """Dropout rate before a classifier."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @property
    def layer_spec(self) -> LayerSpec:
        """The numbers of a layer."""
        dropped, weights = self.hidden_dropout_prob, self.attention_probs_dropout_prob
        rates = DropoutRates(weights=weights, attention=dropped, mlp=dropped)
        return LayerSpec.from_config(self, rates=rates)


class BertLayer(TransformerLayer):
    """A layer with norms after attention and feed-forward network."""

    names = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attn_out": "attention.output.dense",
        "attn_norm": "attention.output.LayerNorm",
        "cross_query": "crossattention.self.query",
        "cross_key": "crossattention.self.key",
        "cross_value": "crossattention.self.value",
        "cross_attn_out": "crossattention.output.dense",
        "cross_attn_norm": "crossattention.output.LayerNorm",
        "mlp_in": "intermediate.dense",
        "mlp_out": "output.dense",
        "mlp_norm": "output.LayerNorm",
    }


class BertModel(EncoderModel):
    """The encoder (or decoder) without a head, and the pooler unless `add_pooling_layer=False`."""

    config_class = BertConfig
    base_model_prefix = "bert"
    keys_to_ignore_on_load = (r"embeddings\.position_ids$",)
    tp_plan = {
        "(self/(query|key|value)|intermediate/dense|cls/predictions/decoder)": COLUMN,
        "(output/dense|word_embeddings)": ROW,
    }
    lm_head_names = {
        "dense": "cls.predictions.transform.dense",
        "norm": "cls.predictions.transform.LayerNorm",
        "bias": "cls.predictions.bias",
        "decoder": "cls.predictions.decoder",
    }
    layer_class = BertLayer
    prunable_layers = "encoder.layer"

    def make_embeddings(self, config: BertConfig, policy: Policy) -> EncoderEmbeddings:
        return EncoderEmbeddings(
            config,
            policy,
            hidden_size=config.embedding_features,
            epsilon=config.layer_norm_eps,
            dropout_rate=config.hidden_dropout_prob,
            token_types=config.type_vocab_size,
        )

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        head_mask: jax.Array | None = None,
        encoder_hidden_states: jax.Array | None = None,
        encoder_attention_mask: jax.Array | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutputWithPooling:
        """Encode.

        Args:
            input_ids: int `[batch, q_len]`; or `inputs_embeds` `[batch, q_len, hidden]` in its place.
            attention_mask: `[batch, kv_len]`, 0 for padding.
            token_type_ids, position_ids: int `[batch, q_len]`; zeros, and 0, 1, ... after the cache.
            head_mask: `[layers, heads]` factors of the attention weights, or `[heads]` for all layers.
            encoder_hidden_states: `[batch, kv_len, hidden]` for cross-attention, with `encoder_attention_mask`.
            past_key_values: from `init_cache` or an earlier output; decoders only.

        Raises:
            FlaxModelsError: not exactly one of `input_ids` and `inputs_embeds`.
        """
        if head_mask is not None and head_mask.ndim == 1:
            head_mask = jnp.broadcast_to(head_mask[None], (self.config.num_hidden_layers, *head_mask.shape))
        return self.encode(
            input_ids,
            inputs_embeds,
            attention_mask,
            position_ids,
            token_type_ids,
            per_layer=None if head_mask is None else {"head_mask": head_mask},
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            dropout_rng=dropout_rng,
        )


class BertForPreTraining(EncoderWithLMHead):
    """Masked language modelling and next sentence prediction."""

    base_class = BertModel
    base_options = {}
    cls: Any

    def setup(self, config: BertConfig, policy: Policy) -> None:
        super().setup(config, policy)
        self.cls.seq_relationship = classifier(config, policy, 2)

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> PreTrainingOutput:
        return outputs.to(
            PreTrainingOutput,
            prediction_logits=self.predict(outputs.last_hidden_state),
            seq_relationship_logits=self.cls.seq_relationship(outputs.pooler_output),
        )


class BertForMaskedLM(EncoderForMaskedLM):
    base_class = BertModel


class BertLMHeadModel(EncoderForCausalLM):
    base_class = BertModel


BertForCausalLM = BertLMHeadModel
"""The name that the retired Flax class had."""


class BertForNextSentencePrediction(DenseHead):
    """Does the second sentence follow the first? `logits` `[batch, 2]`, index 0 for yes."""

    base_class = BertModel
    head_name = "cls.seq_relationship"
    num_outputs = 2

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> SequenceClassifierOutput:
        return outputs.to(SequenceClassifierOutput, logits=self.dense(outputs.pooler_output))


class BertForSequenceClassification(EncoderForSequenceClassification):
    base_class = BertModel


class BertForMultipleChoice(EncoderForMultipleChoice):
    base_class = BertModel


class BertForTokenClassification(EncoderForTokenClassification):
    base_class = BertModel


class BertForQuestionAnswering(EncoderForQuestionAnswering):
    base_class = BertModel

"""BERT (arXiv 1810.04805): bidirectional encoder, also usable as a decoder with cross-attention.

Parameter names and numerics follow the reference implementation in transformers (`BertModel`, `BertFor...`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.nn.initializers import normal, zeros

from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import ConfigError
from flaxmodels.fields import Activation, Epsilon, Layers, Length, Rate, Scale, Size, SpecialId, VocabSize
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.attention import cached_attention, split_heads
from flaxmodels.nn.cache import Cache, LayerCache
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.heads import ClassificationHead, score_choices, span_logits
from flaxmodels.nn.inputs import PER_CHOICE
from flaxmodels.nn.linear import Embedding, LayerNorm, Linear, TiedLinear, embed, vocabulary_projection
from flaxmodels.nn.masks import decoder_mask, padding_mask
from flaxmodels.nn.module import Module, fresh, param
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.stack import BlockOutput, Stack, StackOutput
from flaxmodels.outputs import (
    BaseModelOutputWithPooling,
    CausalLMOutput,
    MaskedLMOutput,
    MultipleChoiceOutput,
    PreTrainingOutput,
    QuestionAnsweringOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)


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

    def problems(self) -> list[str]:
        found = super().problems()
        if self.add_cross_attention and not self.is_decoder:
            found.append("add_cross_attention=True needs is_decoder=True")
        return found

    @property
    def embedding_features(self) -> int:
        """Size of the embeddings."""
        return getattr(self, "embedding_size", self.hidden_size)

    @property
    def classifier_rate(self) -> float:
        """Dropout before a classifier."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    norm_first: ClassVar[bool] = False
    """Whether norms are before both halves of a layer, not behind them; a descendant says so."""

    def norm(self, policy: Policy) -> LayerNorm:
        """A norm of hidden states."""
        return LayerNorm(self.hidden_size, policy, epsilon=self.layer_norm_eps)


class BertEmbeddings(Module):
    def __init__(self, config: BertConfig, policy: Policy):
        init, features = normal(config.initializer_range), config.embedding_features
        self.dropout_rate = config.hidden_dropout_prob
        self.word_embeddings = Embedding(config.vocab_size, features, policy, init=init)
        self.position_embeddings = Embedding(config.max_position_embeddings, features, policy, init=init)
        self.token_type_embeddings = Embedding(config.type_vocab_size, features, policy, init=init)
        self.LayerNorm = LayerNorm(features, policy, epsilon=config.layer_norm_eps)

    def __call__(self, words, token_type_ids, position_ids, dropout_rng):
        token_type_ids = jnp.zeros_like(position_ids) if token_type_ids is None else token_type_ids
        summed = words + self.token_type_embeddings(token_type_ids) + self.position_embeddings(position_ids)
        return dropout(self.LayerNorm(summed), self.dropout_rate, dropout_rng)


class BertSelfAttention(Module):
    """Attention of the hidden states to themselves, to a cache, or to `memory` (an encoder's hidden states)."""

    def __init__(self, config: BertConfig, policy: Policy):
        init = normal(config.initializer_range)
        self.heads = config.num_attention_heads
        self.implementation = policy.attn_implementation
        self.dropout_rate = config.attention_probs_dropout_prob
        self.query = Linear(config.hidden_size, config.hidden_size, policy, init=init)
        self.key = Linear(config.hidden_size, config.hidden_size, policy, init=init)
        self.value = Linear(config.hidden_size, config.hidden_size, policy, init=init)

    def __call__(self, hidden_states, mask, memory, cache, head_mask, output_attentions, dropout_rng):
        source = hidden_states if memory is None else memory
        query = split_heads(self.query(hidden_states), self.heads)
        key, value = (split_heads(layer(source), self.heads) for layer in (self.key, self.value))
        return cached_attention(
            query,
            key,
            value,
            mask,
            cache,
            implementation=self.implementation,
            return_weights=output_attentions,
            dropout_rate=self.dropout_rate,
            dropout_rng=dropout_rng,
            head_mask=head_mask,
        )


class BertOutput(Module):
    """Projection, dropout, residual, norm unless norms come first: how both halves of a layer end."""

    def __init__(self, in_features: int, config: BertConfig, policy: Policy):
        self.dropout_rate = config.hidden_dropout_prob
        self.dense = Linear(in_features, config.hidden_size, policy, init=normal(config.initializer_range))
        self.LayerNorm = None if config.norm_first else config.norm(policy)

    def __call__(self, hidden_states, residual, dropout_rng):
        summed = dropout(self.dense(hidden_states), self.dropout_rate, dropout_rng) + residual
        return summed if self.LayerNorm is None else self.LayerNorm(summed)


class BertAttention(Module):
    def __init__(self, config: BertConfig, policy: Policy):
        self.self = BertSelfAttention(config, policy)
        self.output = BertOutput(config.hidden_size, config, policy)
        self.LayerNorm = config.norm(policy) if config.norm_first else None

    def __call__(
        self,
        hidden_states,
        mask,
        *,
        memory=None,
        cache=None,
        head_mask=None,
        output_attentions=False,
        dropout_rng=None,
    ):
        inner, outer = split_key(dropout_rng, 2)
        source = hidden_states if self.LayerNorm is None else self.LayerNorm(hidden_states)
        mixed, weights, cache = self.self(source, mask, memory, cache, head_mask, output_attentions, inner)
        return self.output(mixed, hidden_states, outer), weights, cache


class BertIntermediate(Module):
    def __init__(self, config: BertConfig, policy: Policy):
        self.activation = get_activation(config.hidden_act)
        self.dense = Linear(config.hidden_size, config.intermediate_size, policy, init=normal(config.initializer_range))
        self.LayerNorm = config.norm(policy) if config.norm_first else None

    def __call__(self, hidden_states):
        hidden_states = hidden_states if self.LayerNorm is None else self.LayerNorm(hidden_states)
        return self.activation(self.dense(hidden_states))


class BertLayer(Module):
    def __init__(self, config: BertConfig, policy: Policy):
        self.attention = BertAttention(config, policy)
        self.crossattention = fresh(BertAttention(config, policy)) if config.add_cross_attention else None
        self.intermediate = BertIntermediate(config, policy)
        self.output = BertOutput(config.intermediate_size, config, policy)

    def __call__(
        self,
        hidden_states: jax.Array,
        *,
        mask: jax.Array | None,
        memory: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        cache: LayerCache | None = None,
        head_mask: jax.Array | None = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BlockOutput:
        keys = split_key(dropout_rng, 3)
        hidden_states, weights, cache = self.attention(
            hidden_states,
            mask,
            cache=cache,
            head_mask=head_mask,
            output_attentions=output_attentions,
            dropout_rng=keys[0],
        )
        cross_weights = None
        if self.crossattention is not None and memory is not None:
            hidden_states, cross_weights, _ = self.crossattention(
                hidden_states,
                memory_mask,
                memory=memory,
                output_attentions=output_attentions,
                dropout_rng=keys[1],
            )
        hidden_states = self.output(self.intermediate(hidden_states), hidden_states, keys[2])
        return BlockOutput(hidden_states, cache, weights, cross_weights)


class BertEncoder(Module):
    def __init__(self, config: BertConfig, policy: Policy):
        self.layer = Stack(lambda: BertLayer(config, policy), config.num_hidden_layers, policy)


class BertPooler(Module):
    """The first token's hidden state through a dense layer and tanh."""

    def __init__(self, config: BertConfig, policy: Policy):
        self.dense = Linear(config.hidden_size, config.hidden_size, policy, init=normal(config.initializer_range))

    def __call__(self, hidden_states):
        return jnp.tanh(self.dense(hidden_states[:, 0]))


class BertPredictionHeadTransform(Module):
    def __init__(self, config: BertConfig, policy: Policy):
        self.activation = get_activation(config.hidden_act)
        self.dense = Linear(config.hidden_size, config.hidden_size, policy, init=normal(config.initializer_range))
        self.LayerNorm = config.norm(policy)

    def __call__(self, hidden_states):
        return self.LayerNorm(self.activation(self.dense(hidden_states)))


class BertLMPredictionHead(Module):
    """Transform, then a projection to the vocabulary that shares the word embeddings if they are tied.

    Checkpoints of untied models have a second bias, `cls.predictions.bias`, that nothing uses.
    """

    def __init__(self, config: BertConfig, policy: Policy, embeddings: Embedding):
        self.transform = BertPredictionHeadTransform(config, policy)
        self.bias = param((config.vocab_size,), policy.param_dtype, zeros)
        tied, init = config.tie_word_embeddings, normal(config.initializer_range)
        self.decoder = vocabulary_projection(embeddings, policy, tied=tied, init=init, bias=self.bias)

    def __call__(self, hidden_states):
        return self.decoder(self.transform(hidden_states))


class BertHeads(Module):
    """The heads of pretraining, under the name `cls`; a model has those that it needs."""

    def __init__(self, config: BertConfig, policy: Policy, embeddings: Embedding | None, *, pairs: bool):
        if embeddings is not None:
            self.predictions = BertLMPredictionHead(config, policy, embeddings)
        if pairs:
            self.seq_relationship = Linear(config.hidden_size, 2, policy, init=normal(config.initializer_range))


class BertPreTrainedModel(PreTrainedModel):
    """Base of the BERT models. All take the inputs of `BertModel.forward`."""

    config_class = BertConfig
    base_model_prefix = "bert"
    ignored_names = (r"embeddings\.position_ids$",)
    tp_plan = {
        "(self/(query|key|value)|intermediate/dense|cls/predictions/decoder)": COLUMN,
        "(output/dense|word_embeddings)": ROW,
    }
    base_class: ClassVar[Any]
    """The base model that a model with a head is built on."""
    config: BertConfig

    def set_base(self, config: BertConfig, policy: Policy, **options: Any) -> Any:
        """Make the base model, under the name that it has in checkpoints."""
        base = self.base_class.part(config, policy, **options)
        setattr(self, self.base_model_prefix, base)
        return base

    def init_cache(self, batch_size: int, max_length: int, dtype: Any = None) -> Cache:
        if not self.config.is_decoder:
            raise ConfigError("a BERT that decodes with a cache needs is_decoder=True in its configuration")
        return super().init_cache(batch_size, max_length, dtype)


class BertModel(BertPreTrainedModel):
    """The encoder (or decoder) without a head, and the pooler unless `add_pooling_layer=False`."""

    input_embeddings = "embeddings.word_embeddings"
    position_embeddings = "embeddings.position_embeddings"

    def build(self, config: BertConfig, policy: Policy, *, add_pooling_layer: bool = True):
        self.embeddings = BertEmbeddings(config, policy)
        self.encoder = BertEncoder(config, policy)
        self.pooler = fresh(BertPooler(config, policy)) if add_pooling_layer else None

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
            token_type_ids, position_ids: int `[batch, q_len]`; zeros, and 0, 1, ... behind the cache.
            head_mask: `[layers, heads]` factors of the attention weights.
            encoder_hidden_states: `[batch, kv_len, hidden]` for cross-attention, with `encoder_attention_mask`.
            past_key_values: from `init_cache` or an earlier output; decoders only.
        """
        cache = None if past_key_values is None else past_key_values[0]
        words = embed(self.embeddings.word_embeddings, input_ids, inputs_embeds)
        shape = words.shape[:2]
        if position_ids is None:
            position_ids = self.positions(input_ids, (shape[0], shape[1]), 0 if cache is None else cache.length)
        keys = split_key(dropout_rng, 2)
        if self.config.is_decoder:
            mask = decoder_mask(attention_mask, shape[1], cache)
        else:
            mask = None if attention_mask is None else padding_mask(attention_mask)
        outputs = self.encode(
            self.embeddings(words, token_type_ids, position_ids, keys[0]),
            past_key_values=past_key_values,
            dropout_rng=keys[1],
            output_hidden_states=output_hidden_states,
            per_layer=None if head_mask is None else {"head_mask": head_mask},
            mask=mask,
            memory=encoder_hidden_states,
            memory_mask=None if encoder_attention_mask is None else padding_mask(encoder_attention_mask),
            output_attentions=output_attentions,
        )
        pooled = None if self.pooler is None else self.pooler(outputs.last_hidden_state)
        return BaseModelOutputWithPooling(pooler_output=pooled, **outputs._asdict())

    def encode(self, embeddings: jax.Array, **options: Any) -> StackOutput:
        """Run the layers; descendants add what comes before the first of them and behind the last."""
        return self.encoder.layer(embeddings, **options)

    def positions(self, input_ids: jax.Array | None, shape: tuple[int, int], start: jax.Array | int) -> jax.Array:
        """int `[batch, q_len]`, where none are given; `start` tokens are in the cache."""
        return jnp.broadcast_to((jnp.arange(shape[1]) + start)[None], shape)


BertPreTrainedModel.base_class = BertModel


class BertForPreTraining(BertPreTrainedModel):
    """Masked language modelling and next sentence prediction."""

    def build(self, config: BertConfig, policy: Policy):
        self.bert = BertModel.part(config, policy)
        self.cls = BertHeads(config, policy, self.bert.embeddings.word_embeddings, pairs=True)

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(
            PreTrainingOutput,
            prediction_logits=self.cls.predictions(outputs.last_hidden_state),
            seq_relationship_logits=self.cls.seq_relationship(outputs.pooler_output),
        )


class _BertWithLMHead(BertPreTrainedModel):
    def build(self, config: BertConfig, policy: Policy):
        self.bert = BertModel.part(config, policy, add_pooling_layer=False)
        self.cls = BertHeads(config, policy, self.bert.embeddings.word_embeddings, pairs=False)

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.cls.predictions.decoder


class BertForMaskedLM(_BertWithLMHead):
    """Masked language modelling."""

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(MaskedLMOutput, logits=self.cls.predictions(outputs.last_hidden_state))


class BertLMHeadModel(_BertWithLMHead):
    """Next token prediction; the configuration must have `is_decoder=True`."""

    predicts_next_token = True

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(CausalLMOutput, logits=self.cls.predictions(outputs.last_hidden_state))


BertForCausalLM = BertLMHeadModel
"""The name that the retired Flax class had."""


class BertForNextSentencePrediction(BertPreTrainedModel):
    """Does the second sentence follow the first? `logits` `[batch, 2]`, index 0 for yes."""

    def build(self, config: BertConfig, policy: Policy):
        self.bert = BertModel.part(config, policy)
        self.cls = BertHeads(config, policy, None, pairs=True)

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(SequenceClassifierOutput, logits=self.cls.seq_relationship(outputs.pooler_output))


class _BertWithClassifier(BertPreTrainedModel):
    """Dropout and one dense layer on top of the pooled (or of every) hidden state."""

    pools = True

    def build(self, config: BertConfig, policy: Policy):
        self.dropout_rate = config.classifier_rate
        self.set_base(config, policy, add_pooling_layer=self.pools)
        self.classifier = Linear(
            config.hidden_size, self.num_outputs(config), policy, init=normal(config.initializer_range)
        )

    @staticmethod
    def num_outputs(config: BertConfig) -> int:
        return config.num_labels

    def classify(self, outputs, dropout_rng):
        features = outputs.pooler_output if self.pools else outputs.last_hidden_state
        return self.classifier(dropout(features, self.dropout_rate, dropout_rng))


class BertForSequenceClassification(_BertWithClassifier):
    """Sentence (pair) classification or regression."""

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(SequenceClassifierOutput, logits=self.classify(outputs, dropout_rng))


class FirstTokenClassifier(BertPreTrainedModel):
    """Two dense layers on the first token, in place of BERT's pooler and one."""

    classifier_activation = "tanh"

    def build(self, config: Any, policy: Policy):
        self.set_base(config, policy, add_pooling_layer=False)
        self.classifier = ClassificationHead(
            config.hidden_size,
            config.num_labels,
            policy,
            dropout_rate=config.classifier_rate,
            init=normal(config.initializer_range),
            activation=self.classifier_activation,
        )

    def head(self, outputs, inputs, dropout_rng):
        logits = self.classifier(outputs.last_hidden_state[:, 0], dropout_rng)
        return outputs.to(SequenceClassifierOutput, logits=logits)


class BertForMultipleChoice(_BertWithClassifier):
    """Which of several choices? Inputs are `[batch, num_choices, q_len]`."""

    expected_inputs = PER_CHOICE

    @staticmethod
    def num_outputs(config: BertConfig) -> int:
        return 1

    def forward(self, **inputs):
        return score_choices(super().forward, inputs)

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(MultipleChoiceOutput, logits=self.classify(outputs, dropout_rng))


class BertForTokenClassification(_BertWithClassifier):
    """A label for each token."""

    pools = False

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(TokenClassifierOutput, logits=self.classify(outputs, dropout_rng))


class BertForQuestionAnswering(BertPreTrainedModel):
    """The span of the text that answers a question."""

    def build(self, config: BertConfig, policy: Policy):
        self.set_base(config, policy, add_pooling_layer=False)
        self.qa_outputs = Linear(config.hidden_size, 2, policy, init=normal(config.initializer_range))

    def head(self, outputs, inputs, dropout_rng):
        start, end = span_logits(self.qa_outputs, outputs.last_hidden_state)
        return outputs.to(
            QuestionAnsweringOutput,
            start_logits=start,
            end_logits=end,
        )

"""ALBERT (arXiv 1909.11942): BERT whose layers share their parameters, with small embeddings.

Parameter names and numerics follow the reference implementation in transformers (`AlbertModel`, `AlbertFor...`).
"""

from __future__ import annotations

import jax
from jax.nn.initializers import normal, zeros

from flaxmodels.fields import Activation, Layers, Rate, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.models.bert import (
    BertConfig,
    BertEmbeddings,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertPreTrainedModel,
    BertSelfAttention,
)
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.cache import LayerCache
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.linear import Embedding, LayerNorm, Linear, TiedLinear, vocabulary_projection
from flaxmodels.nn.module import Module, fresh, param
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.stack import BlockOutput, RepeatedStack
from flaxmodels.outputs import MaskedLMOutput, SentenceOrderOutput


class AlbertConfig(BertConfig):
    """Configuration of ALBERT; the defaults are those of transformers."""

    model_type = "albert"

    vocab_size: VocabSize = 30000
    embedding_size: Size = 128
    hidden_size: Size = 4096
    num_hidden_groups: Layers = 1
    num_attention_heads: Size = 64
    intermediate_size: Size = 16384
    inner_group_num: Size = 1
    hidden_act: Activation = "gelu_new"
    hidden_dropout_prob: Rate = 0.0
    attention_probs_dropout_prob: Rate = 0.0
    classifier_dropout_prob: Rate = 0.1
    bos_token_id: SpecialId | None = 2
    eos_token_id: SpecialIds | None = 3

    @property
    def classifier_dropout(self) -> float:
        """Its common name."""
        return self.classifier_dropout_prob

    @classifier_dropout.setter
    def classifier_dropout(self, rate: float | None) -> None:
        self.classifier_dropout_prob = self.classifier_dropout_prob if rate is None else rate

    def problems(self) -> list[str]:
        found = super().problems()
        if self.inner_group_num != 1:
            found.append(f"inner_group_num={self.inner_group_num}: only 1 is implemented")
        if self.is_decoder:
            found.append("is_decoder=True: ALBERT does not decode")
        return found


class AlbertAttention(BertSelfAttention):
    def __init__(self, config: AlbertConfig, policy: Policy):
        super().__init__(config, policy)
        self.output_dropout = config.hidden_dropout_prob
        self.dense = Linear(config.hidden_size, config.hidden_size, policy, init=normal(config.initializer_range))
        self.LayerNorm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps)

    def __call__(self, hidden_states, mask, memory, cache, head_mask, output_attentions, dropout_rng):
        inner, outer = split_key(dropout_rng, 2)
        mixed, weights, cache = super().__call__(
            hidden_states, mask, memory, cache, head_mask, output_attentions, inner
        )
        mixed = dropout(self.dense(mixed), self.output_dropout, outer)
        return self.LayerNorm(hidden_states + mixed), weights, cache


class AlbertLayer(Module):
    def __init__(self, config: AlbertConfig, policy: Policy):
        init = normal(config.initializer_range)
        self.activation = get_activation(config.hidden_act)
        self.full_layer_layer_norm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps)
        self.attention = AlbertAttention(config, policy)
        self.ffn = Linear(config.hidden_size, config.intermediate_size, policy, init=init)
        self.ffn_output = Linear(config.intermediate_size, config.hidden_size, policy, init=init)

    def __call__(self, hidden_states, mask, head_mask, output_attentions, dropout_rng):
        attended, weights, _ = self.attention(
            hidden_states, mask, None, None, head_mask, output_attentions, dropout_rng
        )
        fed = self.ffn_output(self.activation(self.ffn(attended)))
        return self.full_layer_layer_norm(fed + attended), weights


class AlbertLayerGroup(Module):
    """The parameters that several layers share."""

    def __init__(self, config: AlbertConfig, policy: Policy):
        self.albert_layers = RepeatedStack(lambda: AlbertLayer(config, policy), 1, 1, policy)

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
        layer = self.albert_layers[0]
        hidden_states, weights = layer(hidden_states, mask, head_mask, output_attentions, dropout_rng)
        return BlockOutput(hidden_states, cache, weights)


class AlbertTransformer(Module):
    """From the size of the embeddings to that of the layers, and through them."""

    def __init__(self, config: AlbertConfig, policy: Policy):
        init = normal(config.initializer_range)
        self.embedding_hidden_mapping_in = Linear(config.embedding_size, config.hidden_size, policy, init=init)
        self.albert_layer_groups = RepeatedStack(
            lambda: AlbertLayerGroup(config, policy), config.num_hidden_layers, config.num_hidden_groups, policy
        )

    def layer(self, embeddings: jax.Array, **options):
        """All layers."""
        return self.albert_layer_groups(self.embedding_hidden_mapping_in(embeddings), **options)


class AlbertPreTrainedModel(BertPreTrainedModel):
    """Base of the ALBERT models. All take the inputs of `BertModel.forward`."""

    config_class = AlbertConfig
    base_model_prefix = "albert"
    tp_plan = {"(attention/(query|key|value)|ffn|decoder)": COLUMN, "(attention/dense|ffn_output|word_embeddings)": ROW}
    config: AlbertConfig


class AlbertPooler(Linear):
    """The first token's hidden state through a dense layer and tanh."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.numpy.tanh(super().__call__(x[:, 0]))


class AlbertModel(AlbertPreTrainedModel, BertModel):
    """The encoder without a head, and the pooler unless `add_pooling_layer=False`."""

    def build(self, config: AlbertConfig, policy: Policy, *, add_pooling_layer: bool = True):
        self.embeddings = BertEmbeddings(config, policy)
        self.encoder = AlbertTransformer(config, policy)
        size, init = config.hidden_size, normal(config.initializer_range)
        self.pooler = fresh(AlbertPooler(size, size, policy, init=init)) if add_pooling_layer else None


AlbertPreTrainedModel.base_class = AlbertModel


class AlbertMLMHead(Module):
    """Dense layer, norm, and a projection to the vocabulary that shares the word embeddings if they are tied."""

    def __init__(self, config: AlbertConfig, policy: Policy, embeddings: Embedding):
        init = normal(config.initializer_range)
        self.activation = get_activation(config.hidden_act)
        self.LayerNorm = LayerNorm(config.embedding_size, policy, epsilon=config.layer_norm_eps)
        self.bias = param((config.vocab_size,), policy.param_dtype, zeros)
        self.dense = Linear(config.hidden_size, config.embedding_size, policy, init=init)
        tied = config.tie_word_embeddings
        self.decoder = vocabulary_projection(embeddings, policy, tied=tied, init=init, bias=self.bias)

    def __call__(self, hidden_states):
        return self.decoder(self.LayerNorm(self.activation(self.dense(hidden_states))))


class AlbertSOPHead(Module):
    """Are two sentences in their order?"""

    def __init__(self, config: AlbertConfig, policy: Policy):
        self.dropout_rate = config.classifier_dropout_prob
        self.classifier = Linear(config.hidden_size, config.num_labels, policy, init=normal(config.initializer_range))

    def __call__(self, pooled, dropout_rng):
        return self.classifier(dropout(pooled, self.dropout_rate, dropout_rng))


class AlbertForPreTraining(AlbertPreTrainedModel):
    """Masked language modelling and the order of sentences."""

    def build(self, config: AlbertConfig, policy: Policy):
        base = self.set_base(config, policy)
        self.predictions = AlbertMLMHead(config, policy, base.embeddings.word_embeddings)
        self.sop_classifier = AlbertSOPHead(config, policy)

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(
            SentenceOrderOutput,
            prediction_logits=self.predictions(outputs.last_hidden_state),
            sop_logits=self.sop_classifier(outputs.pooler_output, dropout_rng),
        )


class AlbertForMaskedLM(AlbertPreTrainedModel):
    """Masked language modelling."""

    def build(self, config: AlbertConfig, policy: Policy):
        base = self.set_base(config, policy, add_pooling_layer=False)
        self.predictions = AlbertMLMHead(config, policy, base.embeddings.word_embeddings)

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(MaskedLMOutput, logits=self.predictions(outputs.last_hidden_state))

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.predictions.decoder


class AlbertForSequenceClassification(AlbertPreTrainedModel, BertForSequenceClassification):
    """Sentence (pair) classification or regression."""


class AlbertForMultipleChoice(AlbertPreTrainedModel, BertForMultipleChoice):
    """Which of several choices? Inputs are `[batch, num_choices, q_len]`."""


class AlbertForTokenClassification(AlbertPreTrainedModel, BertForTokenClassification):
    """A label for each token."""


class AlbertForQuestionAnswering(AlbertPreTrainedModel, BertForQuestionAnswering):
    """The span of the text that answers a question."""

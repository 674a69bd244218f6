"""DistilBERT (arXiv 1910.01108): a BERT of half the layers, without token types and pooler.

Parameter names and numerics follow the reference implementation in transformers (`DistilBertModel`, ...).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn.initializers import normal, zeros

from flaxmodels.config import PreTrainedConfig
from flaxmodels.fields import Activation, Layers, Length, Rate, Scale, Size, SpecialId, VocabSize
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.heads import score_choices, span_logits
from flaxmodels.nn.inputs import PER_CHOICE
from flaxmodels.nn.linear import Embedding, LayerNorm, Linear, TiedLinear, embed, vocabulary_projection
from flaxmodels.nn.masks import padding_mask
from flaxmodels.nn.mlp import MLP
from flaxmodels.nn.module import Module, param
from flaxmodels.nn.multihead import MultiHeadAttention
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.stack import BlockOutput, Stack
from flaxmodels.outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    MultipleChoiceOutput,
    QuestionAnsweringOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

EPSILON = 1e-12


class DistilBertConfig(PreTrainedConfig):
    """Configuration of DistilBERT; the defaults are those of distilbert-base-uncased."""

    model_type = "distilbert"
    attribute_map = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
    multiples = (("dim", "n_heads"),)

    vocab_size: VocabSize = 30522
    max_position_embeddings: Length = 512
    sinusoidal_pos_embds: bool = False
    n_layers: Layers = 6
    n_heads: Size = 12
    dim: Size = 768
    hidden_dim: Size = 3072
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    activation: Activation = "gelu"
    initializer_range: Scale = 0.02
    qa_dropout: Rate = 0.1
    seq_classif_dropout: Rate = 0.2
    pad_token_id: SpecialId | None = 0


class DistilBertEmbeddings(Module):
    def __init__(self, config: DistilBertConfig, policy: Policy):
        init = normal(config.initializer_range)
        self.dropout_rate = config.dropout
        self.word_embeddings = Embedding(config.vocab_size, config.dim, policy, init=init)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.dim, policy, init=init)
        self.LayerNorm = LayerNorm(config.dim, policy, epsilon=EPSILON)

    def __call__(self, words, position_ids, dropout_rng):
        return dropout(self.LayerNorm(words + self.position_embeddings(position_ids)), self.dropout_rate, dropout_rng)


class DistilBertLayer(Module):
    def __init__(self, config: DistilBertConfig, policy: Policy):
        init = normal(config.initializer_range)
        self.attention = MultiHeadAttention(
            config.dim,
            config.n_heads,
            policy,
            dropout_rate=config.attention_dropout,
            names=("q_lin", "k_lin", "v_lin", "out_lin"),
            init=init,
        )
        self.sa_layer_norm = LayerNorm(config.dim, policy, epsilon=EPSILON)
        self.dropout_rate = config.dropout
        self.ffn = MLP(
            config.dim,
            config.hidden_dim,
            policy,
            activation=config.activation,
            names=("lin1", "lin2"),
            init=init,
        )
        self.output_layer_norm = LayerNorm(config.dim, policy, epsilon=EPSILON)

    def __call__(
        self,
        hidden_states: jax.Array,
        *,
        mask: jax.Array | None,
        cache: None = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BlockOutput:
        inner, outer = split_key(dropout_rng, 2)
        mixed, weights, _ = self.attention(hidden_states, mask, output_attentions=output_attentions, dropout_rng=inner)
        hidden_states = self.sa_layer_norm(mixed + hidden_states)
        fed = dropout(self.ffn(hidden_states), self.dropout_rate, outer)
        return BlockOutput(self.output_layer_norm(fed + hidden_states), cache, weights)


class DistilBertTransformer(Module):
    def __init__(self, config: DistilBertConfig, policy: Policy):
        self.layer = Stack(lambda: DistilBertLayer(config, policy), config.n_layers, policy)


class DistilBertPreTrainedModel(PreTrainedModel):
    """Base of the DistilBERT models. All take the inputs of `DistilBertModel.forward`."""

    config_class = DistilBertConfig
    base_model_prefix = "distilbert"
    ignored_names = (r"embeddings\.position_ids$",)
    tp_plan = {"(q_lin|k_lin|v_lin|lin1|vocab_projector)": COLUMN, "(out_lin|lin2|word_embeddings)": ROW}
    config: DistilBertConfig


class DistilBertModel(DistilBertPreTrainedModel):
    """The encoder without a head."""

    input_embeddings = "embeddings.word_embeddings"
    position_embeddings = "embeddings.position_embeddings"

    def build(self, config: DistilBertConfig, policy: Policy):
        self.embeddings = DistilBertEmbeddings(config, policy)
        self.transformer = DistilBertTransformer(config, policy)

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutput:
        """Encode.

        Args:
            input_ids: int `[batch, q_len]`; or `inputs_embeds` `[batch, q_len, hidden]` in its place.
            attention_mask: `[batch, q_len]`, 0 for padding.
            position_ids: int `[batch, q_len]`; 0, 1, ... if not given.
        """
        words = embed(self.embeddings.word_embeddings, input_ids, inputs_embeds)
        if position_ids is None:
            position_ids = jnp.broadcast_to(jnp.arange(words.shape[1])[None], words.shape[:2])
        keys = split_key(dropout_rng, 2)
        outputs = self.transformer.layer(
            self.embeddings(words, position_ids, keys[0]),
            dropout_rng=keys[1],
            output_hidden_states=output_hidden_states,
            mask=None if attention_mask is None else padding_mask(attention_mask),
            output_attentions=output_attentions,
        )
        return BaseModelOutput(**outputs._asdict())


class DistilBertForMaskedLM(DistilBertPreTrainedModel):
    """Masked language modelling."""

    def build(self, config: DistilBertConfig, policy: Policy):
        init = normal(config.initializer_range)
        self.activation = get_activation(config.activation)
        self.distilbert = DistilBertModel.part(config, policy)
        self.vocab_transform = Linear(config.dim, config.dim, policy, init=init)
        self.vocab_layer_norm = LayerNorm(config.dim, policy, epsilon=EPSILON)
        tied, bias = config.tie_word_embeddings, param((config.vocab_size,), policy.param_dtype, zeros)
        table = self.distilbert.embeddings.word_embeddings
        self.vocab_projector = vocabulary_projection(table, policy, tied=tied, init=init, bias=bias)

    def head(self, outputs, inputs, dropout_rng):
        hidden_states = self.activation(self.vocab_transform(outputs.last_hidden_state))
        return outputs.to(MaskedLMOutput, logits=self.vocab_projector(self.vocab_layer_norm(hidden_states)))

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.vocab_projector


class DistilBertForSequenceClassification(DistilBertPreTrainedModel):
    """Sentence (pair) classification or regression, by the first token."""

    def build(self, config: DistilBertConfig, policy: Policy):
        init = normal(config.initializer_range)
        self.distilbert = DistilBertModel.part(config, policy)
        self.pre_classifier = Linear(config.dim, config.dim, policy, init=init)
        self.classifier = Linear(config.dim, self.num_outputs(config), policy, init=init)

    @staticmethod
    def num_outputs(config: DistilBertConfig) -> int:
        return config.num_labels

    def classify(self, outputs, dropout_rng):
        first = jax.nn.relu(self.pre_classifier(outputs.last_hidden_state[:, 0]))
        return self.classifier(dropout(first, self.config.seq_classif_dropout, dropout_rng))

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(SequenceClassifierOutput, logits=self.classify(outputs, dropout_rng))


class DistilBertForMultipleChoice(DistilBertForSequenceClassification):
    """Which of several choices? Inputs are `[batch, num_choices, q_len]`."""

    expected_inputs = PER_CHOICE

    @staticmethod
    def num_outputs(config: DistilBertConfig) -> int:
        return 1

    def forward(self, **inputs):
        return score_choices(super().forward, inputs)

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(MultipleChoiceOutput, logits=self.classify(outputs, dropout_rng))


class DistilBertForTokenClassification(DistilBertPreTrainedModel):
    """A label for each token."""

    def build(self, config: DistilBertConfig, policy: Policy):
        self.distilbert = DistilBertModel.part(config, policy)
        self.classifier = Linear(config.dim, config.num_labels, policy, init=normal(config.initializer_range))

    def head(self, outputs, inputs, dropout_rng):
        logits = self.classifier(dropout(outputs.last_hidden_state, self.config.dropout, dropout_rng))
        return outputs.to(TokenClassifierOutput, logits=logits)


class DistilBertForQuestionAnswering(DistilBertPreTrainedModel):
    """The span of the text that answers a question."""

    def build(self, config: DistilBertConfig, policy: Policy):
        self.distilbert = DistilBertModel.part(config, policy)
        self.qa_outputs = Linear(config.dim, 2, policy, init=normal(config.initializer_range))

    def head(self, outputs, inputs, dropout_rng):
        hidden_states = dropout(outputs.last_hidden_state, self.config.qa_dropout, dropout_rng)
        start, end = span_logits(self.qa_outputs, hidden_states)
        return outputs.to(QuestionAnsweringOutput, start_logits=start, end_logits=end)

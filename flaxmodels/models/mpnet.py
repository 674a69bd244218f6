"""MPNet (arXiv 2004.09297): BERT without token types, whose layers share a bias by relative position.

Parameter names and numerics follow the reference implementation in transformers (`MPNetModel`, `MPNetFor...`).
"""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Interval
from jax.nn.initializers import normal

from flaxmodels.fields import MAX_SIZE, SpecialId, SpecialIds, VocabSize
from flaxmodels.models.bert import (
    BertConfig,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertIntermediate,
    BertOutput,
    BertPooler,
    BertPreTrainedModel,
    FirstTokenClassifier,
)
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.heads import MaskedLMHead
from flaxmodels.nn.inputs import DefaultPositions
from flaxmodels.nn.linear import Embedding, Linear, TiedLinear, embed
from flaxmodels.nn.masks import padding_mask
from flaxmodels.nn.module import Module, fresh
from flaxmodels.nn.multihead import MultiHeadAttention
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.relative import relative_buckets
from flaxmodels.nn.stack import BlockOutput, Stack
from flaxmodels.outputs import BaseModelOutputWithPooling, MaskedLMOutput

BUCKETS, MAX_DISTANCE = 32, 128
"""Of relative positions; the reference implementation uses these whatever a configuration says."""

PADDING = 1
"""The token that positions do not count, and its position; the same in every configuration."""


class MPNetConfig(BertConfig):
    """Configuration of MPNet; the defaults are those of transformers."""

    model_type = "mpnet"

    vocab_size: VocabSize = 30527
    relative_attention_num_buckets: Annotated[int, Interval(ge=BUCKETS, le=MAX_SIZE)] = BUCKETS
    pad_token_id: SpecialId | None = 1
    bos_token_id: SpecialId | None = 0
    eos_token_id: SpecialIds | None = 2

    def problems(self) -> list[str]:
        found = super().problems()
        if self.is_decoder:
            found.append("is_decoder=True: MPNet does not decode")
        return found


class MPNetEmbeddings(Module):
    def __init__(self, config: MPNetConfig, policy: Policy):
        init, features = normal(config.initializer_range), config.hidden_size
        self.dropout_rate = config.hidden_dropout_prob
        self.word_embeddings = Embedding(config.vocab_size, features, policy, init=init)
        self.position_embeddings = Embedding(config.max_position_embeddings, features, policy, init=init)
        self.LayerNorm = config.norm(policy)

    def __call__(self, words, position_ids, dropout_rng):
        return dropout(self.LayerNorm(words + self.position_embeddings(position_ids)), self.dropout_rate, dropout_rng)


class MPNetAttention(Module):
    def __init__(self, config: MPNetConfig, policy: Policy):
        self.dropout_rate = config.hidden_dropout_prob
        self.attn = MultiHeadAttention(
            config.hidden_size,
            config.num_attention_heads,
            policy,
            dropout_rate=config.attention_probs_dropout_prob,
            names=("q", "k", "v", "o"),
            init=normal(config.initializer_range),
        )
        self.LayerNorm = config.norm(policy)

    def __call__(self, hidden_states, mask, bias, output_attentions, dropout_rng):
        inner, outer = split_key(dropout_rng, 2)
        options = {"output_attentions": output_attentions, "dropout_rng": inner}
        mixed, weights, _ = self.attn(hidden_states, mask, bias=bias, **options)
        return self.LayerNorm(dropout(mixed, self.dropout_rate, outer) + hidden_states), weights


class MPNetLayer(Module):
    def __init__(self, config: MPNetConfig, policy: Policy):
        self.attention = MPNetAttention(config, policy)
        self.intermediate = BertIntermediate(config, policy)
        self.output = BertOutput(config.intermediate_size, config, policy)

    def __call__(
        self,
        hidden_states: jax.Array,
        *,
        mask: jax.Array | None,
        bias: jax.Array,
        cache: None = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BlockOutput:
        inner, outer = split_key(dropout_rng, 2)
        hidden_states, weights = self.attention(hidden_states, mask, bias, output_attentions, inner)
        return BlockOutput(self.output(self.intermediate(hidden_states), hidden_states, outer), cache, weights)


class MPNetEncoder(Module):
    """The layers, and the bias of attention scores that they share."""

    def __init__(self, config: MPNetConfig, policy: Policy):
        self.layer = Stack(lambda: MPNetLayer(config, policy), config.num_hidden_layers, policy)
        rows, heads, init = config.relative_attention_num_buckets, config.num_attention_heads, config.initializer_range
        self.relative_attention_bias = Embedding(rows, heads, policy, init=normal(init))

    def __call__(self, hidden_states: jax.Array, **options: Any):
        places = jnp.arange(hidden_states.shape[1])
        relative = places[None] - places[:, None]
        buckets = relative_buckets(relative, bidirectional=True, buckets=BUCKETS, max_distance=MAX_DISTANCE)
        bias = jnp.moveaxis(self.relative_attention_bias(buckets), -1, 0)[None]
        return self.layer(hidden_states, bias=bias, **options)


class MPNetPreTrainedModel(BertPreTrainedModel):
    """Base of the MPNet models. All take the inputs of `MPNetModel.forward`."""

    config_class = MPNetConfig
    base_model_prefix = "mpnet"
    tp_plan = {
        "(attn/(q|k|v)|intermediate/dense|lm_head/decoder)": COLUMN,
        "(attn/o|output/dense|word_embeddings)": ROW,
    }
    config: MPNetConfig


class MPNetModel(MPNetPreTrainedModel):
    """The encoder without a head, and the pooler unless `add_pooling_layer=False`."""

    input_embeddings = "embeddings.word_embeddings"
    position_embeddings = "embeddings.position_embeddings"

    @property
    def default_positions(self) -> DefaultPositions:
        return DefaultPositions(PADDING + 1, ("input_ids", PADDING))

    def build(self, config: MPNetConfig, policy: Policy, *, add_pooling_layer: bool = True):
        self.embeddings = MPNetEmbeddings(config, policy)
        self.encoder = MPNetEncoder(config, policy)
        self.pooler = fresh(BertPooler(config, policy)) if add_pooling_layer else None

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutputWithPooling:
        """Encode.

        Args:
            input_ids: int `[batch, q_len]`; or `inputs_embeds` `[batch, q_len, hidden]` in its place.
            attention_mask: `[batch, q_len]`, 0 for padding.
            position_ids: int `[batch, q_len]`; tokens but those of id 1 are counted from 2 on if not given.
        """
        words = embed(self.embeddings.word_embeddings, input_ids, inputs_embeds)
        if position_ids is None:
            counted = jnp.ones(words.shape[:2], jnp.int32) if input_ids is None else (input_ids != PADDING).astype(int)
            position_ids = counted.cumsum(-1) * counted + PADDING
        keys = split_key(dropout_rng, 2)
        outputs = self.encoder(
            self.embeddings(words, position_ids, keys[0]),
            dropout_rng=keys[1],
            output_hidden_states=output_hidden_states,
            mask=None if attention_mask is None else padding_mask(attention_mask),
            output_attentions=output_attentions,
        )
        pooled = None if self.pooler is None else self.pooler(outputs.last_hidden_state)
        return BaseModelOutputWithPooling(pooler_output=pooled, **outputs._asdict())


MPNetPreTrainedModel.base_class = MPNetModel


class MPNetForMaskedLM(MPNetPreTrainedModel):
    """Masked language modelling."""

    def build(self, config: MPNetConfig, policy: Policy):
        base = self.set_base(config, policy, add_pooling_layer=False)
        self.lm_head = MaskedLMHead(
            config.hidden_size,
            base.embeddings.word_embeddings,
            policy,
            epsilon=config.layer_norm_eps,
            tied=config.tie_word_embeddings,
            init=normal(config.initializer_range),
        )

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(MaskedLMOutput, logits=self.lm_head(outputs.last_hidden_state))

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.lm_head.decoder


class MPNetForSequenceClassification(MPNetPreTrainedModel, FirstTokenClassifier):
    """Sentence (pair) classification or regression, by the first token."""


class MPNetForMultipleChoice(MPNetPreTrainedModel, BertForMultipleChoice):
    """Which of several choices? Inputs are `[batch, num_choices, q_len]`."""


class MPNetForTokenClassification(MPNetPreTrainedModel, BertForTokenClassification):
    """A label for each token."""


class MPNetForQuestionAnswering(MPNetPreTrainedModel, BertForQuestionAnswering):
    """The span of the text that answers a question."""

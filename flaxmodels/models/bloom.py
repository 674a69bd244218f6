"""BLOOM (arXiv 2211.05100): decoder whose attention favours near tokens (ALiBi, arXiv 2108.12409), without positions.

Parameter names and numerics follow the reference implementation in transformers (`BloomModel`, `BloomFor...`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import normal

from flaxmodels.config import PreTrainedConfig
from flaxmodels.fields import Epsilon, Layers, Rate, Scale, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.models.gpt2 import (
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2PreTrainedModel,
)
from flaxmodels.nn.alibi import alibi_bias
from flaxmodels.nn.cache import Cache, LayerCache, self_attention_cache
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.inputs import PADDING_MASK
from flaxmodels.nn.linear import Embedding, LayerNorm, embed
from flaxmodels.nn.masks import decoder_mask, token_positions
from flaxmodels.nn.mlp import MLP
from flaxmodels.nn.module import Module
from flaxmodels.nn.multihead import FusedAttention
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.stack import BlockOutput, Stack
from flaxmodels.outputs import BaseModelOutput


class BloomConfig(PreTrainedConfig):
    """Configuration of BLOOM; the defaults are those of transformers, a tiny model."""

    model_type = "bloom"
    attribute_map = {"n_embed": "hidden_size", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
    multiples = (("hidden_size", "n_head"),)

    vocab_size: VocabSize = 250880
    hidden_size: Size = 64
    n_layer: Layers = 2
    n_head: Size = 8
    layer_norm_epsilon: Epsilon = 1e-5
    initializer_range: Scale = 0.02
    use_cache: bool = True
    bos_token_id: SpecialId | None = 1
    eos_token_id: SpecialIds | None = 2
    apply_residual_connection_post_layernorm: bool = False
    hidden_dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    pretraining_tp: Size = 1
    slow_but_exact: bool = False

    def problems(self) -> list[str]:
        found = super().problems()
        if self.slow_but_exact and self.pretraining_tp > 1:
            found.append(f"slow_but_exact=True with pretraining_tp={self.pretraining_tp} is not implemented")
        return found


class BloomBlock(Module):
    """Attention and MLP, each with a norm before it; the residuals are what comes before the norms, or behind them."""

    def __init__(self, config: BloomConfig, policy: Policy):
        self.dropout_rate = config.hidden_dropout
        self.keeps_normed = config.apply_residual_connection_post_layernorm
        self.input_layernorm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_epsilon)
        hidden, init = config.hidden_size, normal(config.initializer_range)
        self.self_attention = FusedAttention(
            hidden, config.n_head, policy, dropout_rate=config.attention_dropout, init=init
        )
        self.post_attention_layernorm = LayerNorm(hidden, policy, epsilon=config.layer_norm_epsilon)
        names = ("dense_h_to_4h", "dense_4h_to_h")
        self.mlp = MLP(hidden, 4 * hidden, policy, activation="gelu_new", names=names, init=init)

    def __call__(
        self,
        hidden_states: jax.Array,
        *,
        mask: jax.Array,
        bias: jax.Array,
        cache: LayerCache | None = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BlockOutput:
        keys, normed = split_key(dropout_rng, 3), self.input_layernorm(hidden_states)
        mixed, weights, cache = self.self_attention(
            normed, mask, bias=bias, cache=cache, output_attentions=output_attentions, dropout_rng=keys[0]
        )
        residual = normed if self.keeps_normed else hidden_states
        hidden_states = residual + dropout(mixed, self.dropout_rate, keys[1])
        normed = self.post_attention_layernorm(hidden_states)
        residual = normed if self.keeps_normed else hidden_states
        return BlockOutput(residual + dropout(self.mlp(normed), self.dropout_rate, keys[2]), cache, weights)


class BloomPreTrainedModel(GPT2PreTrainedModel):
    """Base of the BLOOM models. All take the inputs of `BloomModel.forward`."""

    config_class = BloomConfig
    ignored_names = ()
    tp_plan = {
        "(query_key_value|dense_h_to_4h|lm_head)": COLUMN,
        "(self_attention/dense|dense_4h_to_h|word_embeddings)": ROW,
    }

    def prepare_inputs_for_generation(
        self, input_ids: jax.Array, attention_mask: jax.Array, position_ids: jax.Array, cache: Cache
    ) -> dict[str, Any]:
        """As for all, without positions."""
        inputs = super().prepare_inputs_for_generation(input_ids, attention_mask, position_ids, cache)
        return {name: value for name, value in inputs.items() if name != "position_ids"}


class BloomModel(BloomPreTrainedModel):
    """The decoder without a head."""

    input_embeddings = "word_embeddings"
    expected_inputs = {"attention_mask": PADDING_MASK}

    def build(self, config: BloomConfig, policy: Policy):
        init = normal(config.initializer_range)
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size, policy, init=init)
        self.word_embeddings_layernorm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_epsilon)
        self.h = Stack(lambda: BloomBlock(config, policy), config.n_layer, policy)
        self.ln_f = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_epsilon)

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutput:
        """Decode.

        Args:
            input_ids: int `[batch, q_len]`; or `inputs_embeds` `[batch, q_len, hidden]` in its place.
            attention_mask: `[batch, kv_len]`, 0 for padding, which counts in no distance; with a cache it speaks of the
                whole text.
            past_key_values: from `init_cache` or an earlier output.
        """
        words = embed(self.word_embeddings, input_ids, inputs_embeds)
        q_len = words.shape[1]
        cache = None if past_key_values is None else self_attention_cache(past_key_values)
        places = jnp.arange(q_len) if cache is None else cache.key_positions(q_len)
        outputs = self.h(
            self.word_embeddings_layernorm(words),
            past_key_values=past_key_values,
            dropout_rng=dropout_rng,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            mask=decoder_mask(attention_mask, q_len, cache),
            bias=alibi_bias(self.config.n_head, token_positions(attention_mask, places)),
        )
        return BaseModelOutput(**outputs.normed(self.ln_f)._asdict())


BloomPreTrainedModel.base_class = BloomModel


class BloomForCausalLM(BloomPreTrainedModel, GPT2LMHeadModel):
    """Next token prediction."""


class BloomForSequenceClassification(BloomPreTrainedModel, GPT2ForSequenceClassification):
    """Classification of a sequence by its last token that is not padding."""


class BloomForTokenClassification(BloomPreTrainedModel, GPT2ForTokenClassification):
    """Classification of each token."""


class BloomForQuestionAnswering(BloomPreTrainedModel, GPT2ForQuestionAnswering):
    """Where in the text the answer begins and ends."""

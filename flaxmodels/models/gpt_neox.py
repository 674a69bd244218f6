"""GPT-NeoX (arXiv 2204.06745) and Pythia (arXiv 2304.01373): rotary positions, attention beside the MLP.

Parameter names and numerics follow the reference implementation in transformers (`GPTNeoXModel`, `GPTNeoXFor...`).
"""

from __future__ import annotations

from typing import Any

import jax
from jax.nn.initializers import normal

from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import ConfigError
from flaxmodels.fields import (
    ABSENT,
    Activation,
    Epsilon,
    Layers,
    Length,
    Positive,
    Rate,
    Scale,
    Size,
    SpecialId,
    SpecialIds,
    VocabSize,
)
from flaxmodels.models.gpt2 import (
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2PreTrainedModel,
)
from flaxmodels.nn.cache import Cache, LayerCache, self_attention_cache
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.linear import Embedding, LayerNorm, embed
from flaxmodels.nn.masks import decoder_mask, new_places
from flaxmodels.nn.mlp import MLP
from flaxmodels.nn.module import Module
from flaxmodels.nn.multihead import FusedAttention
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.rope import RopeConfig, rope_parameters, rope_tables
from flaxmodels.nn.stack import BlockOutput, Stack
from flaxmodels.outputs import BaseModelOutput


class GPTNeoXConfig(PreTrainedConfig):
    """Configuration of GPT-NeoX; the defaults are those of GPT-NeoX 20B."""

    model_type = "gpt_neox"
    multiples = (("hidden_size", "num_attention_heads"),)

    vocab_size: VocabSize = 50432
    hidden_size: Size = 6144
    num_hidden_layers: Layers = 44
    num_attention_heads: Size = 64
    intermediate_size: Size = 24576
    hidden_act: Activation = "gelu"
    rotary_pct: Positive = 0.25
    rotary_emb_base: Positive = 10000
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_theta: Positive | None = ABSENT
    partial_rotary_factor: Positive | None = ABSENT
    original_max_position_embeddings: Length | None = ABSENT
    attention_dropout: Rate = 0.0
    hidden_dropout: Rate = 0.0
    classifier_dropout: Rate | None = 0.1
    max_position_embeddings: Length = 2048
    initializer_range: Scale = 0.02
    layer_norm_eps: Epsilon = 1e-5
    use_cache: bool = True
    bos_token_id: SpecialId | None = 0
    eos_token_id: SpecialIds | None = 2
    tie_word_embeddings: bool = False
    use_parallel_residual: bool = True
    attention_bias: bool = True

    def problems(self) -> list[str]:
        found = super().problems()
        try:
            self.rope  # noqa: B018
        except ConfigError as error:
            found.append(str(error))
        return found

    @property
    def rope(self) -> RopeConfig:
        """The rotary embedding, which v4 and v5 describe in different fields."""
        v4 = {"rope_theta": self.rotary_emb_base, "partial_rotary_factor": self.rotary_pct}
        return RopeConfig.from_parameters(
            rope_parameters(vars(self) | v4),
            head_dim=self.features_per_head,
            max_position_embeddings=self.max_position_embeddings,
        )


class GPTNeoXLayer(Module):
    """Attention and MLP beside each other, each with a norm of its own, or one behind the other."""

    def __init__(self, config: GPTNeoXConfig, policy: Policy):
        self.is_parallel, self.dropout_rate = config.use_parallel_residual, config.hidden_dropout
        self.input_layernorm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps)
        self.post_attention_layernorm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps)
        init = normal(config.initializer_range)
        self.attention = FusedAttention(
            config.hidden_size,
            config.num_attention_heads,
            policy,
            dropout_rate=config.attention_dropout,
            use_bias=config.attention_bias,
            init=init,
        )
        self.mlp = MLP(
            config.hidden_size,
            config.intermediate_size,
            policy,
            activation=config.hidden_act,
            names=("dense_h_to_4h", "dense_4h_to_h"),
            init=init,
        )

    def __call__(
        self,
        hidden_states: jax.Array,
        *,
        mask: jax.Array,
        rope: tuple[jax.Array, jax.Array],
        cache: LayerCache | None = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BlockOutput:
        keys, normed = split_key(dropout_rng, 3), self.input_layernorm(hidden_states)
        mixed, weights, cache = self.attention(
            normed, mask, rope=rope, cache=cache, output_attentions=output_attentions, dropout_rng=keys[0]
        )
        attended = hidden_states + dropout(mixed, self.dropout_rate, keys[1])
        fed = self.mlp(self.post_attention_layernorm(hidden_states if self.is_parallel else attended))
        return BlockOutput(attended + dropout(fed, self.dropout_rate, keys[2]), cache, weights)


class GPTNeoXPreTrainedModel(GPT2PreTrainedModel):
    """Base of the GPT-NeoX models. All take the inputs of `GPTNeoXModel.forward`."""

    config_class = GPTNeoXConfig
    base_model_prefix = "gpt_neox"
    ignored_names = (r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$",)
    tp_plan = {
        "(query_key_value|dense_h_to_4h|embed_out)": COLUMN,
        "(attention/dense|dense_4h_to_h|embed_in)": ROW,
    }


class GPTNeoXModel(GPTNeoXPreTrainedModel):
    """The decoder without a head."""

    input_embeddings = "embed_in"

    def build(self, config: GPTNeoXConfig, policy: Policy):
        init = normal(config.initializer_range)
        self.embed_in = Embedding(config.vocab_size, config.hidden_size, policy, init=init)
        self.layers = Stack(lambda: GPTNeoXLayer(config, policy), config.num_hidden_layers, policy)
        self.final_layer_norm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps)

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
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
            attention_mask: `[batch, kv_len]`, 0 for padding; with a cache it speaks of the whole text.
            position_ids: int `[batch, q_len]`; 0, 1, ... behind the cache.
            past_key_values: from `init_cache` or an earlier output.
        """
        words = embed(self.embed_in, input_ids, inputs_embeds)
        q_len = words.shape[1]
        cache = None if past_key_values is None else self_attention_cache(past_key_values)
        if position_ids is None:
            position_ids = new_places(q_len, cache)[None]
        keys = split_key(dropout_rng, 2)
        outputs = self.layers(
            dropout(words, self.config.hidden_dropout, keys[0]),
            past_key_values=past_key_values,
            dropout_rng=keys[1],
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            mask=decoder_mask(attention_mask, q_len, cache),
            rope=rope_tables(self.config.rope, position_ids),
        )
        return BaseModelOutput(**outputs.normed(self.final_layer_norm)._asdict())


GPTNeoXPreTrainedModel.base_class = GPTNeoXModel


class GPTNeoXForCausalLM(GPTNeoXPreTrainedModel, GPT2LMHeadModel):
    """Next token prediction."""

    head_name = "embed_out"
    other_names = {r"^embed_out\.": "lm_head."}


class GPTNeoXForSequenceClassification(GPTNeoXPreTrainedModel, GPT2ForSequenceClassification):
    """Classification of a sequence by its last token that is not padding."""


class GPTNeoXForTokenClassification(GPTNeoXPreTrainedModel, GPT2ForTokenClassification):
    """Classification of each token."""


class GPTNeoXForQuestionAnswering(GPTNeoXPreTrainedModel, GPT2ForQuestionAnswering):
    """Where in the text the answer begins and ends."""

"""GPT-J (github.com/kingoflolz/mesh-transformer-jax): rotary positions (arXiv 2104.09864), attention beside the MLP.

Parameter names and numerics follow the reference implementation in transformers (`GPTJModel`, `GPTJFor...`).
"""

from __future__ import annotations

import jax
from jax.nn.initializers import normal

from flaxmodels.config import PreTrainedConfig
from flaxmodels.fields import Activation, Epsilon, Layers, Length, Rate, Scale, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.models.gpt2 import (
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2PreTrainedModel,
)
from flaxmodels.nn.attention import cached_attention, split_heads
from flaxmodels.nn.cache import Cache, LayerCache, self_attention_cache
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.linear import Embedding, LayerNorm, Linear, embed
from flaxmodels.nn.masks import decoder_mask, new_places
from flaxmodels.nn.mlp import MLP
from flaxmodels.nn.module import Module
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.rope import RopeConfig, apply_interleaved_rope, rope_tables
from flaxmodels.nn.stack import BlockOutput, Stack
from flaxmodels.outputs import BaseModelOutput


class GPTJConfig(PreTrainedConfig):
    """Configuration of GPT-J; the defaults are those of GPT-J 6B."""

    model_type = "gptj"
    attribute_map = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }
    multiples = (("n_embd", "n_head"),)

    vocab_size: VocabSize = 50400
    n_positions: Length = 2048
    n_embd: Size = 4096
    n_layer: Layers = 28
    n_head: Size = 16
    rotary_dim: Size | None = 64
    n_inner: Size | None = None
    activation_function: Activation = "gelu_new"
    resid_pdrop: Rate = 0.0
    embd_pdrop: Rate = 0.0
    attn_pdrop: Rate = 0.0
    layer_norm_epsilon: Epsilon = 1e-5
    initializer_range: Scale = 0.02
    use_cache: bool = True
    bos_token_id: SpecialId | None = 50256
    eos_token_id: SpecialIds | None = 50256
    tie_word_embeddings: bool = False

    def problems(self) -> list[str]:
        found = super().problems()
        if not 0 < self.rope.rotary_dim <= self.features_per_head or self.rope.rotary_dim % 2:
            most = self.features_per_head
            found.append(f"rotary_dim={self.rotary_dim}: expected an even number up to n_embd / n_head = {most}")
        return found

    @property
    def rope(self) -> RopeConfig:
        """The rotary embedding; without `rotary_dim` all features turn, of which there must then be one head."""
        rotary_dim = self.n_embd if self.rotary_dim is None else self.rotary_dim
        return RopeConfig(rotary_dim, self.n_positions)


class GPTJAttention(Module):
    def __init__(self, config: GPTJConfig, policy: Policy):
        self.heads, self.implementation = config.n_head, policy.attn_implementation
        self.attn_dropout, self.resid_dropout = config.attn_pdrop, config.resid_pdrop
        kwargs = {"use_bias": False, "init": normal(config.initializer_range)}
        self.k_proj = Linear(config.n_embd, config.n_embd, policy, **kwargs)
        self.v_proj = Linear(config.n_embd, config.n_embd, policy, **kwargs)
        self.q_proj = Linear(config.n_embd, config.n_embd, policy, **kwargs)
        self.out_proj = Linear(config.n_embd, config.n_embd, policy, **kwargs)

    def __call__(self, hidden_states, mask, rope, cache, output_attentions, dropout_rng):
        inner, outer = split_key(dropout_rng, 2)
        layers = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (split_heads(layer(hidden_states), self.heads) for layer in layers)
        mixed, weights, cache = cached_attention(
            apply_interleaved_rope(query, *rope),
            apply_interleaved_rope(key, *rope),
            value,
            mask,
            cache,
            implementation=self.implementation,
            return_weights=output_attentions,
            dropout_rate=self.attn_dropout,
            dropout_rng=inner,
        )
        return dropout(self.out_proj(mixed), self.resid_dropout, outer), weights, cache


class GPTJBlock(Module):
    """Attention and MLP of the same normed states."""

    def __init__(self, config: GPTJConfig, policy: Policy):
        self.ln_1 = LayerNorm(config.n_embd, policy, epsilon=config.layer_norm_epsilon)
        self.attn = GPTJAttention(config, policy)
        self.dropout_rate = config.resid_pdrop
        self.mlp = MLP(
            config.n_embd,
            config.n_inner or 4 * config.n_embd,
            policy,
            activation=config.activation_function,
            names=("fc_in", "fc_out"),
            init=normal(config.initializer_range),
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
        keys, normed = split_key(dropout_rng, 2), self.ln_1(hidden_states)
        mixed, weights, cache = self.attn(normed, mask, rope, cache, output_attentions, keys[0])
        fed = dropout(self.mlp(normed), self.dropout_rate, keys[1])
        return BlockOutput(hidden_states + mixed + fed, cache, weights)


class GPTJPreTrainedModel(GPT2PreTrainedModel):
    """Base of the GPT-J models. All take the inputs of `GPTJModel.forward`."""

    config_class = GPTJConfig
    ignored_names = (r"\.attn\.(bias|masked_bias)$",)
    tp_plan = {"(q_proj|k_proj|v_proj|fc_in|lm_head)": COLUMN, "(out_proj|fc_out|wte)": ROW}


class GPTJModel(GPTJPreTrainedModel):
    """The decoder without a head."""

    input_embeddings = "wte"

    def build(self, config: GPTJConfig, policy: Policy):
        self.wte = Embedding(config.vocab_size, config.n_embd, policy, init=normal(config.initializer_range))
        self.h = Stack(lambda: GPTJBlock(config, policy), config.n_layer, policy)
        self.ln_f = LayerNorm(config.n_embd, policy, epsilon=config.layer_norm_epsilon)

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
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
            token_type_ids: int `[batch, q_len]`, looked up among the words.
            position_ids: int `[batch, q_len]`; 0, 1, ... behind the cache.
            past_key_values: from `init_cache` or an earlier output.
        """
        hidden_states = embed(self.wte, input_ids, inputs_embeds)
        if token_type_ids is not None:
            hidden_states = hidden_states + self.wte(token_type_ids)
        q_len = hidden_states.shape[1]
        cache = None if past_key_values is None else self_attention_cache(past_key_values)
        if position_ids is None:
            position_ids = new_places(q_len, cache)[None]
        keys = split_key(dropout_rng, 2)
        outputs = self.h(
            dropout(hidden_states, self.config.embd_pdrop, keys[0]),
            past_key_values=past_key_values,
            dropout_rng=keys[1],
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            mask=decoder_mask(attention_mask, q_len, cache),
            rope=rope_tables(self.config.rope, position_ids),
        )
        return BaseModelOutput(**outputs.normed(self.ln_f)._asdict())


GPTJPreTrainedModel.base_class = GPTJModel


class GPTJForCausalLM(GPTJPreTrainedModel, GPT2LMHeadModel):
    """Next token prediction."""

    head_has_bias = True


class GPTJForSequenceClassification(GPTJPreTrainedModel, GPT2ForSequenceClassification):
    """Classification of a sequence by its last token that is not padding."""


class GPTJForQuestionAnswering(GPTJPreTrainedModel, GPT2ForQuestionAnswering):
    """Where in the text the answer begins and ends."""

"""Llama (arXiv 2302.13971, 2307.09288, 2407.21783): decoder with rotary positions, grouped heads and gated MLP.

Parameter names and numerics follow the reference implementation in transformers (`LlamaModel`, `LlamaFor...`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn.initializers import normal

from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import ConfigError
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.activations import ACTIVATIONS, get_activation
from flaxmodels.nn.attention import dot_product_attention, merge_heads, split_heads
from flaxmodels.nn.cache import Cache, LayerCache, self_attention_cache
from flaxmodels.nn.heads import last_token
from flaxmodels.nn.linear import Embedding, Linear, RMSNorm, TiedLinear, embed
from flaxmodels.nn.masks import decoder_masks
from flaxmodels.nn.module import Module
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.rope import RopeConfig, apply_rope, rope_parameters, rope_tables
from flaxmodels.nn.stack import BlockOutput, Stack
from flaxmodels.outputs import BaseModelOutput, CausalLMOutput, SequenceClassifierOutput


class LlamaConfig(PreTrainedConfig):
    """Configuration of Llama; the defaults are those of Llama 7B."""

    model_type = "llama"

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False
    rope_theta: float | None = None
    rope_scaling: dict | None = None
    rope_parameters: dict | None = None
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    use_cache: bool = True

    def problems(self) -> list[str]:
        found = []
        if self.hidden_act not in ACTIVATIONS:
            found.append(f"hidden_act={self.hidden_act!r}: expected one of {', '.join(sorted(ACTIVATIONS))}")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            found.append(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}"
            )
        if self.num_attention_heads % self.kv_heads:
            found.append(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.kv_heads}"
            )
        try:
            self.rope  # noqa: B018
        except ConfigError as error:
            found.append(str(error))
        return found

    @property
    def rope(self) -> RopeConfig:
        """The rotary embedding that this configuration, of v4 or v5, describes."""
        return RopeConfig.from_parameters(
            rope_parameters(vars(self)),
            head_dim=self.features_per_head,
            max_position_embeddings=self.max_position_embeddings,
        )


class LlamaAttention(Module):
    def __init__(self, config: LlamaConfig, policy: Policy):
        self.heads, self.kv_heads = config.num_attention_heads, config.kv_heads
        self.implementation = policy.attn_implementation
        self.dropout_rate = config.attention_dropout
        hidden, head_dim = config.hidden_size, config.features_per_head
        kwargs = {"use_bias": config.attention_bias, "init": normal(config.initializer_range)}
        self.q_proj = Linear(hidden, self.heads * head_dim, policy, **kwargs)
        self.k_proj = Linear(hidden, self.kv_heads * head_dim, policy, **kwargs)
        self.v_proj = Linear(hidden, self.kv_heads * head_dim, policy, **kwargs)
        self.o_proj = Linear(self.heads * head_dim, hidden, policy, **kwargs)

    def __call__(self, hidden_states, mask, rope, cache, output_attentions, dropout_rng):
        query = apply_rope(split_heads(self.q_proj(hidden_states), self.heads), *rope)
        key = apply_rope(split_heads(self.k_proj(hidden_states), self.kv_heads), *rope)
        value = split_heads(self.v_proj(hidden_states), self.kv_heads)
        if cache is not None:
            cache, key, value = cache.extend(key, value)
        mixed, weights = dot_product_attention(
            query,
            key,
            value,
            mask,
            implementation=self.implementation,
            return_weights=output_attentions,
            dropout_rate=self.dropout_rate,
            dropout_rng=dropout_rng,
        )
        return self.o_proj(merge_heads(mixed)), weights, cache


class LlamaMLP(Module):
    """`down(act(gate(x)) * up(x))` (SwiGLU, arXiv 2002.05202)."""

    def __init__(self, config: LlamaConfig, policy: Policy):
        self.activation = get_activation(config.hidden_act)
        hidden, inner = config.hidden_size, config.intermediate_size
        kwargs = {"use_bias": config.mlp_bias, "init": normal(config.initializer_range)}
        self.gate_proj = Linear(hidden, inner, policy, **kwargs)
        self.up_proj = Linear(hidden, inner, policy, **kwargs)
        self.down_proj = Linear(inner, hidden, policy, **kwargs)

    def __call__(self, hidden_states):
        return self.down_proj(self.activation(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class LlamaDecoderLayer(Module):
    def __init__(self, config: LlamaConfig, policy: Policy):
        self.self_attn = LlamaAttention(config, policy)
        self.mlp = LlamaMLP(config, policy)
        self.input_layernorm = RMSNorm(config.hidden_size, policy, epsilon=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, policy, epsilon=config.rms_norm_eps)

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
        mixed, weights, cache = self.self_attn(
            self.input_layernorm(hidden_states), mask, rope, cache, output_attentions, dropout_rng
        )
        hidden_states = hidden_states + mixed
        hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return BlockOutput(hidden_states, cache, weights)


class LlamaPreTrainedModel(PreTrainedModel):
    """Base of the Llama models. All take the inputs of `LlamaModel.forward`."""

    config_class = LlamaConfig
    base_model_prefix = "model"
    ignored_names = (r"rotary_emb\.inv_freq$",)
    tp_plan = {
        "(q_proj|k_proj|v_proj|gate_proj|up_proj|lm_head)": COLUMN,
        "(o_proj|down_proj|embed_tokens)": ROW,
    }
    config: LlamaConfig


class LlamaModel(LlamaPreTrainedModel):
    """The decoder without a head."""

    def build(self, config: LlamaConfig, policy: Policy):
        init = normal(config.initializer_range)
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, policy, init=init)
        self.layers = Stack(lambda: LlamaDecoderLayer(config, policy), config.num_hidden_layers, policy)
        self.norm = RMSNorm(config.hidden_size, policy, epsilon=config.rms_norm_eps)

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
            attention_mask: `[batch, kv_len]`, 0 for padding; with a cache it speaks of the cache's slots.
            position_ids: int `[batch, q_len]`; 0, 1, ... behind the cache.
            past_key_values: from `init_cache` or an earlier output.
        """
        hidden_states = embed(self.embed_tokens, input_ids, inputs_embeds)
        q_len = hidden_states.shape[1]
        if position_ids is None:
            start = 0 if past_key_values is None else self_attention_cache(past_key_values).length
            position_ids = jnp.arange(q_len)[None] + start
        outputs = self.layers(
            hidden_states,
            past_key_values=past_key_values,
            dropout_rng=dropout_rng,
            output_hidden_states=output_hidden_states,
            **decoder_masks(attention_mask, q_len, past_key_values, self.config.attention_windows),
            rope=rope_tables(self.config.rope, position_ids),
            output_attentions=output_attentions,
        )
        return BaseModelOutput(**outputs.normed(self.norm)._asdict())

    def get_input_embeddings(self) -> Embedding:
        return self.embed_tokens

    def set_input_embeddings(self, value: Embedding) -> None:
        self.embed_tokens = value


class LlamaForCausalLM(LlamaPreTrainedModel):
    """Next token prediction."""

    predicts_next_token = True

    def build(self, config: LlamaConfig, policy: Policy):
        self.model = LlamaModel.part(config, policy)
        if config.tie_word_embeddings:
            self.lm_head = TiedLinear(self.model.embed_tokens.embedding, policy)
        else:
            init = normal(config.initializer_range)
            self.lm_head = Linear(config.hidden_size, config.vocab_size, policy, use_bias=False, init=init)

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(CausalLMOutput, logits=self.lm_head(outputs.last_hidden_state))

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.lm_head


class LlamaForSequenceClassification(LlamaPreTrainedModel):
    """Classification of a sequence by its last token that is not padding."""

    def build(self, config: LlamaConfig, policy: Policy):
        self.model = LlamaModel.part(config, policy)
        init = normal(config.initializer_range)
        self.score = Linear(config.hidden_size, config.num_labels, policy, use_bias=False, init=init)

    def head(self, outputs, inputs, dropout_rng):
        logits = self.score(outputs.last_hidden_state)
        chosen = last_token(logits, inputs.get("input_ids"), self.config.pad_token_id)
        return outputs.to(SequenceClassifierOutput, logits=chosen)

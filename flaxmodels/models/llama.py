"""Llama (arXiv 2302.13971, 2307.09288, 2407.21783): decoder with rotary positions, grouped heads and gated MLP.

Parameter names and numerics follow the reference implementation in transformers (`LlamaModel`, `LlamaFor...`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
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
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.attention import cached_attention, split_heads
from flaxmodels.nn.cache import Cache, LayerCache, self_attention_cache
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.heads import last_token, span_logits
from flaxmodels.nn.linear import Embedding, Linear, RMSNorm, TiedLinear, embed, vocabulary_projection
from flaxmodels.nn.masks import decoder_masks, new_places
from flaxmodels.nn.module import Module, param
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.rope import RopeConfig, apply_rope, layer_rope_tables, rope_parameters
from flaxmodels.nn.stack import BlockOutput, Stack, StackOutput, by_layer
from flaxmodels.outputs import (
    BaseModelOutput,
    CausalLMOutput,
    QuestionAnsweringOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)


class LlamaConfig(PreTrainedConfig):
    """Configuration of Llama; the defaults are those of Llama 7B."""

    model_type = "llama"
    multiples = (("hidden_size", "num_attention_heads"),)
    lengths = (("layer_types", "num_hidden_layers"), ("no_rope_layers", "num_hidden_layers"))

    vocab_size: VocabSize = 32000
    hidden_size: Size = 4096
    intermediate_size: Size = 11008
    num_hidden_layers: Layers = 32
    num_attention_heads: Size = 32
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    hidden_act: Activation = "silu"
    max_position_embeddings: Length = 2048
    initializer_range: Scale = 0.02
    rms_norm_eps: Epsilon = 1e-6
    bos_token_id: SpecialId | None = 1
    eos_token_id: SpecialIds | None = 2
    tie_word_embeddings: bool = False
    rope_theta: Positive | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    partial_rotary_factor: Positive | None = ABSENT
    original_max_position_embeddings: Length | None = ABSENT
    attention_bias: bool = False
    attention_dropout: Rate = 0.0
    mlp_bias: bool = False
    use_cache: bool = True
    classifier_dropout: Rate | None = ABSENT
    hidden_dropout: Rate | None = ABSENT
    pretraining_tp: Size | None = ABSENT

    def problems(self) -> list[str]:
        found = super().problems()
        if self.num_attention_heads % self.kv_heads:
            found.append(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.kv_heads}"
            )
        try:
            self.ropes  # noqa: B018
        except ConfigError as error:
            found.append(str(error))
        return found

    # ---- what descendants change

    default_theta: ClassVar[float] = 10000.0
    query_key_norm: ClassVar[str | None] = None
    """Whether queries and keys are normed: "head" by head, or the whole "projection"."""
    norm_offset: ClassVar[float] = 0.0
    embedding_scale: ClassVar[float] = 1.0
    attention_scale: ClassVar[float | None] = None
    attention_softcap: ClassVar[float | None] = None
    attention_sinks: ClassVar[bool] = False
    """Whether each head has a further logit, whose weight goes nowhere."""
    logit_softcap: ClassVar[float | None] = None

    @property
    def activation(self) -> str:
        """Name of the MLP's activation function."""
        return self.hidden_act

    @property
    def attention_biases(self) -> tuple[bool, bool]:
        """Whether the projections of queries, keys and values have a bias, and the output projection."""
        return self.attention_bias, self.attention_bias

    def norm(self, policy: Policy, features: int) -> RMSNorm:
        """A norm of this architecture."""
        return RMSNorm(features, policy, epsilon=self.rms_norm_eps, offset=self.norm_offset)

    @property
    def ropes(self) -> tuple[RopeConfig | None, ...]:
        """The rotary embedding of each layer; `None` for none."""
        return (self.rope,) * self.num_hidden_layers

    def rope_values(self) -> dict[str, Any]:
        """The fields that `rope_parameters` reads."""
        return vars(self) | {"rope_theta": self.rope_theta or self.default_theta}

    def to_dict(self) -> dict[str, Any]:
        """As for all, without empty fields that transformers would read a `None` of."""
        inferred = ("rope_theta", "rope_scaling", "rope_parameters", "head_dim")
        unset = [name for name in inferred if getattr(self, name) is None]
        values = super().to_dict()
        return {name: value for name, value in values.items() if name not in unset or name in (self._keys or ())}

    @property
    def rope(self) -> RopeConfig:
        """The rotary embedding that this configuration, of v4 or v5, describes."""
        return RopeConfig.from_parameters(
            rope_parameters(self.rope_values()),
            head_dim=self.features_per_head,
            max_position_embeddings=self.max_position_embeddings,
        )


class LlamaAttention(Module):
    def __init__(self, config: LlamaConfig, policy: Policy):
        self.heads, self.kv_heads = config.num_attention_heads, config.kv_heads
        self.implementation, self.dropout_rate = policy.attn_implementation, config.attention_dropout
        self.scale, self.softcap = config.attention_scale, config.attention_softcap
        self.normed = config.query_key_norm
        self.build(config, policy)
        init = normal(config.initializer_range)
        self.sinks = param((self.heads,), policy.param_dtype, init) if config.attention_sinks else None
        if self.normed:
            query, key = (self.heads, self.kv_heads) if self.normed == "projection" else (1, 1)
            self.q_norm = config.norm(policy, query * config.features_per_head)
            self.k_norm = config.norm(policy, key * config.features_per_head)

    def build(self, config: LlamaConfig, policy: Policy) -> None:
        """Make the projections."""
        hidden, head_dim, init = config.hidden_size, config.features_per_head, normal(config.initializer_range)
        inner, outer = ({"use_bias": bias, "init": init} for bias in config.attention_biases)
        self.q_proj = Linear(hidden, self.heads * head_dim, policy, **inner)
        self.k_proj = Linear(hidden, self.kv_heads * head_dim, policy, **inner)
        self.v_proj = Linear(hidden, self.kv_heads * head_dim, policy, **inner)
        self.o_proj = Linear(self.heads * head_dim, hidden, policy, **outer)

    def project(self, hidden_states):
        """Queries, keys and values, heads merged."""
        return self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)

    def __call__(self, hidden_states, mask, rope, cache, output_attentions, dropout_rng):
        query, key, value = self.project(hidden_states)
        if self.normed == "projection":
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = split_heads(query, self.heads), split_heads(key, self.kv_heads)
        if self.normed == "head":
            query, key = self.q_norm(query), self.k_norm(key)
        mixed, weights, cache = cached_attention(
            apply_rope(query, *rope),
            apply_rope(key, *rope),
            split_heads(value, self.kv_heads),
            mask,
            cache,
            implementation=self.implementation,
            return_weights=output_attentions,
            dropout_rate=self.dropout_rate,
            dropout_rng=dropout_rng,
            scale=self.scale,
            softcap=self.softcap,
            sinks=None if self.sinks is None else self.sinks[...],
        )
        return self.o_proj(mixed), weights, cache


class LlamaMLP(Module):
    """`down(act(gate(x)) * up(x))` (SwiGLU and its kin, arXiv 2002.05202)."""

    def __init__(self, config: LlamaConfig, policy: Policy):
        self.activation = get_activation(config.activation)
        hidden, inner = config.hidden_size, config.intermediate_size
        kwargs = {"use_bias": config.mlp_bias, "init": normal(config.initializer_range)}
        self.gate_proj = Linear(hidden, inner, policy, **kwargs)
        self.up_proj = Linear(hidden, inner, policy, **kwargs)
        self.down_proj = Linear(inner, hidden, policy, **kwargs)

    def __call__(self, hidden_states):
        return self.down_proj(self.activation(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class LlamaDecoderLayer(Module):
    """Attention and MLP, each with a norm before it. Descendants have other parts, or norms elsewhere."""

    attention_class: ClassVar[Callable[..., Any]] = LlamaAttention
    mlp_class: ClassVar[Callable[..., Any]] = LlamaMLP
    norms: ClassVar[tuple[str | None, ...]] = ("input_layernorm", None, "post_attention_layernorm", None)
    """Names of the norms before and behind attention, and before and behind the MLP."""

    def __init__(self, config: LlamaConfig, policy: Policy):
        self.dropout_rate = getattr(config, "resid_pdrop", 0.0)
        self.self_attn = self.attention_class(config, policy)
        self.mlp = self.mlp_class(config, policy)
        for name in filter(None, self.norms):
            setattr(self, name, config.norm(policy, config.hidden_size))

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
        before, behind, before_mlp, behind_mlp = (getattr(self, name) if name else _same for name in self.norms)
        keys = split_key(dropout_rng, 3)
        mixed, weights, cache = self.self_attn(before(hidden_states), mask, rope, cache, output_attentions, keys[0])
        hidden_states = hidden_states + dropout(behind(mixed), self.dropout_rate, keys[1])
        fed, router_logits = self.feed(before_mlp(hidden_states), keys[2])
        hidden_states = hidden_states + dropout(behind_mlp(fed), self.dropout_rate, keys[2])
        return BlockOutput(hidden_states, cache, weights, router_logits=router_logits)

    def feed(self, hidden_states: jax.Array, dropout_rng: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        """The output of the MLP, and the logits of its router if it has one."""
        return self.mlp(hidden_states), None


def _same(x):
    return x


class LlamaPreTrainedModel(PreTrainedModel):
    """Base of the Llama models. All take the inputs of `LlamaModel.forward`."""

    config_class = LlamaConfig
    base_model_prefix = "model"
    ignored_names = (r"rotary_emb\.inv_freq$",)
    tp_plan = {
        "(q_proj|k_proj|v_proj|gate_proj|up_proj|lm_head)": COLUMN,
        "(o_proj|down_proj|embed_tokens)": ROW,
    }
    base_class: ClassVar[Any]
    """The base model that a model with a head is built on."""
    config: LlamaConfig


class LlamaModel(LlamaPreTrainedModel):
    """The decoder without a head."""

    input_embeddings = "embed_tokens"

    layer_class: ClassVar[Callable[..., Any]] = LlamaDecoderLayer

    def build(self, config: LlamaConfig, policy: Policy):
        init = normal(config.initializer_range)
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, policy, init=init)
        self.layers = self.make_layers(config, policy)
        self.norm = config.norm(policy, config.hidden_size)

    def make_layers(self, config: LlamaConfig, policy: Policy) -> Stack:
        """The layers."""
        return Stack(lambda: self.layer_class(config, policy), config.num_hidden_layers, policy)

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
        inputs = (input_ids, attention_mask, position_ids, past_key_values, inputs_embeds)
        outputs, _ = self.decode(
            *inputs,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            dropout_rng=dropout_rng,
        )
        return BaseModelOutput(**outputs._asdict())

    def decode(
        self,
        input_ids: jax.Array | None,
        attention_mask: jax.Array | None,
        position_ids: jax.Array | None,
        past_key_values: Cache | None,
        inputs_embeds: jax.Array | None,
        **options: Any,
    ) -> tuple[StackOutput, list[BlockOutput]]:
        """What the layers return together, normed, and what each returns. `options` are for the layers."""
        hidden_states = embed(self.embed_tokens, input_ids, inputs_embeds)
        if inputs_embeds is None and self.config.embedding_scale != 1.0:
            hidden_states = hidden_states * jnp.asarray(self.config.embedding_scale, hidden_states.dtype)
        q_len = hidden_states.shape[1]
        if position_ids is None:
            cache = None if past_key_values is None else self_attention_cache(past_key_values)
            position_ids = new_places(q_len, cache)[None]
        outputs, layers = self.layers.run(
            hidden_states,
            past_key_values=past_key_values,
            **options,
            **by_layer(
                mask=decoder_masks(attention_mask, q_len, past_key_values, self.config.attention_windows),
                rope=layer_rope_tables(self.config.ropes, position_ids),
            ),
        )
        return outputs.normed(self.norm), layers


LlamaPreTrainedModel.base_class = LlamaModel


class LlamaForCausalLM(LlamaPreTrainedModel):
    """Next token prediction."""

    predicts_next_token = True

    def build(self, config: LlamaConfig, policy: Policy):
        self.model = self.base_class.part(config, policy)
        tied, init = config.tie_word_embeddings, normal(config.initializer_range)
        self.lm_head = vocabulary_projection(self.model.embed_tokens, policy, tied=tied, init=init)

    def head(self, outputs, inputs, dropout_rng):
        logits = self.lm_head(outputs.last_hidden_state)
        if (cap := self.config.logit_softcap) is not None:
            logits = cap * jnp.tanh(logits / cap)
        return outputs.to(CausalLMOutput, logits=logits)

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.lm_head


class LlamaForSequenceClassification(LlamaPreTrainedModel):
    """Classification of a sequence by its last token that is not padding."""

    def build(self, config: LlamaConfig, policy: Policy):
        self.model = self.base_class.part(config, policy)
        init = normal(config.initializer_range)
        self.score = Linear(config.hidden_size, config.num_labels, policy, use_bias=False, init=init)

    def head(self, outputs, inputs, dropout_rng):
        logits = self.score(outputs.last_hidden_state)
        chosen = last_token(logits, inputs.get("input_ids"), self.config.pad_token_id)
        return outputs.to(SequenceClassifierOutput, logits=chosen)


class LlamaForTokenClassification(LlamaPreTrainedModel):
    """Classification of each token."""

    def build(self, config: LlamaConfig, policy: Policy):
        self.model = self.base_class.part(config, policy)
        rates = (getattr(config, name, None) for name in ("classifier_dropout", "hidden_dropout"))
        self.dropout_rate = next((rate for rate in rates if rate is not None), 0.1)
        init = normal(config.initializer_range)
        self.score = Linear(config.hidden_size, config.num_labels, policy, init=init)

    def head(self, outputs, inputs, dropout_rng):
        logits = self.score(dropout(outputs.last_hidden_state, self.dropout_rate, dropout_rng))
        return outputs.to(TokenClassifierOutput, logits=logits)


class LlamaForQuestionAnswering(LlamaPreTrainedModel):
    """Where in the text the answer begins and ends."""

    base_model_prefix = "transformer"

    def build(self, config: LlamaConfig, policy: Policy):
        setattr(self, self.base_model_prefix, self.base_class.part(config, policy))
        self.qa_outputs = Linear(config.hidden_size, 2, policy, init=normal(config.initializer_range))

    def head(self, outputs, inputs, dropout_rng):
        start, end = span_logits(self.qa_outputs, outputs.last_hidden_state)
        return outputs.to(QuestionAnsweringOutput, start_logits=start, end_logits=end)

"""ModernBERT (arXiv 2412.13663): encoder with rotary positions, gated MLP, and windows in most of its layers.

Parameter names and numerics follow the reference implementation in transformers (`ModernBertModel`, ...).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer, truncated_normal, zeros

from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import ConfigError
from flaxmodels.fields import (
    ABSENT,
    Activation,
    Epsilon,
    Layers,
    LayerType,
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
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.heads import mean_of_tokens, score_choices
from flaxmodels.nn.inputs import PADDING_MASK, PER_CHOICE
from flaxmodels.nn.linear import Embedding, LayerNorm, Linear, TiedLinear, embed, vocabulary_projection
from flaxmodels.nn.masks import local_mask, padding_mask
from flaxmodels.nn.module import Module, param
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.rope import RopeConfig, apply_rope, layer_rope_tables, rope_parameters
from flaxmodels.nn.stack import BlockOutput, Stack, by_layer
from flaxmodels.outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    ModelOutput,
    MultipleChoiceOutput,
    QuestionAnsweringOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

GLOBAL: LayerType = "full_attention"
LOCAL: LayerType = "sliding_attention"
"""Kinds of layers: those that see the whole text, and those that see a window around each token."""


class ModernBertConfig(PreTrainedConfig):
    """Configuration of ModernBERT; the defaults are those of ModernBERT-base.

    Files of transformers v4 have `global_attn_every_n_layers`, `global_rope_theta` and `local_rope_theta` in the place
    of `layer_types` and `rope_parameters`.
    """

    model_type = "modernbert"
    multiples = (("hidden_size", "num_attention_heads"),)
    lengths = (("layer_types", "num_hidden_layers"),)

    vocab_size: VocabSize = 50368
    hidden_size: Size = 768
    intermediate_size: Size = 1152
    num_hidden_layers: Layers = 22
    num_attention_heads: Size = 12
    hidden_activation: Activation = "gelu"
    max_position_embeddings: Length = 8192
    initializer_range: Scale = 0.02
    initializer_cutoff_factor: Positive | None = 2.0
    norm_eps: Epsilon = 1e-5
    norm_bias: bool = False
    pad_token_id: SpecialId | None = 50283
    eos_token_id: SpecialIds | None = 50282
    bos_token_id: SpecialId | None = 50281
    cls_token_id: SpecialId | None = 50281
    sep_token_id: SpecialId | None = 50282
    attention_bias: bool = False
    attention_dropout: Rate = 0.0
    layer_types: list[LayerType] | None = None
    rope_parameters: dict[LayerType, dict[str, Any] | None] | None = None
    local_attention: Length = 128
    embedding_dropout: Rate = 0.0
    mlp_bias: bool = False
    mlp_dropout: Rate = 0.0
    decoder_bias: bool = True
    classifier_pooling: Literal["cls", "mean"] = "cls"
    classifier_dropout: Rate = 0.0
    classifier_bias: bool = False
    classifier_activation: Activation = "gelu"
    deterministic_flash_attn: bool = False
    sparse_prediction: bool = False
    sparse_pred_ignore_index: int = -100
    global_attn_every_n_layers: Size = ABSENT
    global_rope_theta: Positive = ABSENT
    local_rope_theta: Positive | None = ABSENT
    rope_scaling: dict[str, Any] | None = ABSENT
    reference_compile: bool | None = ABSENT
    repad_logits_with_grad: bool = ABSENT

    def problems(self) -> list[str]:
        found = super().problems()
        try:
            self.ropes  # noqa: B018
        except ConfigError as error:
            found.append(str(error))
        return found

    @property
    def kinds(self) -> Sequence[LayerType]:
        """Whether each layer is of `GLOBAL` or `LOCAL` attention."""
        every = getattr(self, "global_attn_every_n_layers", 3)
        return self.layer_types or [LOCAL if number % every else GLOBAL for number in range(self.num_hidden_layers)]

    @property
    def ropes(self) -> dict[str, RopeConfig]:
        """The rotary embedding of each kind of layer."""
        whole = getattr(self, "global_rope_theta", 160000.0)
        thetas: dict[LayerType, float] = {GLOBAL: whole, LOCAL: getattr(self, "local_rope_theta", 10000.0) or whole}
        scaling, length = getattr(self, "rope_scaling", None) or {}, self.max_position_embeddings
        found = {}
        for kind, theta in thetas.items():
            own = {"rope_theta": theta} | scaling | ((self.rope_parameters or {}).get(kind) or {})
            found[kind] = RopeConfig.from_parameters(
                rope_parameters({"rope_parameters": own, "max_position_embeddings": length}),
                head_dim=self.features_per_head,
                max_position_embeddings=length,
            )
        return found

    def init(self, *, deep: bool = False) -> Initializer:
        """Of weights; those of output projections, `deep`, are smaller in deep models."""
        scale = self.initializer_range * ((2.0 * self.num_hidden_layers) ** -0.5 if deep else 1.0)
        return self.cut_off(scale)

    def cut_off(self, scale: float) -> Initializer:
        """A normal distribution that ends at `initializer_cutoff_factor` times its `scale`."""
        cutoff = 3.0 if self.initializer_cutoff_factor is None else self.initializer_cutoff_factor
        return truncated_normal(scale, lower=-cutoff, upper=cutoff)

    def norm(self, policy: Policy) -> LayerNorm:
        """A norm of hidden states."""
        return LayerNorm(self.hidden_size, policy, epsilon=self.norm_eps, use_bias=self.norm_bias)


class ModernBertEmbeddings(Module):
    def __init__(self, config: ModernBertConfig, policy: Policy):
        self.dropout_rate = config.embedding_dropout
        self.tok_embeddings = Embedding(config.vocab_size, config.hidden_size, policy, init=config.init())
        self.norm = config.norm(policy)

    def __call__(self, words, dropout_rng):
        return dropout(self.norm(words), self.dropout_rate, dropout_rng)


class ModernBertMLP(Module):
    """`Wo(act(x) * gate)`, where `Wi` gives both (arXiv 2002.05202)."""

    def __init__(self, config: ModernBertConfig, policy: Policy):
        self.activation, self.dropout_rate = get_activation(config.hidden_activation), config.mlp_dropout
        hidden, inner, biased = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.Wi = Linear(hidden, 2 * inner, policy, use_bias=biased, init=config.init())
        self.Wo = Linear(inner, hidden, policy, use_bias=biased, init=config.init(deep=True))

    def __call__(self, hidden_states, dropout_rng):
        inner, gate = jnp.split(self.Wi(hidden_states), 2, axis=-1)
        return self.Wo(dropout(self.activation(inner) * gate, self.dropout_rate, dropout_rng))


class ModernBertAttention(Module):
    def __init__(self, config: ModernBertConfig, policy: Policy):
        self.heads, self.dropout_rate = config.num_attention_heads, config.attention_dropout
        self.implementation = policy.attn_implementation
        hidden, biased = config.hidden_size, config.attention_bias
        self.Wqkv = Linear(hidden, 3 * hidden, policy, use_bias=biased, init=config.init())
        self.Wo = Linear(hidden, hidden, policy, use_bias=biased, init=config.init(deep=True))

    def __call__(self, hidden_states, mask, rope, output_attentions, dropout_rng):
        inner, outer = split_key(dropout_rng, 2)
        projected = jnp.split(self.Wqkv(hidden_states), 3, axis=-1)
        query, key, value = (split_heads(part, self.heads) for part in projected)
        mixed, weights, _ = cached_attention(
            apply_rope(query, *rope),
            apply_rope(key, *rope),
            value,
            mask,
            None,
            implementation=self.implementation,
            return_weights=output_attentions,
            dropout_rate=self.dropout_rate,
            dropout_rng=inner,
        )
        return dropout(self.Wo(mixed), self.dropout_rate, outer), weights


class ModernBertEncoderLayer(Module):
    """Attention and MLP, each with a norm before it; what comes `first` is normed already."""

    def __init__(self, config: ModernBertConfig, policy: Policy, *, first: bool = False):
        self.attn_norm = None if first else config.norm(policy)
        self.attn = ModernBertAttention(config, policy)
        self.mlp_norm = config.norm(policy)
        self.mlp = ModernBertMLP(config, policy)

    def __call__(
        self,
        hidden_states: jax.Array,
        *,
        mask: jax.Array,
        rope: tuple[jax.Array, jax.Array],
        cache: None = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BlockOutput:
        inner, outer = split_key(dropout_rng, 2)
        source = hidden_states if self.attn_norm is None else self.attn_norm(hidden_states)
        mixed, weights = self.attn(source, mask, rope, output_attentions, inner)
        hidden_states = hidden_states + mixed
        return BlockOutput(hidden_states + self.mlp(self.mlp_norm(hidden_states), outer), cache, weights)


class ModernBertPredictionHead(Module):
    def __init__(self, config: ModernBertConfig, policy: Policy):
        size = config.hidden_size
        self.activation = get_activation(config.classifier_activation)
        self.dense = Linear(size, size, policy, use_bias=config.classifier_bias, init=config.init(deep=True))
        self.norm = config.norm(policy)

    def __call__(self, hidden_states):
        return self.norm(self.activation(self.dense(hidden_states)))


class ModernBertPreTrainedModel(PreTrainedModel):
    """Base of the ModernBERT models. All take the inputs of `ModernBertModel.forward`."""

    config_class = ModernBertConfig
    base_model_prefix = "model"
    tp_plan = {"(Wqkv|Wi|decoder)": COLUMN, "(Wo|tok_embeddings)": ROW}
    config: ModernBertConfig


class ModernBertModel(ModernBertPreTrainedModel):
    """The encoder without a head."""

    input_embeddings = "embeddings.tok_embeddings"

    def build(self, config: ModernBertConfig, policy: Policy):
        self.embeddings = ModernBertEmbeddings(config, policy)
        self.layers = Stack(
            lambda: ModernBertEncoderLayer(config, policy),
            config.num_hidden_layers,
            policy,
            first=lambda: ModernBertEncoderLayer(config, policy, first=True),
        )
        self.final_norm = config.norm(policy)

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
    ) -> BaseModelOutput:
        """Encode.

        Args:
            input_ids: int `[batch, q_len]`; or `inputs_embeds` `[batch, q_len, hidden]` in its place.
            attention_mask: `[batch, q_len]`, 0 for padding.
            position_ids: int `[batch, q_len]`, of the rotation alone: windows go by place; 0, 1, ... if not given.
        """
        words = embed(self.embeddings.tok_embeddings, input_ids, inputs_embeds)
        length, keys, kinds = words.shape[1], split_key(dropout_rng, 2), self.config.kinds
        position_ids = jnp.arange(length)[None] if position_ids is None else position_ids
        whole = jnp.ones((1, 1, 1, length), bool) if attention_mask is None else padding_mask(attention_mask)
        near = whole & local_mask(length, self.config.local_attention // 2)
        masks, ropes = {GLOBAL: jnp.broadcast_to(whole, near.shape), LOCAL: near}, self.config.ropes
        outputs = self.layers(
            self.embeddings(words, keys[0]),
            dropout_rng=keys[1],
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            **by_layer(
                mask=tuple(masks[kind] for kind in kinds),
                rope=layer_rope_tables([ropes[kind] for kind in kinds], position_ids),
            ),
        )
        return BaseModelOutput(**outputs.normed(self.final_norm)._asdict())


class _ModernBertWithHead(ModernBertPreTrainedModel):
    """A model with a head, which is called `predict`: checkpoints have a module of the name `head`."""

    head: Any

    def build(self, config: ModernBertConfig, policy: Policy):
        self.model = ModernBertModel.part(config, policy)
        self.head = ModernBertPredictionHead(config, policy)

    def forward(self, *, dropout_rng: jax.Array | None = None, **inputs: Any) -> Any:
        base_key, head_key = split_key(dropout_rng, 2)
        return self.predict(self.features(dropout_rng=base_key, **inputs), inputs, head_key)

    def predict(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> ModelOutput:
        """The task's output from the base model's."""
        raise NotImplementedError


class ModernBertForMaskedLM(_ModernBertWithHead):
    """Masked language modelling."""

    def build(self, config: ModernBertConfig, policy: Policy):
        super().build(config, policy)
        bias = param((config.vocab_size,), policy.param_dtype, zeros) if config.decoder_bias else None
        table, tied, init = self.model.embeddings.tok_embeddings, config.tie_word_embeddings, config.init(deep=True)
        self.decoder = vocabulary_projection(table, policy, tied=tied, init=init, bias=bias)

    def predict(self, outputs, inputs, dropout_rng):
        return outputs.to(MaskedLMOutput, logits=self.decoder(self.head(outputs.last_hidden_state)))

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.decoder


class _ModernBertWithClassifier(_ModernBertWithHead):
    def build(self, config: ModernBertConfig, policy: Policy):
        super().build(config, policy)
        init = config.cut_off(config.hidden_size**-0.5)
        self.classifier = Linear(config.hidden_size, self.num_outputs(config), policy, init=init)

    @staticmethod
    def num_outputs(config: ModernBertConfig) -> int:
        return config.num_labels

    def classify(self, hidden_states: jax.Array, dropout_rng: jax.Array | None) -> jax.Array:
        """The logits of one state or more."""
        return self.classifier(dropout(self.head(hidden_states), self.config.classifier_dropout, dropout_rng))


class ModernBertForSequenceClassification(_ModernBertWithClassifier):
    """Sentence (pair) classification or regression, by the first token or by the mean of all."""

    expected_inputs = {"attention_mask": PADDING_MASK}

    def pool(self, hidden_states: jax.Array, attention_mask: jax.Array | None) -> jax.Array:
        """`[batch, hidden]`."""
        if self.config.classifier_pooling == "mean":
            return mean_of_tokens(hidden_states, attention_mask)
        return hidden_states[:, 0]

    def predict(self, outputs, inputs, dropout_rng):
        pooled = self.pool(outputs.last_hidden_state, inputs.get("attention_mask"))
        return outputs.to(SequenceClassifierOutput, logits=self.classify(pooled, dropout_rng))


class ModernBertForMultipleChoice(ModernBertForSequenceClassification):
    """Which of several choices? Inputs are `[batch, num_choices, q_len]`."""

    expected_inputs = PER_CHOICE

    @staticmethod
    def num_outputs(config: ModernBertConfig) -> int:
        return 1

    def forward(self, **inputs):
        return score_choices(super().forward, inputs)

    def pool(self, hidden_states: jax.Array, attention_mask: jax.Array | None) -> jax.Array:
        """`[batch, hidden]`; unlike in classification, the first token is that behind padding."""
        if self.config.classifier_pooling == "mean" or attention_mask is None:
            return super().pool(hidden_states, attention_mask)
        first = jnp.argmax(attention_mask, axis=-1)
        return jnp.take_along_axis(hidden_states, first[:, None, None], axis=1)[:, 0]

    def predict(self, outputs, inputs, dropout_rng):
        return super().predict(outputs, inputs, dropout_rng).to(MultipleChoiceOutput)


class ModernBertForTokenClassification(_ModernBertWithClassifier):
    """A label for each token."""

    def predict(self, outputs, inputs, dropout_rng):
        return outputs.to(TokenClassifierOutput, logits=self.classify(outputs.last_hidden_state, dropout_rng))


class ModernBertForQuestionAnswering(_ModernBertWithClassifier):
    """The span of the text that answers a question."""

    @staticmethod
    def num_outputs(config: ModernBertConfig) -> int:
        return 2

    def predict(self, outputs, inputs, dropout_rng):
        start, end = jnp.moveaxis(self.classify(outputs.last_hidden_state, dropout_rng), -1, 0)
        return outputs.to(QuestionAnsweringOutput, start_logits=start, end_logits=end)

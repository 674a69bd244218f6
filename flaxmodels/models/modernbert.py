"""ModernBERT (arXiv 2412.13663): encoder with rotary positions, gated MLP, and windows in most of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from flaxmodels.bases.encoder import EncoderModel
from flaxmodels.bases.heads import ModelWithHead
from flaxmodels.bases.parts import place, set_base
from flaxmodels.bases.rotary_config import LayerRopesConfig, types_by_layer
from flaxmodels.bases.transformer import DropoutRates, LayerSpec, TransformerLayer, pre_norm
from flaxmodels.execution.inputs import PADDING_MASK, PER_CHOICE
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
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.attention import split_heads
from flaxmodels.nn.dense import Linear, TiedLinear, vocabulary_projection
from flaxmodels.nn.dropout import dropout
from flaxmodels.nn.embedding import Embedding
from flaxmodels.nn.heads import mean_of_tokens, score_choices
from flaxmodels.nn.initializers import Initializer, truncated_normal, zeros
from flaxmodels.nn.masks import local_mask, padding_mask
from flaxmodels.nn.module import Module, param
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.rope import RopeConfig, apply_rope, layer_rope_tables
from flaxmodels.nn.stack import Stack, StackOutput, by_layer
from flaxmodels.outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    MultipleChoiceOutput,
    QuestionAnsweringOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from flaxmodels.policy import Policy


class ModernBertConfig(LayerRopesConfig):
    """Configuration of ModernBERT; the defaults are those of ModernBERT-base.

    Files of transformers v4 have `global_attn_every_n_layers`, `global_rope_theta` and `local_rope_theta` in place
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

    def validation_errors(self) -> list[str]:
        return super().validation_errors() + self.rope_errors()

    @property
    def kinds(self) -> Sequence[LayerType]:
        """Whether each layer is of "sliding_attention" or, every third one, of "full_attention"."""
        every = getattr(self, "global_attn_every_n_layers", 3)
        return self.layer_types or types_by_layer(self.num_hidden_layers, lambda number: number % every != 0)

    @property
    def ropes(self) -> tuple[RopeConfig, ...]:
        """Layers that see the whole text rotate slower than those with a window."""
        stated, scaling = self.rope_parameters or {}, getattr(self, "rope_scaling", None) or {}
        full = getattr(self, "global_rope_theta", 160000.0)
        thetas: dict[LayerType, float] = {
            "full_attention": full,
            "sliding_attention": getattr(self, "local_rope_theta", 10000.0) or full,
        }
        ropes = self.ropes_by_type(
            {kind: {"rope_theta": theta} | scaling | (stated.get(kind) or {}) for kind, theta in thetas.items()}
        )
        return tuple(ropes[kind] for kind in self.kinds)

    def init(self, *, deep: bool = False) -> Initializer:
        """Of weights; those of output projections, `deep`, are smaller in deep models."""
        scale = self.initializer_range * ((2.0 * self.num_hidden_layers) ** -0.5 if deep else 1.0)
        return self.cut_off(scale)

    def cut_off(self, scale: float) -> Initializer:
        """A normal distribution that ends at `initializer_cutoff_factor` times its `scale`."""
        cutoff = 3.0 if self.initializer_cutoff_factor is None else self.initializer_cutoff_factor
        return truncated_normal(scale, lower=-cutoff, upper=cutoff)

    @property
    def layer_spec(self) -> LayerSpec:
        """The numbers of a layer."""
        biases = {"qkv": self.attention_bias, "attn_out": self.attention_bias}
        biases |= {"mlp_in": self.mlp_bias, "mlp_out": self.mlp_bias}
        return LayerSpec(
            self.hidden_size,
            self.num_attention_heads,
            self.intermediate_size,
            activation=self.hidden_activation,
            epsilon=self.norm_eps,
            init=self.init(),
            inits=dict.fromkeys(("attn_out", "mlp_out"), self.init(deep=True)),
            without_bias=tuple(role for role, has_bias in biases.items() if not has_bias),
            norm_bias=self.norm_bias,
            rates=DropoutRates(
                weights=self.attention_dropout, attention=self.attention_dropout, activation=self.mlp_dropout
            ),
        )


class ModernBertEmbeddings(Module):
    """Embeddings of tokens, normalised."""

    def __init__(self, config: ModernBertConfig, policy: Policy):
        self.dropout_rate = config.embedding_dropout
        self.tok_embeddings = Embedding(config.vocab_size, config.hidden_size, policy, init=config.init())
        self.norm = config.layer_spec.norm(policy)

    def __call__(
        self,
        token_embeddings: jax.Array,
        token_type_ids: None,
        position_ids: jax.Array,
        dropout_rng: jax.Array | None,
    ) -> jax.Array:
        """`[batch, q_len, hidden]`, of embeddings of tokens of that shape; positions are known by rotation alone."""
        return dropout(self.norm(token_embeddings), self.dropout_rate, dropout_rng)


class ModernBertLayer(TransformerLayer):
    """A layer with norms before attention, which rotates queries and keys, and before a gated network."""

    residual = staticmethod(pre_norm)
    names = {
        "attn_norm": "attn_norm",
        "qkv": "attn.Wqkv",
        "attn_out": "attn.Wo",
        "mlp_norm": "mlp_norm",
        "mlp_in": "mlp.Wi",
        "mlp_out": "mlp.Wo",
    }

    def dense_shapes(self, spec: LayerSpec) -> dict[str, tuple[int, int]]:
        hidden, inner = spec.hidden_size, spec.intermediate_size
        attention = {"qkv": (hidden, 3 * hidden), "attn_out": (hidden, hidden)}
        return attention | {"mlp_in": (hidden, 2 * inner), "mlp_out": (inner, hidden)}

    def project(
        self,
        prefix: str,
        hidden_states: jax.Array,
        encoder_hidden_states: jax.Array | None,
        cache: Any,
        *,
        rope: tuple[jax.Array, jax.Array] | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
        """As in `TransformerLayer`; `rope` are cosines and sines of the positions."""
        assert rope is not None
        fused = jnp.split(self.at("qkv")(hidden_states), 3, axis=-1)
        query, key, value = (split_heads(each, self.num_heads) for each in fused)
        return apply_rope(query, *rope), apply_rope(key, *rope), value, cache

    def activated(self, hidden_states: jax.Array) -> jax.Array:
        """One half of a projection, after the activation, times the other half (arXiv 2002.05202)."""
        inner, gate = jnp.split(self.at("mlp_in")(hidden_states), 2, axis=-1)
        return self.activation(inner) * gate


class Identity(Module):
    """Nothing, in place of a norm."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


class ModernBertFirstLayer(ModernBertLayer):
    """The first layer, which reads embeddings that are normalised already."""

    def make_parts(self, spec: LayerSpec, policy: Policy) -> dict[str, Any]:
        return super().make_parts(spec, policy) | {"attn_norm": Identity()}


class ModernBertModel(EncoderModel):
    """The encoder without a head."""

    config_class = ModernBertConfig
    base_model_prefix = "model"
    tp_plan = {"(Wqkv|Wi|decoder)": COLUMN, "(Wo|tok_embeddings)": ROW}
    input_embeddings = "embeddings.tok_embeddings"
    position_embeddings = ""
    layers_path = "layers"
    pooler_path = ""

    def setup(self, config: ModernBertConfig, policy: Policy, *, add_pooling_layer: bool = False) -> None:
        super().setup(config, policy, add_pooling_layer=add_pooling_layer)
        self.final_norm = config.layer_spec.norm(policy)

    def make_embeddings(self, config: ModernBertConfig, policy: Policy) -> ModernBertEmbeddings:
        return ModernBertEmbeddings(config, policy)

    def make_layers(self, config: ModernBertConfig, policy: Policy) -> Stack:
        spec = config.layer_spec
        return Stack(
            lambda: ModernBertLayer(spec, policy),
            config.num_hidden_layers,
            policy,
            first=lambda: ModernBertFirstLayer(spec, policy),
        )

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

        Raises:
            FlaxModelsError: not exactly one of `input_ids` and `inputs_embeds`.
        """
        inputs = (input_ids, inputs_embeds, attention_mask, position_ids)
        options: dict[str, Any] = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        outputs = self.encode(*inputs, **options, dropout_rng=dropout_rng)
        return outputs.to(BaseModelOutput)

    def layer_inputs(self, attention_mask: jax.Array | None, position_ids: jax.Array, cache: Any) -> dict[str, Any]:
        length = position_ids.shape[1]
        whole = jnp.ones((1, 1, 1, length), bool) if attention_mask is None else padding_mask(attention_mask)
        near = whole & local_mask(length, self.config.local_attention // 2)
        masks = {"full_attention": jnp.broadcast_to(whole, near.shape), "sliding_attention": near}
        return by_layer(
            mask=tuple(masks[kind] for kind in self.config.kinds),
            rope=layer_rope_tables(self.config.ropes, position_ids),
        )

    def run_layers(self, hidden_states: jax.Array, **options: Any) -> StackOutput:
        return super().run_layers(hidden_states, **options).normalised(self.final_norm)


class ModernBertWithHead(ModelWithHead):
    """Base of models with a head, each of which begins with a dense layer, an activation and a norm."""

    base_class = ModernBertModel

    def setup(self, config: ModernBertConfig, policy: Policy) -> None:
        set_base(self, config, policy)
        size, init = config.hidden_size, config.init(deep=True)
        place(self, "head.dense", Linear(size, size, policy, use_bias=config.classifier_bias, init=init))
        place(self, "head.norm", config.layer_spec.norm(policy))

    def transform(self, hidden_states: jax.Array) -> jax.Array:
        """`[..., hidden]`, what the head's own layers read."""
        dense, norm = attrgetter("head.dense", "head.norm")(self)
        return norm(get_activation(self.config.classifier_activation)(dense(hidden_states)))


class ModernBertForMaskedLM(ModernBertWithHead):
    """Masked language modelling."""

    def setup(self, config: ModernBertConfig, policy: Policy) -> None:
        super().setup(config, policy)
        bias = param((config.vocab_size,), policy.param_dtype, zeros) if config.decoder_bias else None
        table, tied, init = self.get_input_embeddings(), config.tie_word_embeddings, config.init(deep=True)
        self.decoder = vocabulary_projection(table, policy, tied=tied, init=init, bias=bias)

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> MaskedLMOutput:
        return outputs.to(MaskedLMOutput, logits=self.decoder(self.transform(outputs.last_hidden_state)))

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.decoder


class ModernBertWithClassifier(ModernBertWithHead):
    """Base of models with a classifier.

    Attributes:
        num_outputs: number of logits; one a label if it is `None`.
    """

    num_outputs: ClassVar[int | None] = None

    def setup(self, config: ModernBertConfig, policy: Policy) -> None:
        super().setup(config, policy)
        init, outputs = config.cut_off(config.hidden_size**-0.5), self.num_outputs or config.num_labels
        self.classifier = Linear(config.hidden_size, outputs, policy, init=init)

    def classify(self, hidden_states: jax.Array, dropout_rng: jax.Array | None) -> jax.Array:
        """The logits of hidden states `[..., hidden]`."""
        return self.classifier(dropout(self.transform(hidden_states), self.config.classifier_dropout, dropout_rng))


class ModernBertForSequenceClassification(ModernBertWithClassifier):
    """Sentence (pair) classification or regression, by the first token or by the mean of all."""

    expected_inputs = {"attention_mask": PADDING_MASK}

    def pool(self, hidden_states: jax.Array, attention_mask: jax.Array | None) -> jax.Array:
        """One vector for each text, `[batch, hidden]`."""
        if self.config.classifier_pooling == "mean":
            return mean_of_tokens(hidden_states, attention_mask)
        return hidden_states[:, 0]

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> SequenceClassifierOutput:
        pooled = self.pool(outputs.last_hidden_state, inputs.get("attention_mask"))
        return outputs.to(SequenceClassifierOutput, logits=self.classify(pooled, dropout_rng))


class ModernBertForMultipleChoice(ModernBertForSequenceClassification):
    """Which of several choices? Inputs are `[batch, num_choices, q_len]`."""

    expected_inputs = PER_CHOICE
    num_outputs = 1

    def forward(self, **inputs: Any) -> MultipleChoiceOutput:
        return score_choices(super().forward, inputs).to(MultipleChoiceOutput)

    def pool(self, hidden_states: jax.Array, attention_mask: jax.Array | None) -> jax.Array:
        """One vector for each text; unlike in classification, the first token is that after padding."""
        if self.config.classifier_pooling == "mean" or attention_mask is None:
            return super().pool(hidden_states, attention_mask)
        first = jnp.argmax(attention_mask, axis=-1)
        return jnp.take_along_axis(hidden_states, first[:, None, None], axis=1)[:, 0]


class ModernBertForTokenClassification(ModernBertWithClassifier):
    """A label for each token."""

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> TokenClassifierOutput:
        return outputs.to(TokenClassifierOutput, logits=self.classify(outputs.last_hidden_state, dropout_rng))


class ModernBertForQuestionAnswering(ModernBertWithClassifier):
    """The span of the text that answers a question."""

    num_outputs = 2

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> QuestionAnsweringOutput:
        start, end = jnp.moveaxis(self.classify(outputs.last_hidden_state, dropout_rng), -1, 0)
        return outputs.to(QuestionAnsweringOutput, start_logits=start, end_logits=end)

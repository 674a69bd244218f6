"""T5 (arXiv 1910.10683): encoder and decoder that add a bias to attention for the distance between two tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from annotated_types import Interval

from flaxmodels.bases.encoder_decoder import EncoderDecoderBase, EncoderDecoderConfig, EncoderDecoderModel, TextStack
from flaxmodels.bases.encoder_decoder_heads import EncoderDecoderForSequenceClassification
from flaxmodels.bases.parts import set_base
from flaxmodels.bases.transformer import DropoutRates, LayerSpec, TransformerLayer, pre_norm
from flaxmodels.errors import FlaxModelsError
from flaxmodels.fields import (
    ABSENT,
    MAX_SIZE,
    Activation,
    Epsilon,
    Layers,
    Length,
    Rate,
    Scale,
    Size,
    SpecialId,
    SpecialIds,
    VocabSize,
)
from flaxmodels.model import HasHead, Output_co, PreTrainedModel
from flaxmodels.nn.activations import ACTIVATIONS
from flaxmodels.nn.cache import Cache, LayerCache
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.dropout import dropout
from flaxmodels.nn.embedding import Embedding
from flaxmodels.nn.heads import span_logits
from flaxmodels.nn.initializers import Initializer, normal
from flaxmodels.nn.masks import new_positions
from flaxmodels.nn.module import fresh
from flaxmodels.nn.norms import RMSNorm
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.relative import relative_buckets
from flaxmodels.nn.stack import Stack, StackOutput
from flaxmodels.outputs import BaseModelOutput, Seq2SeqLMOutput, Seq2SeqQuestionAnsweringOutput, TokenClassifierOutput
from flaxmodels.policy import Policy


class T5Config(EncoderDecoderConfig):
    """Configuration of T5; the defaults are those of t5-small."""

    model_type = "t5"
    attribute_map = {
        "hidden_size": "d_model",
        "head_dim": "d_kv",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
    }

    vocab_size: VocabSize = 32128
    d_model: Size = 512
    d_kv: Size = 64
    d_ff: Size = 2048
    num_layers: Layers = 6
    num_decoder_layers: Layers | None = None
    num_heads: Size = 8
    relative_attention_num_buckets: Annotated[int, Interval(ge=4, le=MAX_SIZE)] = 32
    relative_attention_max_distance: Length = 128
    dropout_rate: Rate = 0.1
    layer_norm_epsilon: Epsilon = 1e-6
    initializer_factor: Scale = 1.0
    feed_forward_proj: str = "relu"
    use_cache: bool = True
    pad_token_id: SpecialId | None = 0
    eos_token_id: SpecialIds | None = 1
    classifier_dropout: Rate = 0.0
    dense_act_fn: Activation = ABSENT
    is_gated_act: bool = ABSENT
    scale_decoder_outputs: bool = ABSENT

    @property
    def feed_forward(self) -> tuple[str, bool]:
        """The activation of the feed-forward networks, and whether they have a gate (arXiv 2002.05202).

        Files also have what transformers made of `feed_forward_proj`, which counts.
        """
        gate, _, name = self.feed_forward_proj.rpartition("-")
        made = {"dense_act_fn": "gelu_new" if (gate, name) == ("gated", "gelu") else name, "is_gated_act": bool(gate)}
        made |= {key: value for key, value in vars(self).items() if key in made}
        return made["dense_act_fn"], made["is_gated_act"]

    @property
    def scales_logits(self) -> bool:
        """Whether logits are scaled by `d_model ** -0.5`: where the embeddings are those of the head.

        transformers 5, which says of all weights that they are tied, has a field of its own for it.
        """
        return vars(self).get("scale_decoder_outputs", self.tie_word_embeddings)

    @property
    def kv_heads(self) -> int:
        return self.num_heads

    @property
    def features_per_head(self) -> int:
        return self.d_kv

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        return (None,) * self.depth(decodes=True)

    def depth(self, *, decodes: bool) -> int:
        """Layers of the encoder, or of the decoder, which has as many if nothing else is said."""
        return self.num_decoder_layers if decodes and self.num_decoder_layers is not None else self.num_layers

    def validation_errors(self) -> list[str]:
        found = super().validation_errors()
        if self.feed_forward_proj.rpartition("-")[0] not in ("", "gated") or self.feed_forward[0] not in ACTIVATIONS:
            known = ", ".join(sorted(ACTIVATIONS))
            found.append(
                f"feed_forward_proj={self.feed_forward_proj!r}: expected one of {known}, or one with 'gated-' before it"
            )
        buckets, furthest = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if furthest <= buckets // 2:
            found.append(
                f"relative_attention_max_distance={furthest}: expected more than relative_attention_num_buckets / 2 = "
                f"{buckets // 2}"
            )
        if self.is_decoder:
            found.append("is_decoder=True is not implemented: the decoder is a part of the model")
        return found

    @property
    def embedding_init(self) -> Initializer:
        return normal(self.initializer_factor)

    @property
    def classifier_init(self) -> Initializer:
        return normal(self.initializer_factor * self.d_model**-0.5)

    @property
    def layer_spec(self) -> LayerSpec:
        """The numbers of a layer."""
        factor, rate = self.initializer_factor, self.dropout_rate
        return LayerSpec(
            self.d_model,
            self.num_heads,
            self.d_ff,
            activation=self.feed_forward[0],
            epsilon=self.layer_norm_epsilon,
            init=normal(factor * self.d_model**-0.5),
            inits={
                "query": normal(factor * (self.d_model * self.d_kv) ** -0.5),
                "attn_out": normal(factor * (self.num_heads * self.d_kv) ** -0.5),
                "mlp_out": normal(factor * self.d_ff**-0.5),
            },
            without_bias=("query", "key", "value", "attn_out", "mlp_in", "mlp_activated", "mlp_gate", "mlp_out"),
            head_dim=self.d_kv,
            rates=DropoutRates(weights=rate, attention=rate, activation=rate, mlp=rate),
        )


class T5RelativeBias(Embedding):
    """A number for each bucket of distances and each head."""

    def __init__(self, config: T5Config, policy: Policy):
        super().__init__(config.relative_attention_num_buckets, config.num_heads, policy, init=config.classifier_init)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """From the bucket of each query and key, `[q_len, kv_len]`, to a bias `[1, heads, q_len, kv_len]`."""
        return jnp.moveaxis(super().__call__(ids), -1, 0)[None]


class T5SharedBias(T5RelativeBias):
    """That of all layers, which torch has in the first of them."""

    torch_path = "block.0.layer.0.SelfAttention.relative_attention_bias"


def finite(x: jax.Array) -> jax.Array:
    """T5's hidden states exceed the range of float16, to whose ends they are clipped."""
    if x.dtype != jnp.float16:
        return x
    end = jnp.finfo(x.dtype).max
    return jnp.clip(x, -end, end)


def finite_pre_norm(norm: Callable, hidden_states: jax.Array, branch: Callable) -> tuple[Any, ...]:
    """`pre_norm` with hidden states that are in the range of float16."""
    hidden_states, *others = pre_norm(norm, hidden_states, branch)
    return finite(hidden_states), *others


class T5Layer(TransformerLayer):
    """A layer of the encoder or, if it `crosses`, of the decoder, with norms before its parts."""

    residual = staticmethod(finite_pre_norm)
    attention_scale = 1.0
    names = {
        "query": "layer.0.SelfAttention.q",
        "key": "layer.0.SelfAttention.k",
        "value": "layer.0.SelfAttention.v",
        "attn_out": "layer.0.SelfAttention.o",
        "attn_norm": "layer.0.layer_norm",
        "cross_query": "layer.1.EncDecAttention.q",
        "cross_key": "layer.1.EncDecAttention.k",
        "cross_value": "layer.1.EncDecAttention.v",
        "cross_attn_out": "layer.1.EncDecAttention.o",
        "cross_attn_norm": "layer.1.layer_norm",
        "mlp_in": "layer.2.DenseReluDense.wi",
        "mlp_activated": "layer.2.DenseReluDense.wi_0",
        "mlp_gate": "layer.2.DenseReluDense.wi_1",
        "mlp_out": "layer.2.DenseReluDense.wo",
        "mlp_norm": "layer.2.layer_norm",
    }

    def __init__(self, config: T5Config, policy: Policy, *, crosses: bool):
        self.is_gated = config.feed_forward[1]
        super().__init__(config.layer_spec, policy, crosses=crosses)

    def path(self, role: str) -> str:
        """As declared; without attention to an encoder, the feed-forward network is the second part."""
        path = super().path(role)
        return path if self.crosses else path.replace("layer.2.", "layer.1.")

    def dense_shapes(self, spec: LayerSpec) -> dict[str, tuple[int, int]]:
        shapes = super().dense_shapes(spec)
        return shapes | dict.fromkeys(("mlp_activated", "mlp_gate"), shapes.pop("mlp_in")) if self.is_gated else shapes

    def make_parts(self, spec: LayerSpec, policy: Policy) -> dict[str, Any]:
        norms = {role: RMSNorm(spec.hidden_size, policy, epsilon=spec.epsilon) for role in ("attn_norm", "mlp_norm")}
        return super().make_parts(spec, policy) | norms

    def activated(self, hidden_states: jax.Array) -> jax.Array:
        if not self.is_gated:
            return super().activated(hidden_states)
        return self.activation(self.at("mlp_activated")(hidden_states)) * self.at("mlp_gate")(hidden_states)


class T5Stack(TextStack):
    """The encoder or the decoder. `embed_tokens` is shared by both."""

    layer_class: ClassVar[type[T5Layer]] = T5Layer
    layers_path = "block"

    def __init__(self, config: T5Config, policy: Policy, embed_tokens: Embedding, *, decodes: bool):
        self.decodes, self.dropout_rate = decodes, config.dropout_rate
        self.num_buckets = config.relative_attention_num_buckets
        self.max_distance = config.relative_attention_max_distance
        self.embed_tokens = embed_tokens
        self.relative_attention_bias = self.make_bias(config, policy)
        depth = config.depth(decodes=decodes)
        self.block = Stack(lambda: self.layer_class(config, policy, crosses=decodes), depth, policy)
        self.final_layer_norm = RMSNorm(config.d_model, policy, epsilon=config.layer_norm_epsilon)

    def make_bias(self, config: T5Config, policy: Policy) -> Any:
        """The bias of all layers."""
        return T5SharedBias(config, policy)

    def add_positions(self, hidden_states: jax.Array, position_ids: jax.Array | None, cache: Any) -> jax.Array:
        if position_ids is not None:
            raise FlaxModelsError("decoder_position_ids: T5 has no positions")
        return hidden_states

    def layer_inputs(self, q_len: int, cache: LayerCache | None) -> dict[str, Any]:
        return {"bias": self.relative_attention_bias(self.buckets(q_len, cache))}

    def buckets(self, q_len: int, cache: LayerCache | None) -> jax.Array:
        """The bucket of each query and key, int32 `[q_len, kv_len]`."""
        queries = new_positions(q_len, cache)
        keys = jnp.arange(q_len) if cache is None else cache.key_positions(q_len)
        return relative_buckets(
            keys[None, :] - queries[:, None],
            bidirectional=not self.decodes,
            buckets=self.num_buckets,
            max_distance=self.max_distance,
        )

    def finish(self, outputs: StackOutput, dropout_rng: jax.Array | None) -> StackOutput:
        return outputs.normalised(lambda last: dropout(self.final_layer_norm(last), self.dropout_rate, dropout_rng))


def make_stacks(model: Any, config: T5Config, policy: Policy, *, decodes: bool = True) -> None:
    """Give `model` the embeddings, the encoder and, if it `decodes`, the decoder."""
    stack_class = (model.base_class or model).stack_class
    model.shared = Embedding(config.vocab_size, config.d_model, policy, init=config.embedding_init)
    model.encoder = stack_class(config, policy, model.shared, decodes=False)
    if decodes:
        model.decoder = stack_class(config, policy, model.shared, decodes=True)


class T5Model(EncoderDecoderBase):
    """Encoder and decoder without a head."""

    config_class = T5Config
    base_model_prefix = "transformer"
    keys_to_ignore_on_load = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$",)
    tp_plan = {r"(Attention/(q|k|v)|wi(_\d)?|lm_head)": COLUMN, "(Attention/o|wo|shared)": ROW}
    input_embeddings = "shared"
    stack_class: ClassVar[type[T5Stack]] = T5Stack
    shared: Embedding

    def setup(self, config: T5Config, policy: Policy) -> None:
        make_stacks(self, config, policy)


class T5EncoderModel(EncoderDecoderModel):
    """The encoder alone."""

    base_class = T5Model
    keys_to_ignore_on_load = (r"(^|\.)decoder\.",)
    input_embeddings = "shared"
    shared: Embedding
    encoder: T5Stack

    def setup(self, config: T5Config, policy: Policy) -> None:
        make_stacks(self, config, policy, decodes=False)

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
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

        Raises:
            FlaxModelsError: not exactly one of `input_ids` and `inputs_embeds`.
        """
        options: dict[str, Any] = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        return self.encoder(input_ids, attention_mask, inputs_embeds=inputs_embeds, **options, dropout_rng=dropout_rng)


class T5WithHead(T5Model):
    """Encoder and decoder with a head beside them: in checkpoints there is no base model inside."""

    base_class = T5Model

    @property
    def base_forward(self) -> Any:
        return super().forward

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the output is that of the head
        self: HasHead[Output_co], *args: Any, **inputs: Any
    ) -> Output_co:
        return PreTrainedModel.forward(self, *args, **inputs)


class T5ForConditionalGeneration(T5WithHead):
    """The next token of the decoder."""

    predicts_next_token = True
    output_projection = "lm_head"
    lm_head: Any

    def setup(self, config: T5Config, policy: Policy) -> None:
        make_stacks(self, config, policy)
        self.scale = config.d_model**-0.5 if config.scales_logits else 1.0
        self.add_output_projection(self.shared, policy)
        fresh(self.lm_head)

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> Seq2SeqLMOutput:
        return outputs.to(Seq2SeqLMOutput, logits=self.lm_head(outputs.last_hidden_state * self.scale))

    def prepare_inputs_for_generation(
        self, input_ids: jax.Array, attention_mask: jax.Array, position_ids: jax.Array, cache: Cache
    ) -> dict[str, Any]:
        given = super().prepare_inputs_for_generation(input_ids, attention_mask, position_ids, cache)
        del given["decoder_position_ids"]
        return given


class T5ForQuestionAnswering(T5WithHead):
    """Where in the text the answer begins and ends."""

    def setup(self, config: T5Config, policy: Policy) -> None:
        make_stacks(self, config, policy)
        self.qa_outputs = fresh(Linear(config.d_model, 2, policy, init=config.classifier_init))

    def head(
        self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None
    ) -> Seq2SeqQuestionAnsweringOutput:
        start, end = span_logits(self.qa_outputs, outputs.last_hidden_state)
        return outputs.to(Seq2SeqQuestionAnsweringOutput, start_logits=start, end_logits=end)


class T5ForSequenceClassification(EncoderDecoderForSequenceClassification):
    base_class = T5Model


class T5ForTokenClassification(EncoderDecoderModel):
    """A label for each token, by the encoder alone."""

    base_class = T5EncoderModel

    def setup(self, config: T5Config, policy: Policy) -> None:
        set_base(self, config, policy)
        self.classifier = Linear(config.d_model, config.num_labels, policy, init=config.embedding_init)

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> TokenClassifierOutput:
        hidden_states = dropout(outputs.last_hidden_state, self.config.classifier_dropout, dropout_rng)
        return outputs.to(TokenClassifierOutput, logits=self.classifier(hidden_states))

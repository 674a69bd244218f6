"""T5 (arXiv 1910.10683): encoder and decoder that add a bias to attention for the distance between two tokens.

Parameter names and numerics follow the reference implementation in transformers (`T5Model`, `T5For...`).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from annotated_types import Interval
from jax.nn.initializers import normal

from flaxmodels.encoder_decoder import EncoderDecoderBase, EncoderDecoderConfig, EncoderDecoderModel
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
from flaxmodels.nn.activations import ACTIVATIONS, get_activation
from flaxmodels.nn.attention import dot_product_attention, keys_and_values, merge_heads, split_heads
from flaxmodels.nn.cache import Cache, LayerCache, self_attention_cache
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.heads import ClassificationHead, last_chosen, span_logits
from flaxmodels.nn.linear import Embedding, Linear, RMSNorm, TiedLinear, embed, vocabulary_projection
from flaxmodels.nn.masks import decoder_mask, new_places, padding_mask
from flaxmodels.nn.module import Module, ModuleList, fresh
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.relative import relative_buckets
from flaxmodels.nn.stack import BlockOutput, Stack
from flaxmodels.outputs import (
    BaseModelOutput,
    Seq2SeqLMOutput,
    Seq2SeqQuestionAnsweringOutput,
    Seq2SeqSequenceClassifierOutput,
    TokenClassifierOutput,
)


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
        """The activation of the feed-forward layers, and whether it is that of a gate (arXiv 2002.05202).

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

    def problems(self) -> list[str]:
        found = super().problems()
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


class T5RelativeBias(Embedding):
    """A number for each bucket of distances and each head."""

    def __init__(self, config: T5Config, policy: Policy):
        init = normal(config.initializer_factor * config.d_model**-0.5)
        super().__init__(config.relative_attention_num_buckets, config.num_heads, policy, init=init)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """From the bucket of each query and key, `[q_len, kv_len]`, to a bias `[1, heads, q_len, kv_len]`."""
        return jnp.moveaxis(super().__call__(ids), -1, 0)[None]


class T5SharedBias(T5RelativeBias):
    """That of all layers, which torch has in the first of them."""

    torch_path = "block.0.layer.0.SelfAttention.relative_attention_bias"


class T5Attention(Module):
    """Attention of the hidden states to themselves, to a cache, or to `memory` (an encoder's hidden states)."""

    def __init__(self, config: T5Config, policy: Policy):
        self.heads, self.dropout_rate = config.num_heads, config.dropout_rate
        self.implementation = policy.attn_implementation
        factor, inner = config.initializer_factor, config.num_heads * config.d_kv
        near = normal(factor * config.d_model**-0.5)
        self.q = Linear(
            config.d_model, inner, policy, use_bias=False, init=normal(factor * (config.d_model * config.d_kv) ** -0.5)
        )
        self.k = Linear(config.d_model, inner, policy, use_bias=False, init=near)
        self.v = Linear(config.d_model, inner, policy, use_bias=False, init=near)
        self.o = Linear(inner, config.d_model, policy, use_bias=False, init=normal(factor * inner**-0.5))

    def project(self, source):
        """Keys and values."""
        return (split_heads(layer(source), self.heads) for layer in (self.k, self.v))

    def __call__(
        self, hidden_states, mask, *, bias=None, memory=None, cache=None, output_attentions=False, dropout_rng=None
    ):
        key, value, cache = keys_and_values(self.project, hidden_states, memory, cache)
        mixed, weights = dot_product_attention(
            split_heads(self.q(hidden_states), self.heads),
            key,
            value,
            mask,
            bias=bias,
            implementation=self.implementation,
            return_weights=output_attentions,
            dropout_rate=self.dropout_rate,
            dropout_rng=dropout_rng,
            scale=1.0,
        )
        return self.o(merge_heads(mixed)), weights, cache


class T5FeedForward(Module):
    """Two dense layers with an activation between them, which may be a gate."""

    def __init__(self, config: T5Config, policy: Policy):
        activation, gated = config.feed_forward
        self.names = "wi_0 wi_1" if gated else "wi"
        self.activation, self.dropout_rate = get_activation(activation), config.dropout_rate
        init = normal(config.initializer_factor * config.d_model**-0.5)
        for name in self.names.split():
            setattr(self, name, Linear(config.d_model, config.d_ff, policy, use_bias=False, init=init))
        init = normal(config.initializer_factor * config.d_ff**-0.5)
        self.wo = Linear(config.d_ff, config.d_model, policy, use_bias=False, init=init)

    def __call__(self, hidden_states, dropout_rng):
        first, *gate = (getattr(self, name) for name in self.names.split())
        inner = self.activation(first(hidden_states))
        for layer in gate:
            inner = inner * layer(hidden_states)
        return self.wo(dropout(inner, self.dropout_rate, dropout_rng))


class T5Sublayer(Module):
    """A part of a block, under torch's name for it, and the norm before it."""

    def __init__(self, config: T5Config, policy: Policy, name: str, part: Module):
        self.name, self.dropout_rate = name, config.dropout_rate
        setattr(self, name, part)
        self.layer_norm = RMSNorm(config.d_model, policy, epsilon=config.layer_norm_epsilon)

    def __call__(self, hidden_states, *args, dropout_rng=None, **options):
        """`hidden_states` with the output of the part added to it, and what else the part returns."""
        inner, outer = split_key(dropout_rng, 2)
        found = getattr(self, self.name)(self.layer_norm(hidden_states), *args, dropout_rng=inner, **options)
        added, *others = found if isinstance(found, tuple) else (found,)
        return finite(hidden_states + dropout(added, self.dropout_rate, outer)), *others


def finite(x: jax.Array) -> jax.Array:
    """T5's hidden states exceed the range of float16, to whose ends they are clipped."""
    if x.dtype != jnp.float16:
        return x
    end = jnp.finfo(x.dtype).max
    return jnp.clip(x, -end, end)


class T5Block(Module):
    """A layer of the encoder, or of the decoder, which also attends to the encoder's output."""

    attention_class: ClassVar[type[T5Attention]] = T5Attention
    """Of the hidden states to themselves."""

    def __init__(self, config: T5Config, policy: Policy, *, decodes: bool):
        parts = {"SelfAttention": self.attention_class(config, policy)}
        parts |= {"EncDecAttention": T5Attention(config, policy)} if decodes else {}
        parts |= {"DenseReluDense": T5FeedForward(config, policy)}
        self.layer = ModuleList(T5Sublayer(config, policy, name, part) for name, part in parts.items())

    def __call__(
        self,
        hidden_states: jax.Array,
        *,
        mask: jax.Array | None,
        bias: jax.Array,
        memory: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        cache: tuple | None = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BlockOutput:
        attention, *cross, feed_forward = self.layer
        keys = split_key(dropout_rng, 3)
        own, crossed = (None, None) if cache is None else cache
        options = {"output_attentions": output_attentions}
        hidden_states, weights, own = attention(
            hidden_states, mask, bias=bias, cache=own, dropout_rng=keys[0], **options
        )
        cross_weights = None
        for attend in cross:
            hidden_states, cross_weights, crossed = attend(
                hidden_states, memory_mask, memory=memory, cache=crossed, dropout_rng=keys[1], **options
            )
        (hidden_states,) = feed_forward(hidden_states, dropout_rng=keys[2])
        return BlockOutput(hidden_states, None if cache is None else (own, crossed), weights, cross_weights)


class T5Stack(Module):
    """The encoder or the decoder. `embed_tokens` is shared by both."""

    block_class: ClassVar[type[T5Block]] = T5Block
    shares_bias: ClassVar[bool] = True
    """Whether all layers have one bias; else each makes its own from the buckets that it is given in its place."""

    def __init__(self, config: T5Config, policy: Policy, embed_tokens: Embedding, *, decodes: bool):
        self.decodes, self.dropout_rate = decodes, config.dropout_rate
        self.num_buckets = config.relative_attention_num_buckets
        self.max_distance = config.relative_attention_max_distance
        self.embed_tokens = embed_tokens
        self.relative_attention_bias = T5SharedBias(config, policy) if self.shares_bias else None
        depth = config.depth(decodes=decodes)
        self.block = Stack(lambda: self.block_class(config, policy, decodes=decodes), depth, policy)
        self.final_layer_norm = RMSNorm(config.d_model, policy, epsilon=config.layer_norm_epsilon)

    def buckets(self, q_len: int, cache: LayerCache | None) -> jax.Array:
        """The bucket of each query and key, int32 `[q_len, kv_len]`."""
        queries = new_places(q_len, cache)
        keys = jnp.arange(q_len) if cache is None else cache.key_positions(q_len)
        return relative_buckets(
            keys[None, :] - queries[:, None],
            bidirectional=not self.decodes,
            buckets=self.num_buckets,
            max_distance=self.max_distance,
        )

    def __call__(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        inputs_embeds=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        past_key_values=None,
        *,
        output_attentions=False,
        output_hidden_states=False,
        dropout_rng=None,
    ) -> BaseModelOutput:
        if position_ids is not None:
            raise FlaxModelsError("decoder_position_ids: T5 has no positions")
        words = embed(self.embed_tokens, input_ids, inputs_embeds)
        cache = None if past_key_values is None else self_attention_cache(past_key_values)
        q_len, rate = words.shape[1], self.dropout_rate
        buckets = self.buckets(q_len, cache)
        if self.decodes:
            mask = decoder_mask(attention_mask, q_len, cache)
        else:
            mask = None if attention_mask is None else padding_mask(attention_mask)
        keys = split_key(dropout_rng, 3)
        outputs = self.block(
            dropout(words, rate, keys[0]),
            past_key_values=past_key_values,
            dropout_rng=keys[1],
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            mask=mask,
            bias=buckets if self.relative_attention_bias is None else self.relative_attention_bias(buckets),
            memory=encoder_hidden_states,
            memory_mask=None if encoder_attention_mask is None else padding_mask(encoder_attention_mask),
        )
        outputs = outputs.normed(lambda last: dropout(self.final_layer_norm(last), rate, keys[2]))
        return BaseModelOutput(**outputs._asdict())


class T5PreTrainedModel(EncoderDecoderModel):
    """Base of the T5 models. All take the inputs of `EncoderDecoderBase.forward` but those of the encoder alone."""

    config_class = T5Config
    base_model_prefix = "transformer"
    ignored_names = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$",)
    tp_plan = {r"(Attention/(q|k|v)|wi(_\d)?|lm_head)": COLUMN, "(Attention/o|wo|shared)": ROW}
    base_class: ClassVar[Any]
    encoder_class: ClassVar[Any]
    """The base models that a model with a head is built on."""
    stack_class: ClassVar[type[T5Stack]] = T5Stack
    config: T5Config

    def set_stacks(self, config: T5Config, policy: Policy, *, decodes: bool = True) -> Embedding:
        """Make the embeddings, the encoder and, if it `decodes`, the decoder."""
        init = normal(config.initializer_factor)
        self.shared = Embedding(config.vocab_size, config.d_model, policy, init=init)
        self.encoder = self.stack_class(config, policy, self.shared, decodes=False)
        if decodes:
            self.decoder = self.stack_class(config, policy, self.shared, decodes=True)
        return self.shared

    def prepare_inputs_for_generation(
        self, input_ids: jax.Array, attention_mask: jax.Array, position_ids: jax.Array, cache: Cache
    ) -> dict[str, Any]:
        given = super().prepare_inputs_for_generation(input_ids, attention_mask, position_ids, cache)
        del given["decoder_position_ids"]
        return given


class T5Model(T5PreTrainedModel, EncoderDecoderBase):
    """Encoder and decoder without a head."""

    def build(self, config: T5Config, policy: Policy):
        self.set_stacks(config, policy)

    def get_input_embeddings(self) -> Embedding:
        return self.shared

    def set_input_embeddings(self, value: Embedding) -> None:
        self.shared = self.encoder.embed_tokens = self.decoder.embed_tokens = value


class T5EncoderModel(T5PreTrainedModel):
    """The encoder alone."""

    ignored_names = (r"(^|\.)decoder\.",)

    def build(self, config: T5Config, policy: Policy):
        self.set_stacks(config, policy, decodes=False)

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
        """
        return self.encoder(
            input_ids,
            attention_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            dropout_rng=dropout_rng,
        )

    def get_input_embeddings(self) -> Embedding:
        return self.shared

    def set_input_embeddings(self, value: Embedding) -> None:
        self.shared = self.encoder.embed_tokens = value


T5PreTrainedModel.base_class, T5PreTrainedModel.encoder_class = T5Model, T5EncoderModel


class _T5WithHead(T5Model):
    """Encoder and decoder with a head beside them: in checkpoints there is no base model inside."""

    forward: Any = EncoderDecoderModel.forward

    @property
    def features(self):
        return super().forward


class T5ForConditionalGeneration(_T5WithHead):
    """The next token of the decoder's text."""

    predicts_next_token = True

    def build(self, config: T5Config, policy: Policy):
        shared = self.set_stacks(config, policy)
        self.scale = config.d_model**-0.5 if config.scales_logits else 1.0
        tied, init = config.tie_word_embeddings, normal(config.initializer_factor)
        self.lm_head = fresh(vocabulary_projection(shared, policy, tied=tied, init=init))

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(Seq2SeqLMOutput, logits=self.lm_head(outputs.last_hidden_state * self.scale))

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.lm_head


class T5ForQuestionAnswering(_T5WithHead):
    """Where in the text the answer begins and ends."""

    def build(self, config: T5Config, policy: Policy):
        self.set_stacks(config, policy)
        init = normal(config.initializer_factor * config.d_model**-0.5)
        self.qa_outputs = fresh(Linear(config.d_model, 2, policy, init=init))

    def head(self, outputs, inputs, dropout_rng):
        start, end = span_logits(self.qa_outputs, outputs.last_hidden_state)
        return outputs.to(Seq2SeqQuestionAnsweringOutput, start_logits=start, end_logits=end)


class T5ForSequenceClassification(T5PreTrainedModel):
    """Classification of a text, by the decoder's state at its last end token."""

    def build(self, config: T5Config, policy: Policy):
        self.transformer = self.base_class.part(config, policy)
        rate, init = config.classifier_dropout, normal(config.initializer_factor * config.d_model**-0.5)
        self.classification_head = ClassificationHead(
            config.d_model, config.num_labels, policy, dropout_rate=rate, init=init
        )

    def head(self, outputs, inputs, dropout_rng):
        state = last_chosen(outputs.last_hidden_state, inputs["input_ids"] == self.config.eos_token_id)
        logits = self.classification_head(state, dropout_rng)
        return outputs.to(Seq2SeqSequenceClassifierOutput, logits=logits)


class T5ForTokenClassification(T5PreTrainedModel):
    """A label for each token, by the encoder alone."""

    ignored_names = T5EncoderModel.ignored_names

    def build(self, config: T5Config, policy: Policy):
        self.dropout_rate = config.classifier_dropout
        self.transformer = self.encoder_class.part(config, policy)
        self.classifier = Linear(config.d_model, config.num_labels, policy, init=normal(config.initializer_factor))

    def head(self, outputs, inputs, dropout_rng):
        logits = self.classifier(dropout(outputs.last_hidden_state, self.dropout_rate, dropout_rng))
        return outputs.to(TokenClassifierOutput, logits=logits)

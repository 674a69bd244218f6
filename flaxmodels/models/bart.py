"""BART (arXiv 1910.13461): bidirectional encoder and autoregressive decoder, with learned positions.

Parameter names and numerics follow the reference implementation in transformers (`BartModel`, `BartFor...`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn.initializers import normal, zeros

from flaxmodels.encoder_decoder import EncoderDecoderBase, EncoderDecoderConfig, EncoderDecoderModel
from flaxmodels.nn.activations import ACTIVATIONS, get_activation
from flaxmodels.nn.attention import dot_product_attention, merge_heads, split_heads
from flaxmodels.nn.cache import CrossCache, self_attention_cache
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.heads import span_logits
from flaxmodels.nn.linear import Embedding, LayerNorm, Linear, TiedLinear, embed, vocabulary_projection
from flaxmodels.nn.masks import decoder_mask, padding_mask
from flaxmodels.nn.module import Module, param
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.stack import BlockOutput, Stack
from flaxmodels.outputs import (
    BaseModelOutput,
    Seq2SeqLMOutput,
    Seq2SeqQuestionAnsweringOutput,
    Seq2SeqSequenceClassifierOutput,
)

POSITION_OFFSET = 2
"""The first rows of the table of positions are not used."""


class BartConfig(EncoderDecoderConfig):
    """Configuration of BART; the defaults are those of bart-large."""

    model_type = "bart"
    default_num_labels = 3
    attribute_map = {
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
    }

    vocab_size: int = 50265
    max_position_embeddings: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    activation_function: str = "gelu"
    d_model: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    classifier_dropout: float = 0.0
    scale_embedding: bool = False
    use_cache: bool = True
    bos_token_id: int | None = 0
    pad_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 2
    forced_eos_token_id: int | None = 2

    def problems(self) -> list[str]:
        found = []
        if self.activation_function not in ACTIVATIONS:
            known = ", ".join(sorted(ACTIVATIONS))
            found.append(f"activation_function={self.activation_function!r}: expected one of {known}")
        found += [
            f"d_model={self.d_model} is not a multiple of {name}={heads}"
            for name in ("encoder_attention_heads", "decoder_attention_heads")
            if self.d_model % (heads := getattr(self, name))
        ]
        return found


class BartAttention(Module):
    """Attention of the hidden states to themselves, to a cache, or to `memory` (an encoder's hidden states)."""

    def __init__(self, config: BartConfig, policy: Policy, heads: int):
        self.heads, self.implementation = heads, policy.attn_implementation
        self.dropout_rate = config.attention_dropout
        init = normal(config.init_std)
        self.k_proj = Linear(config.d_model, config.d_model, policy, init=init)
        self.v_proj = Linear(config.d_model, config.d_model, policy, init=init)
        self.q_proj = Linear(config.d_model, config.d_model, policy, init=init)
        self.out_proj = Linear(config.d_model, config.d_model, policy, init=init)

    def __call__(self, hidden_states, mask, *, memory=None, cache=None, output_attentions=False, dropout_rng=None):
        query = split_heads(self.q_proj(hidden_states), self.heads)
        if isinstance(cache, CrossCache):
            key, value = cache.key.astype(query.dtype), cache.value.astype(query.dtype)
        else:
            source = hidden_states if memory is None else memory
            key, value = (split_heads(layer(source), self.heads) for layer in (self.k_proj, self.v_proj))
            if memory is not None:
                cache = CrossCache(key, value)
            elif cache is not None:
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
        return self.out_proj(merge_heads(mixed)), weights, cache


class BartLayer(Module):
    """A layer of the encoder, or of the decoder, which also attends to the encoder's output."""

    def __init__(self, config: BartConfig, policy: Policy, *, crosses: bool):
        self.dropout_rate, self.activation_dropout = config.dropout, config.activation_dropout
        self.activation = get_activation(config.activation_function)
        heads = config.decoder_attention_heads if crosses else config.encoder_attention_heads
        inner = config.decoder_ffn_dim if crosses else config.encoder_ffn_dim
        self.self_attn = BartAttention(config, policy, heads)
        self.self_attn_layer_norm = LayerNorm(config.d_model, policy, epsilon=1e-5)
        if crosses:
            self.encoder_attn = BartAttention(config, policy, heads)
            self.encoder_attn_layer_norm = LayerNorm(config.d_model, policy, epsilon=1e-5)
        init = normal(config.init_std)
        self.fc1 = Linear(config.d_model, inner, policy, init=init)
        self.fc2 = Linear(inner, config.d_model, policy, init=init)
        self.final_layer_norm = LayerNorm(config.d_model, policy, epsilon=1e-5)

    def __call__(
        self,
        hidden_states: jax.Array,
        *,
        mask: jax.Array | None,
        memory: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        cache: tuple | None = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BlockOutput:
        keys = split_key(dropout_rng, 6)
        own, crossed = (None, None) if cache is None else cache
        options = {"output_attentions": output_attentions}
        mixed, weights, own = self.self_attn(hidden_states, mask, cache=own, dropout_rng=keys[0], **options)
        hidden_states = hidden_states + dropout(mixed, self.dropout_rate, keys[1])
        hidden_states = self.self_attn_layer_norm(hidden_states)
        cross_weights = None
        if hasattr(self, "encoder_attn"):
            mixed, cross_weights, crossed = self.encoder_attn(
                hidden_states, memory_mask, memory=memory, cache=crossed, dropout_rng=keys[2], **options
            )
            hidden_states = hidden_states + dropout(mixed, self.dropout_rate, keys[3])
            hidden_states = self.encoder_attn_layer_norm(hidden_states)
        inner = dropout(self.activation(self.fc1(hidden_states)), self.activation_dropout, keys[4])
        hidden_states = hidden_states + dropout(self.fc2(inner), self.dropout_rate, keys[5])
        caches = None if cache is None else (own, crossed)
        return BlockOutput(self.final_layer_norm(hidden_states), caches, weights, cross_weights)


class BartTower(Module):
    """The encoder or the decoder. `embed_tokens` is shared by both."""

    def __init__(self, config: BartConfig, policy: Policy, embed_tokens: Embedding, *, decodes: bool):
        self.decodes, self.dropout_rate = decodes, config.dropout
        self.scale = config.d_model**0.5 if config.scale_embedding else 1.0
        self.embed_tokens = embed_tokens
        positions = config.max_position_embeddings + POSITION_OFFSET
        self.embed_positions = Embedding(positions, config.d_model, policy, init=normal(config.init_std))
        count = config.decoder_layers if decodes else config.encoder_layers
        self.layers = Stack(lambda: BartLayer(config, policy, crosses=decodes), count, policy)
        self.layernorm_embedding = LayerNorm(config.d_model, policy, epsilon=1e-5)

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
        words = embed(self.embed_tokens, input_ids, inputs_embeds) * (self.scale if inputs_embeds is None else 1.0)
        cache = None if past_key_values is None else self_attention_cache(past_key_values)
        q_len = words.shape[1]
        if position_ids is None:
            position_ids = jnp.arange(q_len)[None] + (0 if cache is None else cache.length)
        hidden_states = self.layernorm_embedding(words + self.embed_positions(position_ids + POSITION_OFFSET))
        if self.decodes:
            mask = decoder_mask(attention_mask, q_len, cache)
        else:
            mask = None if attention_mask is None else padding_mask(attention_mask)
        keys = split_key(dropout_rng, 2)
        outputs = self.layers(
            dropout(hidden_states, self.dropout_rate, keys[0]),
            past_key_values=past_key_values,
            dropout_rng=keys[1],
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            mask=mask,
            memory=encoder_hidden_states,
            memory_mask=None if encoder_attention_mask is None else padding_mask(encoder_attention_mask),
        )
        return BaseModelOutput(**outputs._asdict())


class BartPreTrainedModel(EncoderDecoderModel):
    """Base of the BART models. All take the inputs of `EncoderDecoderBase.forward`."""

    config_class = BartConfig
    base_model_prefix = "model"
    tp_plan = {"(q_proj|k_proj|v_proj|fc1|lm_head)": COLUMN, "(out_proj|fc2|shared)": ROW}
    config: BartConfig


class BartModel(BartPreTrainedModel, EncoderDecoderBase):
    """Encoder and decoder without a head."""

    def build(self, config: BartConfig, policy: Policy):
        self.shared = Embedding(config.vocab_size, config.d_model, policy, init=normal(config.init_std))
        self.encoder = BartTower(config, policy, self.shared, decodes=False)
        self.decoder = BartTower(config, policy, self.shared, decodes=True)

    def get_input_embeddings(self) -> Embedding:
        return self.shared

    def set_input_embeddings(self, value: Embedding) -> None:
        self.shared = self.encoder.embed_tokens = self.decoder.embed_tokens = value


class BartForConditionalGeneration(BartPreTrainedModel):
    """The next token of the decoder's text."""

    predicts_next_token = True

    def build(self, config: BartConfig, policy: Policy):
        self.model = BartModel.part(config, policy)
        self.final_logits_bias = param((1, config.vocab_size), policy.param_dtype, zeros)
        tied, init = config.tie_word_embeddings, normal(config.init_std)
        self.lm_head = vocabulary_projection(self.model.shared, policy, tied=tied, init=init)

    def head(self, outputs, inputs, dropout_rng):
        logits = self.lm_head(outputs.last_hidden_state)
        return outputs.to(Seq2SeqLMOutput, logits=logits + self.final_logits_bias[...].astype(logits.dtype)[None])

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.lm_head


class BartClassificationHead(Module):
    def __init__(self, config: BartConfig, policy: Policy):
        init = normal(config.init_std)
        self.dropout_rate = config.classifier_dropout
        self.dense = Linear(config.d_model, config.d_model, policy, init=init)
        self.out_proj = Linear(config.d_model, config.num_labels, policy, init=init)

    def __call__(self, hidden_states, dropout_rng):
        keys = split_key(dropout_rng, 2)
        hidden_states = jnp.tanh(self.dense(dropout(hidden_states, self.dropout_rate, keys[0])))
        return self.out_proj(dropout(hidden_states, self.dropout_rate, keys[1]))


class BartForSequenceClassification(BartPreTrainedModel):
    """Classification of a text, by the decoder's state at its last end token."""

    def build(self, config: BartConfig, policy: Policy):
        self.model = BartModel.part(config, policy)
        self.classification_head = BartClassificationHead(config, policy)

    def head(self, outputs, inputs, dropout_rng):
        ends = inputs["input_ids"] == self.config.eos_token_id
        last = ends.shape[1] - 1 - jnp.argmax(ends[:, ::-1], axis=1)
        state = jnp.take_along_axis(outputs.last_hidden_state, last[:, None, None], axis=1)[:, 0]
        logits = self.classification_head(state, dropout_rng)
        return outputs.to(Seq2SeqSequenceClassifierOutput, logits=logits)


class BartForQuestionAnswering(BartPreTrainedModel):
    """Where in the text the answer begins and ends."""

    def build(self, config: BartConfig, policy: Policy):
        self.model = BartModel.part(config, policy)
        self.qa_outputs = Linear(config.d_model, 2, policy, init=normal(config.init_std))

    def head(self, outputs, inputs, dropout_rng):
        start, end = span_logits(self.qa_outputs, outputs.last_hidden_state)
        return outputs.to(Seq2SeqQuestionAnsweringOutput, start_logits=start, end_logits=end)

"""BART (arXiv 1910.13461): bidirectional encoder and autoregressive decoder, with learned positions.

Parameter names and numerics follow the reference implementation in transformers (`BartModel`, `BartFor...`).
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import jax
from jax.nn.initializers import normal, zeros

from flaxmodels.encoder_decoder import DecoderAlone, EncoderDecoderBase, EncoderDecoderConfig, EncoderDecoderModel
from flaxmodels.fields import Activation, Layers, Length, Rate, Scale, Size, SpecialId, SpecialIds, TokenId, VocabSize
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.cache import Cache, self_attention_cache
from flaxmodels.nn.dropout import dropout, layer_dropout, split_key
from flaxmodels.nn.heads import ClassificationHead, last_chosen, span_logits
from flaxmodels.nn.linear import (
    Embedding,
    LayerNorm,
    LearnedPositions,
    Linear,
    SinusoidalPositions,
    TiedLinear,
    embed,
    vocabulary_projection,
)
from flaxmodels.nn.masks import decoder_mask, new_places, padding_mask
from flaxmodels.nn.module import Module, TorchLeaf, param
from flaxmodels.nn.multihead import MultiHeadAttention
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.stack import BlockOutput, Stack
from flaxmodels.outputs import (
    BaseModelOutput,
    CausalLMOutput,
    Seq2SeqLMOutput,
    Seq2SeqQuestionAnsweringOutput,
    Seq2SeqSequenceClassifierOutput,
)


class BartConfig(EncoderDecoderConfig):
    """Configuration of BART; the defaults are those of bart-large."""

    model_type = "bart"
    default_num_labels = 3
    attribute_map = {
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
    }
    multiples = (("d_model", "encoder_attention_heads"), ("d_model", "decoder_attention_heads"))

    vocab_size: VocabSize = 50265
    max_position_embeddings: Length = 1024
    encoder_layers: Layers = 12
    encoder_ffn_dim: Size = 4096
    encoder_attention_heads: Size = 16
    decoder_layers: Layers = 12
    decoder_ffn_dim: Size = 4096
    decoder_attention_heads: Size = 16
    encoder_layerdrop: Rate = 0.0
    decoder_layerdrop: Rate = 0.0
    activation_function: Activation = "gelu"
    d_model: Size = 1024
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.0
    activation_dropout: Rate = 0.0
    init_std: Scale = 0.02
    classifier_dropout: Rate = 0.0
    scale_embedding: bool = False
    use_cache: bool = True
    bos_token_id: SpecialId | None = 0
    pad_token_id: SpecialId | None = 1
    eos_token_id: SpecialIds | None = 2
    decoder_start_token_id: TokenId | None = 2
    forced_eos_token_id: SpecialIds | None = 2

    @property
    def shares_embeddings(self) -> bool:
        """Whether there is one table of words for encoder and decoder, of which they have copies unless it is tied."""
        return True


POSITION_OFFSET = 2
"""The first rows of the table of positions are not used."""


class BartLayer(Module):
    """A layer of the encoder, or of the decoder, which also attends to the encoder's output.

    Norms follow each part, or come before it if `pre_norm`.
    """

    key_bias: ClassVar[bool] = True
    """Whether the projections of keys have one."""

    def __init__(self, config: Any, policy: Policy, *, crosses: bool, pre_norm: bool):
        self.pre_norm = pre_norm
        self.dropout_rate, self.activation_dropout = config.dropout, config.activation_dropout
        self.layerdrop = config.decoder_layerdrop if crosses else config.encoder_layerdrop
        self.activation = get_activation(config.activation_function)
        heads = config.decoder_attention_heads if crosses else config.encoder_attention_heads
        inner = config.decoder_ffn_dim if crosses else config.encoder_ffn_dim
        init = normal(config.init_std)
        attention = partial(
            MultiHeadAttention,
            config.d_model,
            heads,
            policy,
            dropout_rate=config.attention_dropout,
            key_bias=self.key_bias,
            init=init,
        )
        self.self_attn = attention()
        self.self_attn_layer_norm = LayerNorm(config.d_model, policy, epsilon=1e-5)
        if crosses:
            self.encoder_attn = attention()
            self.encoder_attn_layer_norm = LayerNorm(config.d_model, policy, epsilon=1e-5)
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
        keys, before = split_key(dropout_rng, 7), hidden_states
        own, crossed = (None, None) if cache is None else cache
        options = {"output_attentions": output_attentions}
        attend = partial(self.self_attn, mask=mask, cache=own, dropout_rng=keys[0], **options)
        hidden_states, weights, own = self._add(attend, hidden_states, self.self_attn_layer_norm, keys[1])
        cross_weights = None
        if memory is not None or crossed is not None:
            attend = partial(
                self.encoder_attn, mask=memory_mask, memory=memory, cache=crossed, dropout_rng=keys[2], **options
            )
            hidden_states, cross_weights, crossed = self._add(
                attend, hidden_states, self.encoder_attn_layer_norm, keys[3]
            )
        feed = partial(self._feed, dropout_rng=keys[4])
        (hidden_states,) = self._add(feed, hidden_states, self.final_layer_norm, keys[5])
        caches = None if cache is None else (own, crossed)
        hidden_states = layer_dropout(before, hidden_states, self.layerdrop, keys[6])
        return BlockOutput(hidden_states, caches, weights, cross_weights)

    def _add(self, part, hidden_states, norm, dropout_rng) -> tuple[Any, ...]:
        """The hidden states with what a part makes of them added, and what else the part returns."""
        made, *others = part(norm(hidden_states) if self.pre_norm else hidden_states)
        hidden_states = hidden_states + dropout(made, self.dropout_rate, dropout_rng)
        return (hidden_states if self.pre_norm else norm(hidden_states)), *others

    def _feed(self, hidden_states, dropout_rng):
        inner = dropout(self.activation(self.fc1(hidden_states)), self.activation_dropout, dropout_rng)
        return (self.fc2(inner),)


class BartTower(Module):
    """The encoder or the decoder, whose `embed_tokens` may be shared. A descendant changes the class attributes.

    Attributes:
        pre_norm: whether norms come before the parts of a layer, and one behind the last layer.
        norms_embeddings: whether there is a norm behind the embeddings.
        sinusoidal: whether positions are sines and cosines instead of learned.
        scales_given: whether a decoder scales embeddings that are given in the place of ids too.
    """

    pre_norm: ClassVar[bool] = False
    norms_embeddings: ClassVar[bool] = True
    sinusoidal: ClassVar[bool] = False
    scales_given: ClassVar[bool] = False

    def __init__(self, config: BartConfig, policy: Policy, embed_tokens: Embedding, *, decodes: bool):
        self.decodes, self.dropout_rate = decodes, config.dropout
        self.scale = config.d_model**0.5 if config.scale_embedding else 1.0
        self.embed_tokens = embed_tokens
        positions, init = config.max_position_embeddings, normal(config.init_std)
        if self.sinusoidal:
            self.embed_positions = SinusoidalPositions(positions, config.d_model, policy)
        else:
            self.embed_positions = LearnedPositions(
                positions, config.d_model, policy, offset=POSITION_OFFSET, init=init
            )
        count = config.decoder_layers if decodes else config.encoder_layers
        self.layers = Stack(lambda: BartLayer(config, policy, crosses=decodes, pre_norm=self.pre_norm), count, policy)
        if self.norms_embeddings:
            self.layernorm_embedding = LayerNorm(config.d_model, policy, epsilon=1e-5)
        if self.pre_norm:
            self.layer_norm = LayerNorm(config.d_model, policy, epsilon=1e-5)

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
        scaled = inputs_embeds is None or (self.decodes and self.scales_given)
        words = embed(self.embed_tokens, input_ids, inputs_embeds) * (self.scale if scaled else 1.0)
        cache = None if past_key_values is None else self_attention_cache(past_key_values)
        q_len = words.shape[1]
        if position_ids is None:
            position_ids = new_places(q_len, cache)[None]
        hidden_states = words + self.embed_positions(position_ids)
        if self.norms_embeddings:
            hidden_states = self.layernorm_embedding(hidden_states)
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
        return BaseModelOutput(**(outputs.normed(self.layer_norm) if self.pre_norm else outputs)._asdict())


class BartPreTrainedModel(EncoderDecoderModel):
    """Base of the BART models. All take the inputs of `EncoderDecoderBase.forward`, but `BartForCausalLM`."""

    config_class = BartConfig
    base_model_prefix = "model"
    ignored_names = (r"(encoder|decoder)\.version$",)
    other_names = {r"(encoder|decoder)\.embed_tokens\.weight$": "shared.weight"}
    tp_plan = {"(q_proj|k_proj|v_proj|fc1|lm_head)": COLUMN, "(out_proj|fc2|shared|embed_tokens)": ROW}
    tower_class: ClassVar[type[BartTower]] = BartTower
    base_class: ClassVar[Any]
    """The base model that a model with a head is built on."""
    config: BartConfig


class BartModel(BartPreTrainedModel, EncoderDecoderBase):
    """Encoder and decoder without a head."""

    def build(self, config: BartConfig, policy: Policy):
        def table(words: int) -> Embedding:
            return Embedding(words, config.d_model, policy, init=normal(config.init_std))

        self.shared = table(config.vocab_size) if config.shares_embeddings else None
        if self.shared is not None and config.tie_word_embeddings:
            source = target = self.shared
        else:
            source, target = table(config.vocab_size), table(config.target_vocab_size)
        self.encoder = self.tower_class(config, policy, source, decodes=False)
        self.decoder = self.tower_class(config, policy, target, decodes=True)

    def get_input_embeddings(self) -> Embedding:
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: Embedding) -> None:
        if self.shared is not None:
            self.shared = self.decoder.embed_tokens = value
        self.encoder.embed_tokens = value


BartPreTrainedModel.base_class = BartModel


class BartForConditionalGeneration(BartPreTrainedModel):
    """The next token of the decoder's text."""

    torch_leaves = {"final_logits_bias": TorchLeaf("final_logits_bias", optional=True)}
    predicts_next_token = True

    def build(self, config: BartConfig, policy: Policy):
        self.model = self.base_class.part(config, policy)
        self.final_logits_bias = param((1, config.target_vocab_size), policy.param_dtype, zeros)
        tied, init = config.tie_word_embeddings, normal(config.init_std)
        self.lm_head = vocabulary_projection(self.model.decoder.embed_tokens, policy, tied=tied, init=init)

    def head(self, outputs, inputs, dropout_rng):
        logits = self.lm_head(outputs.last_hidden_state)
        return outputs.to(Seq2SeqLMOutput, logits=logits + self.final_logits_bias[...].astype(logits.dtype)[None])

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.lm_head


class BartDecoder(BartPreTrainedModel):
    """A decoder of the given kind without its encoder: what `BartForCausalLM` is built on."""

    input_embeddings = "decoder.embed_tokens"
    position_embeddings = "decoder.embed_positions"

    def build(self, config: BartConfig, policy: Policy, *, tower_class: type[BartTower]):
        words = Embedding(config.target_vocab_size, config.d_model, policy, init=normal(config.init_std))
        self.decoder = tower_class(config, policy, words, decodes=True)

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        encoder_hidden_states: jax.Array | None = None,
        encoder_attention_mask: jax.Array | None = None,
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
            encoder_hidden_states: `[batch, source_len, hidden]` for cross-attention, with `encoder_attention_mask`;
                there is none without them.
            past_key_values: from `init_cache` or an earlier output.
        """
        return self.decoder(
            input_ids,
            attention_mask,
            position_ids,
            inputs_embeds,
            encoder_hidden_states,
            encoder_attention_mask,
            past_key_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            dropout_rng=dropout_rng,
        )


class BartForCausalLM(DecoderAlone, BartPreTrainedModel):
    """Next token prediction by the decoder alone. Takes the inputs of `BartDecoder.forward`."""

    predicts_next_token = True

    def build(self, config: BartConfig, policy: Policy):
        self.model = BartDecoder.part(config, policy, tower_class=self.tower_class)
        tied, init = config.tie_word_embeddings, normal(config.init_std)
        self.lm_head = vocabulary_projection(self.model.decoder.embed_tokens, policy, tied=tied, init=init)

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(CausalLMOutput, logits=self.lm_head(outputs.last_hidden_state))

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.lm_head


class BartForSequenceClassification(BartPreTrainedModel):
    """Classification of a text, by the decoder's state at its last end token."""

    def build(self, config: BartConfig, policy: Policy):
        self.model = self.base_class.part(config, policy)
        rate, init = config.classifier_dropout, normal(config.init_std)
        self.classification_head = ClassificationHead(
            config.d_model, config.num_labels, policy, dropout_rate=rate, init=init
        )

    def head(self, outputs, inputs, dropout_rng):
        ends = inputs["input_ids"] == self.config.eos_token_id
        logits = self.classification_head(last_chosen(outputs.last_hidden_state, ends), dropout_rng)
        return outputs.to(Seq2SeqSequenceClassifierOutput, logits=logits)


class BartForQuestionAnswering(BartPreTrainedModel):
    """Where in the text the answer begins and ends."""

    def build(self, config: BartConfig, policy: Policy):
        self.model = self.base_class.part(config, policy)
        self.qa_outputs = Linear(config.d_model, 2, policy, init=normal(config.init_std))

    def head(self, outputs, inputs, dropout_rng):
        start, end = span_logits(self.qa_outputs, outputs.last_hidden_state)
        return outputs.to(Seq2SeqQuestionAnsweringOutput, start_logits=start, end_logits=end)

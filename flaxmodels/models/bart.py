"""BART (arXiv 1910.13461): bidirectional encoder and autoregressive decoder, with learned positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import jax

from flaxmodels.bases.encoder_decoder import EncoderDecoderBase, EncoderDecoderConfig, EncoderDecoderModel, TextStack
from flaxmodels.bases.encoder_decoder_heads import (
    DecoderOnlyForCausalLM,
    EncoderDecoderForConditionalGeneration,
    EncoderDecoderForQuestionAnswering,
    EncoderDecoderForSequenceClassification,
)
from flaxmodels.bases.parts import set_base
from flaxmodels.bases.transformer import DropoutRates, LayerSpec, TransformerLayer
from flaxmodels.fields import Activation, Layers, Length, Rate, Scale, Size, SpecialId, SpecialIds, TokenId, VocabSize
from flaxmodels.nn.cache import Cache
from flaxmodels.nn.embedding import Embedding, LearnedPositions
from flaxmodels.nn.initializers import Initializer, normal, zeros
from flaxmodels.nn.module import TorchLeaf, param
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.stack import Stack, StackOutput
from flaxmodels.outputs import BaseModelOutput, Seq2SeqLMOutput
from flaxmodels.policy import Policy


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
        """Whether encoder and decoder read one vocabulary, of whose table they have copies unless it is tied."""
        return True

    @property
    def embedding_init(self) -> Initializer:
        return normal(self.init_std)

    def layer_spec(self, *, decodes: bool) -> LayerSpec:
        """The numbers of a layer of the encoder, or of the decoder."""
        return bart_layer_spec(self, decodes=decodes)


def bart_layer_spec(config: Any, *, decodes: bool, without_bias: tuple[str, ...] = ()) -> LayerSpec:
    """Of a configuration whose fields have the names of those of BART."""
    return LayerSpec(
        config.d_model,
        config.decoder_attention_heads if decodes else config.encoder_attention_heads,
        config.decoder_ffn_dim if decodes else config.encoder_ffn_dim,
        activation=config.activation_function,
        epsilon=1e-5,
        init=normal(config.init_std),
        without_bias=without_bias,
        rates=DropoutRates(
            weights=config.attention_dropout,
            attention=config.dropout,
            activation=config.activation_dropout,
            mlp=config.dropout,
            layer=config.decoder_layerdrop if decodes else config.encoder_layerdrop,
        ),
    )


POSITION_OFFSET = 2
"""The first rows of the table of positions are not used."""


class BartLayer(TransformerLayer):
    """A layer with norms after its parts."""

    names = {
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "query": "self_attn.q_proj",
        "attn_out": "self_attn.out_proj",
        "attn_norm": "self_attn_layer_norm",
        "cross_key": "encoder_attn.k_proj",
        "cross_value": "encoder_attn.v_proj",
        "cross_query": "encoder_attn.q_proj",
        "cross_attn_out": "encoder_attn.out_proj",
        "cross_attn_norm": "encoder_attn_layer_norm",
        "mlp_in": "fc1",
        "mlp_out": "fc2",
        "mlp_norm": "final_layer_norm",
    }


class BartStack(TextStack):
    """The encoder or the decoder, whose `embed_tokens` may be shared.

    Attributes:
        layer_class: class of the layers.
        normalises_embeddings: whether there is a norm after the embeddings.
        normalises_output: whether there is a norm after the last layer.
        scales_inputs_embeds: whether a decoder scales embeddings that are given in place of ids too.
    """

    layer_class: ClassVar[type[BartLayer]] = BartLayer
    normalises_embeddings: ClassVar[bool] = True
    normalises_output: ClassVar[bool] = False
    scales_inputs_embeds: ClassVar[bool] = False

    def __init__(self, config: BartConfig, policy: Policy, embed_tokens: Embedding, *, decodes: bool):
        spec = config.layer_spec(decodes=decodes)
        self.decodes, self.dropout_rate = decodes, config.dropout
        self.scale = config.d_model**0.5 if config.scale_embedding else 1.0
        self.embed_tokens = embed_tokens
        self.embed_positions = self.make_positions(config, policy)
        count = config.decoder_layers if decodes else config.encoder_layers
        self.layers = Stack(lambda: self.layer_class(spec, policy, crosses=decodes), count, policy)
        self.layernorm_embedding = spec.norm(policy) if self.normalises_embeddings else None
        self.layer_norm = spec.norm(policy) if self.normalises_output else None

    def make_positions(self, config: Any, policy: Policy) -> Embedding:
        """The table of positions."""
        count, init = config.max_position_embeddings, normal(config.init_std)
        return LearnedPositions(count, config.d_model, policy, offset=POSITION_OFFSET, init=init)

    def embed(self, input_ids: jax.Array | None, inputs_embeds: jax.Array | None) -> jax.Array:
        is_scaled = inputs_embeds is None or (self.decodes and self.scales_inputs_embeds)
        return super().embed(input_ids, inputs_embeds) * (self.scale if is_scaled else 1.0)

    def add_positions(self, hidden_states: jax.Array, position_ids: jax.Array | None, cache: Any) -> jax.Array:
        hidden_states = super().add_positions(hidden_states, position_ids, cache)
        return hidden_states if self.layernorm_embedding is None else self.layernorm_embedding(hidden_states)

    def finish(self, outputs: StackOutput, dropout_rng: jax.Array | None) -> StackOutput:
        return outputs if self.layer_norm is None else outputs.normalised(self.layer_norm)


class BartModel(EncoderDecoderBase):
    """Encoder and decoder without a head."""

    config_class = BartConfig
    base_model_prefix = "model"
    keys_to_ignore_on_load = (r"(encoder|decoder)\.version$",)
    key_aliases = {r"(encoder|decoder)\.embed_tokens\.weight$": "shared.weight"}
    tp_plan = {"(q_proj|k_proj|v_proj|fc1|lm_head)": COLUMN, "(out_proj|fc2|shared|embed_tokens)": ROW}
    input_embeddings = "encoder.embed_tokens"
    stack_class: ClassVar[type[BartStack]] = BartStack

    def setup(self, config: BartConfig, policy: Policy) -> None:
        def table(tokens: int) -> Embedding:
            return Embedding(tokens, config.d_model, policy, init=config.embedding_init)

        self.shared = table(config.vocab_size) if config.shares_embeddings else None
        if self.shared is not None and config.tie_word_embeddings:
            source = target = self.shared
        else:
            source, target = table(config.vocab_size), table(config.target_vocab_size)
        self.encoder = self.stack_class(config, policy, source, decodes=False)
        self.decoder = self.stack_class(config, policy, target, decodes=True)

    def set_input_embeddings(self, value: Embedding) -> None:
        super().set_input_embeddings(value)
        if self.shared is not None:
            self.shared = self.decoder.embed_tokens = value


class BartForConditionalGeneration(EncoderDecoderForConditionalGeneration):
    base_class = BartModel
    torch_leaves = {"final_logits_bias": TorchLeaf("final_logits_bias", optional=True)}

    def setup(self, config: BartConfig, policy: Policy) -> None:
        base = set_base(self, config, policy)
        self.final_logits_bias = param((1, config.target_vocab_size), policy.param_dtype, zeros)
        self.add_output_projection(base.decoder.embed_tokens, policy)

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> Seq2SeqLMOutput:
        found = super().head(outputs, inputs, dropout_rng)
        return replace(found, logits=found.logits + self.final_logits_bias[...].astype(found.logits.dtype)[None])


class BartForSequenceClassification(EncoderDecoderForSequenceClassification):
    base_class = BartModel


class BartForQuestionAnswering(EncoderDecoderForQuestionAnswering):
    base_class = BartModel


class BartDecoder(EncoderDecoderModel):
    """The decoder without its encoder."""

    base_class = BartModel
    input_embeddings = "decoder.embed_tokens"
    position_embeddings = "decoder.embed_positions"

    def setup(self, config: BartConfig, policy: Policy) -> None:
        table = Embedding(config.target_vocab_size, config.d_model, policy, init=config.embedding_init)
        self.decoder = self.base_class.stack_class(config, policy, table, decodes=True)

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
            attention_mask: `[batch, kv_len]`, 0 for padding; with a cache of all tokens from the first on.
            position_ids: int `[batch, q_len]`; 0, 1, ... after the cache.
            encoder_hidden_states: `[batch, source_len, hidden]` for cross-attention, with `encoder_attention_mask`;
                there is none without them.
            past_key_values: from `init_cache` or an earlier output.

        Raises:
            FlaxModelsError: not exactly one of `input_ids` and `inputs_embeds`.
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


class BartForCausalLM(DecoderOnlyForCausalLM):
    """Next token prediction by the decoder alone. Takes the inputs of `BartDecoder.forward`."""

    base_class = BartDecoder

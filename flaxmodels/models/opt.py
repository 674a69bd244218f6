"""OPT (arXiv 2205.01068): decoder with learned positions, which padding does not count in.

Parameter names and numerics follow the reference implementation in transformers (`OPTModel`, `OPTFor...`).
"""

from __future__ import annotations

import jax
from jax.nn.initializers import normal

from flaxmodels.config import PreTrainedConfig
from flaxmodels.fields import Activation, Layers, Length, Rate, Scale, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.models.gpt2 import (
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2PreTrainedModel,
)
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.cache import Cache, LayerCache, self_attention_cache
from flaxmodels.nn.dropout import dropout, layer_dropout, split_key
from flaxmodels.nn.inputs import PADDING_MASK, DefaultPositions
from flaxmodels.nn.linear import Embedding, LayerNorm, LearnedPositions, Linear, embed
from flaxmodels.nn.masks import decoder_mask, new_places, token_positions
from flaxmodels.nn.module import Module
from flaxmodels.nn.multihead import MultiHeadAttention
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.stack import BlockOutput, Stack
from flaxmodels.outputs import BaseModelOutput

POSITION_OFFSET = 2
"""The first row of the table of positions is not used, the second is for padding."""


class OPTConfig(PreTrainedConfig):
    """Configuration of OPT; the defaults are those of OPT 125M."""

    model_type = "opt"
    attribute_map = {"initializer_range": "init_std"}
    multiples = (("hidden_size", "num_attention_heads"),)

    vocab_size: VocabSize = 50272
    hidden_size: Size = 768
    num_hidden_layers: Layers = 12
    ffn_dim: Size = 3072
    max_position_embeddings: Length = 2048
    do_layer_norm_before: bool = True
    _remove_final_layer_norm: bool = False
    word_embed_proj_dim: Size | None = None
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.0
    num_attention_heads: Size = 12
    activation_function: Activation = "relu"
    layerdrop: Rate = 0.0
    init_std: Scale = 0.02
    use_cache: bool = True
    pad_token_id: SpecialId | None = 1
    bos_token_id: SpecialId | None = 2
    eos_token_id: SpecialIds | None = 2
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True

    @property
    def embedding_features(self) -> int:
        """Size of the embeddings, and of what the decoder returns."""
        return self.word_embed_proj_dim or self.hidden_size

    def norm(self, policy: Policy) -> LayerNorm:
        """A norm of this architecture."""
        return LayerNorm(self.hidden_size, policy, epsilon=1e-5, affine=self.layer_norm_elementwise_affine)


class OPTDecoderLayer(Module):
    """Attention and MLP, each with a norm before it, or behind its residual (OPT 350M)."""

    def __init__(self, config: OPTConfig, policy: Policy):
        self.norms_before, self.activation = config.do_layer_norm_before, get_activation(config.activation_function)
        self.dropout_rate, self.layerdrop = config.dropout, config.layerdrop
        kwargs = {"use_bias": config.enable_bias, "init": normal(config.init_std)}
        rate, heads = config.attention_dropout, config.num_attention_heads
        self.self_attn = MultiHeadAttention(config.hidden_size, heads, policy, dropout_rate=rate, **kwargs)
        self.self_attn_layer_norm = config.norm(policy)
        self.fc1 = Linear(config.hidden_size, config.ffn_dim, policy, **kwargs)
        self.fc2 = Linear(config.ffn_dim, config.hidden_size, policy, **kwargs)
        self.final_layer_norm = config.norm(policy)

    def __call__(
        self,
        hidden_states: jax.Array,
        *,
        mask: jax.Array,
        cache: LayerCache | None = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BlockOutput:
        keys, given = split_key(dropout_rng, 4), hidden_states
        normed = self.self_attn_layer_norm(hidden_states) if self.norms_before else hidden_states
        options = {"cache": cache, "output_attentions": output_attentions, "dropout_rng": keys[0]}
        mixed, weights, cache = self.self_attn(normed, mask, **options)
        hidden_states = hidden_states + dropout(mixed, self.dropout_rate, keys[1])
        normed = (self.final_layer_norm if self.norms_before else self.self_attn_layer_norm)(hidden_states)
        hidden_states = hidden_states if self.norms_before else normed
        fed = self.fc2(self.activation(self.fc1(normed)))
        hidden_states = hidden_states + dropout(fed, self.dropout_rate, keys[2])
        hidden_states = hidden_states if self.norms_before else self.final_layer_norm(hidden_states)
        return BlockOutput(layer_dropout(given, hidden_states, self.layerdrop, keys[3]), cache, weights)


class OPTDecoder(Module):
    """Embeddings of `embedding_features` and as many outputs, projected to the layers' size and back if it differs."""

    def __init__(self, config: OPTConfig, policy: Policy):
        hidden, features, init = config.hidden_size, config.embedding_features, normal(config.init_std)
        self.embed_tokens = Embedding(config.vocab_size, features, policy, init=init)
        self.embed_positions = LearnedPositions(
            config.max_position_embeddings, hidden, policy, offset=POSITION_OFFSET, init=init
        )
        projects, kwargs = features != hidden, {"use_bias": False, "init": init}
        self.project_out = Linear(hidden, features, policy, **kwargs) if projects else None
        self.project_in = Linear(features, hidden, policy, **kwargs) if projects else None
        ends_normed = config.do_layer_norm_before and not config._remove_final_layer_norm
        self.final_layer_norm = config.norm(policy) if ends_normed else None
        self.layers = Stack(lambda: OPTDecoderLayer(config, policy), config.num_hidden_layers, policy)

    def start(self, words: jax.Array, position_ids: jax.Array) -> jax.Array:
        """What the first layer reads."""
        words = words if self.project_in is None else self.project_in(words)
        return words + self.embed_positions(position_ids)

    def finish(self, hidden_states: jax.Array) -> jax.Array:
        """What becomes of the output of the last layer."""
        for layer in filter(None, (self.final_layer_norm, self.project_out)):
            hidden_states = layer(hidden_states)
        return hidden_states


class OPTPreTrainedModel(GPT2PreTrainedModel):
    """Base of the OPT models. All take the inputs of `OPTModel.forward`."""

    config_class = OPTConfig
    base_model_prefix = "model"
    ignored_names = ()
    tp_plan = {"(q_proj|k_proj|v_proj|fc1|lm_head)": COLUMN, "(out_proj|fc2|embed_tokens)": ROW}

    @property
    def output_features(self) -> int:
        return self.config.embedding_features


class OPTModel(OPTPreTrainedModel):
    """The decoder without a head."""

    input_embeddings = "decoder.embed_tokens"
    position_embeddings = "decoder.embed_positions"
    expected_inputs = {"attention_mask": PADDING_MASK}

    @property
    def default_positions(self) -> DefaultPositions:
        return DefaultPositions(skips=("attention_mask", 0))

    def build(self, config: OPTConfig, policy: Policy):
        self.decoder = OPTDecoder(config, policy)

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
            input_ids: int `[batch, q_len]`; or `inputs_embeds` `[batch, q_len, embedding_features]` in its place.
            attention_mask: `[batch, kv_len]`, 0 for padding; with a cache it speaks of the whole text.
            position_ids: int `[batch, q_len]`; by default the number of tokens before each that are not padding.
            past_key_values: from `init_cache` or an earlier output.
        """
        words = embed(self.decoder.embed_tokens, input_ids, inputs_embeds)
        q_len = words.shape[1]
        cache = None if past_key_values is None else self_attention_cache(past_key_values)
        if position_ids is None:
            position_ids = token_positions(attention_mask, new_places(q_len, cache))
        outputs = self.decoder.layers(
            self.decoder.start(words, position_ids),
            past_key_values=past_key_values,
            dropout_rng=dropout_rng,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            mask=decoder_mask(attention_mask, q_len, cache),
        )
        return BaseModelOutput(**outputs.normed(self.decoder.finish)._asdict())


OPTPreTrainedModel.base_class = OPTModel


class OPTForCausalLM(OPTPreTrainedModel, GPT2LMHeadModel):
    """Next token prediction."""


class OPTForSequenceClassification(OPTPreTrainedModel, GPT2ForSequenceClassification):
    """Classification of a sequence by its last token that is not padding."""


class OPTForQuestionAnswering(OPTPreTrainedModel, GPT2ForQuestionAnswering):
    """Where in the text the answer begins and ends."""

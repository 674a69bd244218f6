"""OPT (arXiv 2205.01068): decoder with learned positions, which padding does not count in."""

from __future__ import annotations

from typing import Any

import jax

from flaxmodels.bases.decoder import DecoderModel, Tokens, causal_masks
from flaxmodels.bases.decoder_heads import DecoderForCausalLM, DecoderForSequenceClassification
from flaxmodels.bases.decoder_layer import DecoderLayer, FeedForward, Mixer
from flaxmodels.bases.decoder_parts import attention
from flaxmodels.bases.heads import ForQuestionAnswering
from flaxmodels.config import PreTrainedConfig
from flaxmodels.execution.inputs import PADDING_MASK, DefaultPositions
from flaxmodels.fields import Activation, Layers, Length, Rate, Scale, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.dropout import layer_dropout, split_key
from flaxmodels.nn.embedding import Embedding, LearnedPositions
from flaxmodels.nn.initializers import normal
from flaxmodels.nn.masks import token_positions
from flaxmodels.nn.module import Module
from flaxmodels.nn.norms import LayerNorm
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.self_attention import MultiHeadSelfAttention
from flaxmodels.nn.stack import BlockOutput, Stack
from flaxmodels.policy import Policy

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


def layer_norm(config: OPTConfig, policy: Policy) -> LayerNorm:
    """A norm of this architecture."""
    return LayerNorm(config.hidden_size, policy, epsilon=1e-5, affine=config.layer_norm_elementwise_affine)


class OPTDecoderLayer(DecoderLayer):
    """Attention and MLP, each with a norm before it, or of its sum with the residual (OPT 350M)."""

    def __init__(self, config: OPTConfig, policy: Policy):
        rate, attn_norm, mlp_norm = config.dropout, "self_attn_layer_norm", "final_layer_norm"
        before = (
            Mixer("self_attn", pre_norm=attn_norm, dropout_rate=rate),
            FeedForward("mlp", pre_norm=mlp_norm, dropout_rate=rate),
        )
        after = (
            Mixer("self_attn", sum_norm=attn_norm, dropout_rate=rate),
            FeedForward("mlp", sum_norm=mlp_norm, dropout_rate=rate),
        )
        self.sublayers = before if config.do_layer_norm_before else after
        self.layerdrop, self.activation = config.layerdrop, get_activation(config.activation_function)
        kwargs = {"use_bias": config.enable_bias, "init": normal(config.init_std)}
        self.self_attn = attention(config, policy, MultiHeadSelfAttention, rotate=None, use_bias=config.enable_bias)
        self.self_attn_layer_norm = layer_norm(config, policy)
        self.fc1 = Linear(config.hidden_size, config.ffn_dim, policy, **kwargs)
        self.fc2 = Linear(config.ffn_dim, config.hidden_size, policy, **kwargs)
        self.final_layer_norm = layer_norm(config, policy)

    def mlp(self, hidden_states: jax.Array) -> jax.Array:
        """The MLP, whose dense layers are the layer's own."""
        return self.fc2(self.activation(self.fc1(hidden_states)))

    def __call__(
        self, hidden_states: jax.Array, *, dropout_rng: jax.Array | None = None, **options: Any
    ) -> BlockOutput:
        keys = split_key(dropout_rng, 2)
        output = super().__call__(hidden_states, dropout_rng=keys[0], **options)
        kept = layer_dropout(hidden_states, output.hidden_states, self.layerdrop, keys[1])
        return output._replace(hidden_states=kept)


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
        has_final_norm = config.do_layer_norm_before and not config._remove_final_layer_norm
        self.final_layer_norm = layer_norm(config, policy) if has_final_norm else None
        self.layers = Stack(lambda: OPTDecoderLayer(config, policy), config.num_hidden_layers, policy)


class OPTModel(DecoderModel):
    """The decoder without a head."""

    config_class = OPTConfig
    keys_to_ignore_on_load = ()
    tp_plan = {"(q_proj|k_proj|v_proj|fc1|lm_head)": COLUMN, "(out_proj|fc2|embed_tokens)": ROW}
    input_embeddings = "decoder.embed_tokens"
    position_embeddings = "decoder.embed_positions"
    layers_path = "decoder.layers"
    layer_context = {"mask": causal_masks}
    expected_inputs = {"attention_mask": PADDING_MASK}

    @property
    def default_positions(self) -> DefaultPositions:
        return DefaultPositions(skips=("attention_mask", 0))

    @property
    def output_features(self) -> int:
        return self.config.embedding_features

    def setup(self, config: OPTConfig, policy: Policy):
        self.decoder = OPTDecoder(config, policy)

    def default_position_ids(self, attention_mask: jax.Array | None, positions: jax.Array) -> jax.Array:
        return token_positions(attention_mask, positions)

    def embed_inputs(self, token_embeds: jax.Array, tokens: Tokens, dropout_rng: jax.Array | None) -> jax.Array:
        project = self.decoder.project_in
        hidden_states = token_embeds if project is None else project(token_embeds)
        return hidden_states + self.decoder.embed_positions(tokens.position_ids)

    def normalise(self, hidden_states: jax.Array) -> jax.Array:
        for layer in filter(None, (self.decoder.final_layer_norm, self.decoder.project_out)):
            hidden_states = layer(hidden_states)
        return hidden_states


class OPTForCausalLM(DecoderForCausalLM):
    base_class = OPTModel


class OPTForSequenceClassification(DecoderForSequenceClassification):
    base_class = OPTModel


class OPTForQuestionAnswering(ForQuestionAnswering):
    base_class = OPTModel

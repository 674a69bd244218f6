"""GPT-NeoX (arXiv 2204.06745) and Pythia (arXiv 2304.01373): rotary positions, attention beside the MLP."""

from __future__ import annotations

from typing import Any

import jax

from flaxmodels.bases.decoder import DecoderModel, Tokens
from flaxmodels.bases.decoder_heads import (
    DecoderForCausalLM,
    DecoderForSequenceClassification,
    DecoderForTokenClassification,
)
from flaxmodels.bases.decoder_layer import DecoderLayer, FeedForward, Mixer, parallel, sequential
from flaxmodels.bases.decoder_parts import attention, token_embedding
from flaxmodels.bases.heads import ForQuestionAnswering
from flaxmodels.bases.rotary_config import RotaryConfig
from flaxmodels.fields import (
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
from flaxmodels.nn.dropout import dropout
from flaxmodels.nn.initializers import normal
from flaxmodels.nn.mlp import MLP
from flaxmodels.nn.norms import LayerNorm
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.self_attention import FusedAttention
from flaxmodels.policy import Policy


class GPTNeoXConfig(RotaryConfig):
    """Configuration of GPT-NeoX; the defaults are those of GPT-NeoX 20B."""

    model_type = "gpt_neox"
    multiples = (("hidden_size", "num_attention_heads"),)

    vocab_size: VocabSize = 50432
    hidden_size: Size = 6144
    num_hidden_layers: Layers = 44
    num_attention_heads: Size = 64
    intermediate_size: Size = 24576
    hidden_act: Activation = "gelu"
    rotary_pct: Positive = 0.25
    rotary_emb_base: Positive = 10000
    attention_dropout: Rate = 0.0
    hidden_dropout: Rate = 0.0
    classifier_dropout: Rate | None = 0.1
    max_position_embeddings: Length = 2048
    initializer_range: Scale = 0.02
    layer_norm_eps: Epsilon = 1e-5
    use_cache: bool = True
    bos_token_id: SpecialId | None = 0
    eos_token_id: SpecialIds | None = 2
    tie_word_embeddings: bool = False
    use_parallel_residual: bool = True
    attention_bias: bool = True

    @property
    def rope_fields(self) -> dict[str, Any]:
        """As for all, with the names that files of v4 have."""
        return vars(self) | {"rope_theta": self.rotary_emb_base, "partial_rotary_factor": self.rotary_pct}


class GPTNeoXLayer(DecoderLayer):
    """Attention and MLP, each with a norm before it: both of the layer's input, or one after the other."""

    def __init__(self, config: GPTNeoXConfig, policy: Policy):
        hidden, init = config.hidden_size, normal(config.initializer_range)
        self.arrangement = parallel if config.use_parallel_residual else sequential
        self.sublayers = (
            Mixer("attention", pre_norm="input_layernorm", dropout_rate=config.hidden_dropout),
            FeedForward("mlp", pre_norm="post_attention_layernorm", dropout_rate=config.hidden_dropout),
        )
        self.input_layernorm = LayerNorm(hidden, policy, epsilon=config.layer_norm_eps)
        self.post_attention_layernorm = LayerNorm(hidden, policy, epsilon=config.layer_norm_eps)
        self.attention = attention(config, policy, FusedAttention, use_bias=config.attention_bias)
        names = ("dense_h_to_4h", "dense_4h_to_h")
        self.mlp = MLP(hidden, config.intermediate_size, policy, activation=config.hidden_act, names=names, init=init)


class GPTNeoXModel(DecoderModel):
    """The decoder without a head."""

    config_class = GPTNeoXConfig
    layer_class = GPTNeoXLayer
    base_model_prefix = "gpt_neox"
    keys_to_ignore_on_load = (r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$",)
    tp_plan = {
        "(query_key_value|dense_h_to_4h|embed_out)": COLUMN,
        "(attention/dense|dense_4h_to_h|embed_in)": ROW,
    }
    input_embeddings = "embed_in"
    final_norm_path = "final_layer_norm"

    def setup(self, config: GPTNeoXConfig, policy: Policy):
        self.embed_in = token_embedding(config, policy)
        self.layers = self.make_layers(config, policy)
        self.final_layer_norm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps)

    def embed_inputs(self, token_embeds: jax.Array, tokens: Tokens, dropout_rng: jax.Array | None) -> jax.Array:
        return dropout(token_embeds, self.config.hidden_dropout, dropout_rng)


class GPTNeoXForCausalLM(DecoderForCausalLM):
    base_class = GPTNeoXModel
    head_name = "embed_out"
    key_aliases = {r"^embed_out\.": "lm_head."}


class GPTNeoXForSequenceClassification(DecoderForSequenceClassification):
    base_class = GPTNeoXModel


class GPTNeoXForTokenClassification(DecoderForTokenClassification):
    base_class = GPTNeoXModel
    head_name = "classifier"


class GPTNeoXForQuestionAnswering(ForQuestionAnswering):
    base_class = GPTNeoXModel

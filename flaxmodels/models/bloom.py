"""BLOOM (arXiv 2211.05100): decoder whose attention favours near tokens (ALiBi, arXiv 2108.12409); no positions."""

from __future__ import annotations

from typing import Any

import jax

from flaxmodels.bases.decoder import DecoderBase, Tokens, alibi_biases, causal_masks
from flaxmodels.bases.decoder_heads import (
    DecoderForCausalLM,
    DecoderForSequenceClassification,
    DecoderForTokenClassification,
)
from flaxmodels.bases.decoder_layer import DecoderLayer, FeedForward, Mixer, sequential, sequential_from_norms
from flaxmodels.bases.decoder_parts import attention, token_embedding
from flaxmodels.bases.heads import ForQuestionAnswering
from flaxmodels.config import PreTrainedConfig
from flaxmodels.execution.inputs import PADDING_MASK
from flaxmodels.fields import Epsilon, Layers, Rate, Scale, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.nn.cache import Cache
from flaxmodels.nn.initializers import normal
from flaxmodels.nn.mlp import MLP
from flaxmodels.nn.norms import LayerNorm
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.self_attention import FusedAttention
from flaxmodels.outputs import BaseModelOutput
from flaxmodels.policy import Policy


class BloomConfig(PreTrainedConfig):
    """Configuration of BLOOM; the defaults are those of transformers, a tiny model."""

    model_type = "bloom"
    attribute_map = {"n_embed": "hidden_size", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
    multiples = (("hidden_size", "n_head"),)

    vocab_size: VocabSize = 250880
    hidden_size: Size = 64
    n_layer: Layers = 2
    n_head: Size = 8
    layer_norm_epsilon: Epsilon = 1e-5
    initializer_range: Scale = 0.02
    use_cache: bool = True
    bos_token_id: SpecialId | None = 1
    eos_token_id: SpecialIds | None = 2
    apply_residual_connection_post_layernorm: bool = False
    hidden_dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    pretraining_tp: Size = 1
    slow_but_exact: bool = False

    def validation_errors(self) -> list[str]:
        found = super().validation_errors()
        if self.slow_but_exact and self.pretraining_tp > 1:
            found.append(f"slow_but_exact=True with pretraining_tp={self.pretraining_tp} is not implemented")
        return found


class BloomBlock(DecoderLayer):
    """Attention and MLP, each with a norm before it; residuals are taken before the norms, or after them."""

    def __init__(self, config: BloomConfig, policy: Policy):
        hidden, init = config.hidden_size, normal(config.initializer_range)
        from_norms = config.apply_residual_connection_post_layernorm
        self.arrangement = sequential_from_norms if from_norms else sequential
        self.sublayers = (
            Mixer("self_attention", pre_norm="input_layernorm", dropout_rate=config.hidden_dropout),
            FeedForward("mlp", pre_norm="post_attention_layernorm", dropout_rate=config.hidden_dropout),
        )
        self.input_layernorm = LayerNorm(hidden, policy, epsilon=config.layer_norm_epsilon)
        self.self_attention = attention(config, policy, FusedAttention, rotate=None)
        self.post_attention_layernorm = LayerNorm(hidden, policy, epsilon=config.layer_norm_epsilon)
        names = ("dense_h_to_4h", "dense_4h_to_h")
        self.mlp = MLP(hidden, 4 * hidden, policy, activation="gelu_new", names=names, init=init)


class BloomModel(DecoderBase):
    """The decoder without a head."""

    config_class = BloomConfig
    layer_class = BloomBlock
    base_model_prefix = "transformer"
    keys_to_ignore_on_load = ()
    tp_plan = {
        "(query_key_value|dense_h_to_4h|lm_head)": COLUMN,
        "(self_attention/dense|dense_4h_to_h|word_embeddings)": ROW,
    }
    input_embeddings = "word_embeddings"
    layers_path = "h"
    final_norm_path = "ln_f"
    layer_context = {"mask": causal_masks, "bias": alibi_biases}
    expected_inputs = {"attention_mask": PADDING_MASK}

    def setup(self, config: BloomConfig, policy: Policy):
        self.word_embeddings = token_embedding(config, policy)
        self.word_embeddings_layernorm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_epsilon)
        self.h = self.make_layers(config, policy)
        self.ln_f = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_epsilon)

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutput:
        """Decode. The inputs are those of `DecoderModel.forward`, without positions.

        Args:
            attention_mask: `[batch, kv_len]`, 0 for padding, which counts in no distance; with a cache it is of the
                whole sequence.
        """
        inputs = (input_ids, attention_mask, None, past_key_values, inputs_embeds)
        options: dict[str, Any] = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        outputs, _ = self.decode(*inputs, **options, dropout_rng=dropout_rng)
        return BaseModelOutput(**outputs._asdict())

    def embed_inputs(self, token_embeds: jax.Array, tokens: Tokens, dropout_rng: jax.Array | None) -> jax.Array:
        return self.word_embeddings_layernorm(token_embeds)


class BloomForCausalLM(DecoderForCausalLM):
    base_class = BloomModel

    def prepare_inputs_for_generation(
        self, input_ids: jax.Array, attention_mask: jax.Array, position_ids: jax.Array, cache: Cache
    ) -> dict[str, Any]:
        """As for all; no positions."""
        inputs = super().prepare_inputs_for_generation(input_ids, attention_mask, position_ids, cache)
        return {name: value for name, value in inputs.items() if name != "position_ids"}


class BloomForSequenceClassification(DecoderForSequenceClassification):
    base_class = BloomModel


class BloomForTokenClassification(DecoderForTokenClassification):
    base_class = BloomModel
    head_name = "classifier"


class BloomForQuestionAnswering(ForQuestionAnswering):
    base_class = BloomModel

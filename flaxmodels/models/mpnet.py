"""MPNet (arXiv 2004.09297): BERT without token types, whose layers share a bias by relative position."""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Interval

from flaxmodels.bases.encoder import EncoderModel
from flaxmodels.bases.encoder_heads import (
    EncoderForFirstTokenClassification,
    EncoderForMaskedLM,
    EncoderForMultipleChoice,
    EncoderForQuestionAnswering,
    EncoderForTokenClassification,
)
from flaxmodels.bases.transformer import TransformerLayer
from flaxmodels.execution.inputs import DefaultPositions
from flaxmodels.fields import MAX_SIZE, SpecialId, SpecialIds, VocabSize
from flaxmodels.models.bert import BertConfig
from flaxmodels.nn.embedding import Embedding
from flaxmodels.nn.initializers import normal
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.relative import relative_buckets
from flaxmodels.outputs import BaseModelOutputWithPooling
from flaxmodels.policy import Policy

BUCKETS, MAX_DISTANCE = 32, 128
"""Of relative positions; the reference implementation uses these whatever a configuration says."""

PADDING = 1
"""The token that positions do not count, and its position; the same in every configuration."""


class MPNetConfig(BertConfig):
    """Configuration of MPNet; the defaults are those of transformers."""

    model_type = "mpnet"

    vocab_size: VocabSize = 30527
    relative_attention_num_buckets: Annotated[int, Interval(ge=BUCKETS, le=MAX_SIZE)] = BUCKETS
    pad_token_id: SpecialId | None = 1
    bos_token_id: SpecialId | None = 0
    eos_token_id: SpecialIds | None = 2

    def validation_errors(self) -> list[str]:
        found = super().validation_errors()
        if self.is_decoder:
            found.append("is_decoder=True: MPNet does not decode")
        return found


class MPNetLayer(TransformerLayer):
    """A layer with norms after attention and feed-forward network."""

    names = {
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "query": "attention.attn.q",
        "attn_out": "attention.attn.o",
        "attn_norm": "attention.LayerNorm",
        "mlp_in": "intermediate.dense",
        "mlp_out": "output.dense",
        "mlp_norm": "output.LayerNorm",
    }


class MPNetModel(EncoderModel):
    """The encoder without a head, and the pooler unless `add_pooling_layer=False`."""

    config_class = MPNetConfig
    base_model_prefix = "mpnet"
    keys_to_ignore_on_load = (r"embeddings\.position_ids$",)
    tp_plan = {
        "(attn/(q|k|v)|intermediate/dense|lm_head/decoder)": COLUMN,
        "(attn/o|output/dense|word_embeddings)": ROW,
    }
    layer_class = MPNetLayer
    lm_head_names = {
        "dense": "lm_head.dense",
        "norm": "lm_head.layer_norm",
        "bias": "lm_head.bias",
        "decoder": "lm_head.decoder",
    }
    lm_head_activation = "gelu"
    encoder: Any

    @property
    def default_positions(self) -> DefaultPositions:
        return DefaultPositions(PADDING + 1, ("input_ids", PADDING))

    def setup(self, config: MPNetConfig, policy: Policy, *, add_pooling_layer: bool = True) -> None:
        super().setup(config, policy, add_pooling_layer=add_pooling_layer)
        rows, heads, init = config.relative_attention_num_buckets, config.num_attention_heads, config.initializer_range
        self.encoder.relative_attention_bias = Embedding(rows, heads, policy, init=normal(init))

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
    ) -> BaseModelOutputWithPooling:
        """Encode.

        Args:
            input_ids: int `[batch, q_len]`; or `inputs_embeds` `[batch, q_len, hidden]` in its place.
            attention_mask: `[batch, q_len]`, 0 for padding.
            position_ids: int `[batch, q_len]`; tokens but those of id 1 count from 2 on if not given.

        Raises:
            FlaxModelsError: not exactly one of `input_ids` and `inputs_embeds`.
        """
        options: dict[str, Any] = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        return self.encode(input_ids, inputs_embeds, attention_mask, position_ids, **options, dropout_rng=dropout_rng)

    def layer_inputs(self, attention_mask: jax.Array | None, position_ids: jax.Array, cache: Any) -> dict[str, Any]:
        inputs = super().layer_inputs(attention_mask, position_ids, cache)
        return inputs | {"bias": self.position_bias(position_ids.shape[1])}

    def position_bias(self, length: int) -> jax.Array:
        """What is added to the scores of attention, `[1, heads, length, length]`."""
        positions = jnp.arange(length)
        distances = positions[None] - positions[:, None]  # [q_len, kv_len]
        buckets = relative_buckets(distances, bidirectional=True, buckets=BUCKETS, max_distance=MAX_DISTANCE)
        return jnp.moveaxis(self.encoder.relative_attention_bias(buckets), -1, 0)[None]


class MPNetForMaskedLM(EncoderForMaskedLM):
    base_class = MPNetModel


class MPNetForSequenceClassification(EncoderForFirstTokenClassification):
    base_class = MPNetModel


class MPNetForMultipleChoice(EncoderForMultipleChoice):
    base_class = MPNetModel


class MPNetForTokenClassification(EncoderForTokenClassification):
    base_class = MPNetModel


class MPNetForQuestionAnswering(EncoderForQuestionAnswering):
    base_class = MPNetModel

"""UMT5 (arXiv 2304.09151): mT5 with a bias for distances in every layer."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, ClassVar

import jax

from flaxmodels.bases.parts import place
from flaxmodels.fields import Layers, Size, TokenId, VocabSize
from flaxmodels.models.t5 import (
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5ForQuestionAnswering,
    T5ForSequenceClassification,
    T5ForTokenClassification,
    T5Layer,
    T5Model,
    T5RelativeBias,
    T5Stack,
)
from flaxmodels.nn.cache import LayerCache
from flaxmodels.policy import Policy


class UMT5Config(T5Config):
    """Configuration of UMT5; the defaults are those of transformers."""

    model_type = "umt5"

    vocab_size: VocabSize = 250112
    d_ff: Size = 1024
    num_layers: Layers = 8
    num_heads: Size = 6
    feed_forward_proj: str = "gated-gelu"
    decoder_start_token_id: TokenId | None = 0


class UMT5Layer(T5Layer):
    """A layer with a bias of its own, which is given the bucket of each query and key in its place."""

    bias_path: ClassVar[str] = "layer.0.SelfAttention.relative_attention_bias"

    def __init__(self, config: UMT5Config, policy: Policy, *, crosses: bool):
        super().__init__(config, policy, crosses=crosses)
        place(self, self.bias_path, T5RelativeBias(config, policy))

    def attend(
        self, hidden_states: jax.Array, *, bias: jax.Array | None = None, **options: Any
    ) -> tuple[jax.Array, jax.Array | None, Any]:
        """As in `TransformerLayer`, where `bias` are buckets, int `[q_len, kv_len]`."""
        bias = None if bias is None else attrgetter(self.bias_path)(self)(bias)
        return super().attend(hidden_states, bias=bias, **options)


class UMT5Stack(T5Stack):
    """The encoder or the decoder, whose layers have no bias in common."""

    layer_class = UMT5Layer

    def make_bias(self, config: T5Config, policy: Policy) -> None:
        return None

    def layer_inputs(self, q_len: int, cache: LayerCache | None) -> dict[str, Any]:
        return {"bias": self.buckets(q_len, cache)}


class UMT5Model(T5Model):
    """Encoder and decoder without a head."""

    config_class = UMT5Config
    stack_class = UMT5Stack


class UMT5EncoderModel(T5EncoderModel):
    base_class = UMT5Model


class UMT5ForConditionalGeneration(T5ForConditionalGeneration):
    base_class = UMT5Model


class UMT5ForSequenceClassification(T5ForSequenceClassification):
    base_class = UMT5Model


class UMT5ForTokenClassification(T5ForTokenClassification):
    base_class = UMT5EncoderModel


class UMT5ForQuestionAnswering(T5ForQuestionAnswering):
    base_class = UMT5Model

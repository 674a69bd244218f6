"""Gemma 3, its text models (arXiv 2503.19786): Gemma 2 with norms of queries and keys in place of the soft caps.

Parameter names and numerics follow the reference implementation in transformers (`Gemma3TextModel`, `Gemma3For...`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flaxmodels.fields import LayerType, Length, Positive, Size, VocabSize
from flaxmodels.models.gemma2 import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma2ForSequenceClassification,
    Gemma2Model,
    Gemma2PreTrainedModel,
)
from flaxmodels.nn.rope import RopeConfig, rope_parameters


class Gemma3TextConfig(Gemma2Config):
    """Configuration of the text models of Gemma 3; the defaults are those of transformers."""

    model_type = "gemma3_text"
    query_key_norm = "head"

    vocab_size: VocabSize = 262208
    max_position_embeddings: Length = 131072
    final_logit_softcapping: Positive | None = None
    attn_logit_softcapping: Positive | None = None
    use_bidirectional_attention: bool | None = False
    sliding_window_pattern: Size = 6
    rope_local_base_freq: Positive = 10000.0
    rope_parameters: dict[LayerType, dict[str, Any] | None] | None = None

    @property
    def kinds(self) -> Sequence[LayerType]:
        """Whether each layer is of "sliding_attention" or "full_attention"."""
        every = self.sliding_window_pattern
        is_full = [(number + 1) % every == 0 for number in range(self.num_hidden_layers)]
        return self.layer_types or ["full_attention" if full else "sliding_attention" for full in is_full]

    @property
    def ropes(self) -> tuple[RopeConfig, ...]:
        """Layers with a window turn faster than the others."""
        stated = self.rope_parameters or {}
        thetas: dict[LayerType, float] = {
            "sliding_attention": self.rope_local_base_freq,
            "full_attention": self.rope_theta or 1e6,
        }
        scaling = {"full_attention": self.rope_scaling}
        found = {}
        for kind, theta in thetas.items():
            own = {"rope_theta": theta} | (stated.get(kind) or scaling.get(kind) or {})
            found[kind] = RopeConfig.from_parameters(
                rope_parameters({"rope_parameters": own, "max_position_embeddings": self.max_position_embeddings}),
                head_dim=self.features_per_head,
                max_position_embeddings=self.max_position_embeddings,
            )
        return tuple(found[kind] for kind in self.kinds)


class Gemma3PreTrainedModel(Gemma2PreTrainedModel):
    """Base of the text models of Gemma 3. All take the inputs of `LlamaModel.forward`."""

    config_class = Gemma3TextConfig


class Gemma3TextModel(Gemma3PreTrainedModel, Gemma2Model):
    """The decoder without a head."""


Gemma3PreTrainedModel.base_class = Gemma3TextModel


class Gemma3ForCausalLM(Gemma3PreTrainedModel, Gemma2ForCausalLM):
    """Next token prediction."""


class Gemma3TextForSequenceClassification(Gemma3PreTrainedModel, Gemma2ForSequenceClassification):
    """Classification of a sequence by its last token that is not padding."""

"""SmolLM3: Llama in which every fourth layer has no rotary positions (arXiv 2501.18795).

Parameter names and numerics follow the reference implementation in transformers (`SmolLM3Model`, `SmolLM3For...`).
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Interval

from flaxmodels.fields import Layers, LayerType, Length, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.models.llama import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
    LlamaPreTrainedModel,
)
from flaxmodels.nn.rope import RopeConfig


class SmolLM3Config(LlamaConfig):
    """Configuration of SmolLM3; the defaults are those of SmolLM3 3B."""

    model_type = "smollm3"
    default_theta = 2e6

    vocab_size: VocabSize = 128256
    hidden_size: Size = 2048
    num_hidden_layers: Layers = 36
    num_attention_heads: Size = 16
    num_key_value_heads: Size | None = 4
    max_position_embeddings: Length = 32768
    pad_token_id: SpecialId | None = 128004
    bos_token_id: SpecialId | None = 128000
    eos_token_id: SpecialIds | None = 128001
    tie_word_embeddings: bool = True
    use_sliding_window: bool = False
    sliding_window: Length | None = None
    no_rope_layers: list[Annotated[int, Interval(ge=0, le=1)]] | None = None
    no_rope_layer_interval: Size = 4
    layer_types: list[LayerType] | None = None

    @property
    def rotates(self) -> list[bool]:
        """Whether each layer has rotary positions."""
        every = self.no_rope_layer_interval
        turns = [(number + 1) % every != 0 for number in range(self.num_hidden_layers)]
        return turns if self.no_rope_layers is None else [bool(flag) for flag in self.no_rope_layers]

    @property
    def ropes(self) -> tuple[RopeConfig | None, ...]:
        rope = self.rope
        return tuple(rope if rotates else None for rotates in self.rotates)

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        if not self.use_sliding_window:
            return (None,) * self.num_hidden_layers
        kinds = self.layer_types or ["" if rotates else "sliding_attention" for rotates in self.rotates]
        return tuple(self.sliding_window if kind == "sliding_attention" else None for kind in kinds)


class SmolLM3PreTrainedModel(LlamaPreTrainedModel):
    """Base of the SmolLM3 models. All take the inputs of `LlamaModel.forward`."""

    config_class = SmolLM3Config


class SmolLM3Model(SmolLM3PreTrainedModel, LlamaModel):
    """The decoder without a head."""


SmolLM3PreTrainedModel.base_class = SmolLM3Model


class SmolLM3ForCausalLM(SmolLM3PreTrainedModel, LlamaForCausalLM):
    """Next token prediction."""


class SmolLM3ForSequenceClassification(SmolLM3PreTrainedModel, LlamaForSequenceClassification):
    """Classification of a sequence by its last token that is not padding."""


class SmolLM3ForTokenClassification(SmolLM3PreTrainedModel, LlamaForTokenClassification):
    """Classification of each token."""


class SmolLM3ForQuestionAnswering(SmolLM3PreTrainedModel, LlamaForQuestionAnswering):
    """Where in the text the answer begins and ends."""

"""Qwen2 (arXiv 2407.10671): Llama with biases, and windows in its upper layers if so configured.

Parameter names and numerics follow the reference implementation in transformers (`Qwen2Model`, `Qwen2For...`).
"""

from __future__ import annotations

from flaxmodels.fields import Count, LayerType, Length, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.models.llama import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
    LlamaPreTrainedModel,
)


class Qwen2Config(LlamaConfig):
    """Configuration of Qwen2; the defaults are those of transformers."""

    model_type = "qwen2"

    vocab_size: VocabSize = 151936
    intermediate_size: Size = 22016
    num_key_value_heads: Size | None = 32
    max_position_embeddings: Length = 32768
    bos_token_id: SpecialId | None = None
    eos_token_id: SpecialIds | None = None
    use_sliding_window: bool = False
    sliding_window: Length | None = 4096
    max_window_layers: Count = 28
    layer_types: list[LayerType] | None = None

    @property
    def attention_biases(self) -> tuple[bool, bool]:
        return True, False

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        if not self.use_sliding_window:
            return (None,) * self.num_hidden_layers
        upper = range(self.num_hidden_layers)
        kinds = self.layer_types or ["sliding_attention" if n >= self.max_window_layers else "" for n in upper]
        return tuple(self.sliding_window if kind == "sliding_attention" else None for kind in kinds)


class Qwen2PreTrainedModel(LlamaPreTrainedModel):
    """Base of the Qwen2 models. All take the inputs of `LlamaModel.forward`."""

    config_class = Qwen2Config


class Qwen2Model(Qwen2PreTrainedModel, LlamaModel):
    """The decoder without a head."""


Qwen2PreTrainedModel.base_class = Qwen2Model


class Qwen2ForCausalLM(Qwen2PreTrainedModel, LlamaForCausalLM):
    """Next token prediction."""


class Qwen2ForSequenceClassification(Qwen2PreTrainedModel, LlamaForSequenceClassification):
    """Classification of a sequence by its last token that is not padding."""


class Qwen2ForTokenClassification(Qwen2PreTrainedModel, LlamaForTokenClassification):
    """Classification of each token."""


class Qwen2ForQuestionAnswering(Qwen2PreTrainedModel, LlamaForQuestionAnswering):
    """Where in the text the answer begins and ends."""

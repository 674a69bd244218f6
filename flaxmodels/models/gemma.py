"""Gemma (arXiv 2403.08295): Llama with scaled embeddings, norms around one and a gated GELU.

Parameter names and numerics follow the reference implementation in transformers (`GemmaModel`, `GemmaFor...`).
"""

from __future__ import annotations

from flaxmodels.fields import Activation, Layers, Length, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.models.llama import (
    LlamaConfig,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
    LlamaPreTrainedModel,
)


class GemmaConfig(LlamaConfig):
    """Configuration of Gemma; the defaults are those of Gemma 7B."""

    model_type = "gemma"
    norm_offset = 1.0

    vocab_size: VocabSize = 256000
    hidden_size: Size = 3072
    intermediate_size: Size = 24576
    num_hidden_layers: Layers = 28
    num_attention_heads: Size = 16
    num_key_value_heads: Size | None = 16
    head_dim: Size | None = 256
    hidden_act: Activation = "gelu_pytorch_tanh"
    max_position_embeddings: Length = 8192
    pad_token_id: SpecialId | None = 0
    eos_token_id: SpecialIds | None = 1
    bos_token_id: SpecialId | None = 2
    tie_word_embeddings: bool = True
    use_bidirectional_attention: bool | None = None

    def problems(self) -> list[str]:
        found = super().problems()
        if self.use_bidirectional_attention:
            found.append("use_bidirectional_attention=True is not implemented")
        return found

    @property
    def activation(self) -> str:
        """The first files of Gemma say "gelu" and mean its approximation."""
        return "gelu_pytorch_tanh" if self.hidden_act == "gelu" else self.hidden_act

    @property
    def embedding_scale(self) -> float:
        return self.hidden_size**0.5


class GemmaDecoderLayer(LlamaDecoderLayer):
    """The layer of Llama."""


class GemmaPreTrainedModel(LlamaPreTrainedModel):
    """Base of the Gemma models. All take the inputs of `LlamaModel.forward`."""

    config_class = GemmaConfig


class GemmaModel(GemmaPreTrainedModel, LlamaModel):
    """The decoder without a head."""

    layer_class = GemmaDecoderLayer


GemmaPreTrainedModel.base_class = GemmaModel


class GemmaForCausalLM(GemmaPreTrainedModel, LlamaForCausalLM):
    """Next token prediction."""


class GemmaForSequenceClassification(GemmaPreTrainedModel, LlamaForSequenceClassification):
    """Classification of a sequence by its last token that is not padding."""


class GemmaForTokenClassification(GemmaPreTrainedModel, LlamaForTokenClassification):
    """Classification of each token."""

"""OLMo 2 (arXiv 2501.00656): Llama with norms behind attention and MLP, and of queries and keys.

Parameter names and numerics follow the reference implementation in transformers (`Olmo2Model`, `Olmo2For...`).
"""

from __future__ import annotations

from flaxmodels.fields import Epsilon, SpecialId, SpecialIds, VocabSize
from flaxmodels.models.llama import (
    LlamaConfig,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    LlamaPreTrainedModel,
)


class Olmo2Config(LlamaConfig):
    """Configuration of OLMo 2; the defaults are those of transformers."""

    model_type = "olmo2"
    query_key_norm = "projection"

    vocab_size: VocabSize = 50304
    rms_norm_eps: Epsilon = 1e-5
    pad_token_id: SpecialId | None = 1
    bos_token_id: SpecialId | None = None
    eos_token_id: SpecialIds | None = 50279


class Olmo2DecoderLayer(LlamaDecoderLayer):
    norms = (None, "post_attention_layernorm", None, "post_feedforward_layernorm")


class Olmo2PreTrainedModel(LlamaPreTrainedModel):
    """Base of the Olmo2 models. All take the inputs of `LlamaModel.forward`."""

    config_class = Olmo2Config


class Olmo2Model(Olmo2PreTrainedModel, LlamaModel):
    """The decoder without a head."""

    layer_class = Olmo2DecoderLayer


Olmo2PreTrainedModel.base_class = Olmo2Model


class Olmo2ForCausalLM(Olmo2PreTrainedModel, LlamaForCausalLM):
    """Next token prediction."""


class Olmo2ForSequenceClassification(Olmo2PreTrainedModel, LlamaForSequenceClassification):
    """Classification of a sequence by its last token that is not padding."""

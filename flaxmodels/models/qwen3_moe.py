"""Qwen3 MoE (arXiv 2505.09388): Qwen3 whose MLPs, or some of them, are mixtures of many small experts.

Parameter names and numerics follow the reference implementation in transformers (`Qwen3MoeModel`, `Qwen3MoeFor...`).
"""

from __future__ import annotations

from flaxmodels.fields import Count, Epsilon, ExpertCount, Layers, Length, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.models.mixtral import (
    MixtralConfig,
    MixtralDecoderLayer,
    MixtralForCausalLM,
    MixtralForQuestionAnswering,
    MixtralForSequenceClassification,
    MixtralForTokenClassification,
    MixtralModel,
    MixtralPreTrainedModel,
    MixtralSparseMoeBlock,
)
from flaxmodels.nn.moe import SeparateExperts


class Qwen3MoeConfig(MixtralConfig):
    """Configuration of Qwen3 MoE; the defaults are those of transformers."""

    model_type = "qwen3_moe"
    attribute_map = {"num_local_experts": "num_experts"}
    query_key_norm = "head"
    default_theta = 10000.0

    vocab_size: VocabSize = 151936
    hidden_size: Size = 2048
    intermediate_size: Size = 6144
    num_hidden_layers: Layers = 24
    num_key_value_heads: Size | None = 4
    max_position_embeddings: Length = 32768
    rms_norm_eps: Epsilon = 1e-6
    bos_token_id: SpecialId | None = None
    eos_token_id: SpecialIds | None = None
    use_sliding_window: bool = False
    sliding_window: Length | None = 4096
    decoder_sparse_step: Size = 1
    moe_intermediate_size: Size = 768
    num_experts_per_tok: ExpertCount = 8
    num_experts: ExpertCount = 128
    norm_topk_prob: bool = False
    mlp_only_layers: list[Count] | None = None

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        return (self.sliding_window if self.use_sliding_window else None,) * self.num_hidden_layers

    @property
    def sparse_layers(self) -> tuple[bool, ...]:
        dense, step = self.mlp_only_layers or (), self.decoder_sparse_step
        return tuple(
            self.num_experts > 0 and number not in dense and (number + 1) % step == 0
            for number in range(self.num_hidden_layers)
        )

    @property
    def expert_size(self) -> int:
        return self.moe_intermediate_size

    @property
    def normalise_weights(self) -> bool:
        return self.norm_topk_prob


class Qwen3MoeSparseMoeBlock(MixtralSparseMoeBlock):
    experts_class = SeparateExperts


class Qwen3MoeDecoderLayer(MixtralDecoderLayer):
    mlp_class = Qwen3MoeSparseMoeBlock
    torch_names = {}


class Qwen3MoePreTrainedModel(MixtralPreTrainedModel):
    """Base of the Qwen3 MoE models. All take the inputs of `MixtralModel.forward`."""

    config_class = Qwen3MoeConfig


class Qwen3MoeModel(Qwen3MoePreTrainedModel, MixtralModel):
    """The decoder without a head."""

    layer_class = Qwen3MoeDecoderLayer


Qwen3MoePreTrainedModel.base_class = Qwen3MoeModel


class Qwen3MoeForCausalLM(Qwen3MoePreTrainedModel, MixtralForCausalLM):
    """Next token prediction, as `MixtralForCausalLM`."""


class Qwen3MoeForSequenceClassification(Qwen3MoePreTrainedModel, MixtralForSequenceClassification):
    """Classification of a sequence by its last token that is not padding."""


class Qwen3MoeForTokenClassification(Qwen3MoePreTrainedModel, MixtralForTokenClassification):
    """Classification of each token."""


class Qwen3MoeForQuestionAnswering(Qwen3MoePreTrainedModel, MixtralForQuestionAnswering):
    """Where in the text the answer begins and ends."""

    base_model_prefix = "transformer"

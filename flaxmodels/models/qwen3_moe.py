"""Qwen3 MoE (arXiv 2505.09388): decoder with norms of each head of queries and keys, and with many small experts in its
layers or in some of them.
"""

from __future__ import annotations

from functools import partial

from flaxmodels.bases.decoder_heads import DecoderForSequenceClassification, DecoderForTokenClassification
from flaxmodels.bases.decoder_layer import PRE_NORM, DecoderLayer
from flaxmodels.bases.decoder_parts import attention, gated_mlp, rms_norm
from flaxmodels.bases.heads import ForQuestionAnswering
from flaxmodels.bases.sparse_decoder import (
    SPARSE_PRE_NORM,
    SparseDecoderConfig,
    SparseDecoderForCausalLM,
    SparseDecoderModel,
)
from flaxmodels.fields import Count, ExpertCount, Layers, Length, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.nn.initializers import normal
from flaxmodels.nn.mlp import GatedMLP
from flaxmodels.nn.moe import Router, SeparateExperts, SparseMLP
from flaxmodels.nn.self_attention import HeadNormAttention
from flaxmodels.nn.stack import MixedStack, Stack
from flaxmodels.policy import Policy


class Qwen3MoeConfig(SparseDecoderConfig):
    """Configuration of Qwen3 MoE; the defaults are those of transformers."""

    model_type = "qwen3_moe"
    attribute_map = {"num_local_experts": "num_experts"}

    vocab_size: VocabSize = 151936
    hidden_size: Size = 2048
    intermediate_size: Size = 6144
    num_hidden_layers: Layers = 24
    num_key_value_heads: Size | None = 4
    max_position_embeddings: Length = 32768
    bos_token_id: SpecialId | None = None
    eos_token_id: SpecialIds | None = None
    attention_bias: bool = False
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


class Qwen3MoeDenseLayer(DecoderLayer):
    """Attention and MLP, each with a norm before it."""

    sublayers = PRE_NORM

    def __init__(self, config: Qwen3MoeConfig, policy: Policy):
        norm = partial(rms_norm, config, policy)
        self.self_attn = attention(config, policy, HeadNormAttention, use_bias=config.attention_bias, norm=norm)
        self.mlp = self.make_mlp(config, policy)
        self.input_layernorm = norm()
        self.post_attention_layernorm = norm()

    def make_mlp(self, config: Qwen3MoeConfig, policy: Policy) -> GatedMLP | SparseMLP:
        """The MLP, or what is in its place."""
        return gated_mlp(config, policy)


class Qwen3MoeDecoderLayer(Qwen3MoeDenseLayer):
    """Attention and experts, each with a norm before it."""

    sublayers = SPARSE_PRE_NORM

    def make_mlp(self, config: Qwen3MoeConfig, policy: Policy) -> GatedMLP | SparseMLP:
        hidden, experts, init = config.hidden_size, config.num_experts, normal(config.initializer_range)
        top_k, normalise = config.num_experts_per_tok, config.norm_topk_prob
        return SparseMLP(
            Router(hidden, experts, policy, top_k=top_k, normalise=normalise, init=init),
            SeparateExperts(
                experts, hidden, config.moe_intermediate_size, policy, activation=config.hidden_act, init=init
            ),
        )


class Qwen3MoeModel(SparseDecoderModel):
    """The decoder without a head."""

    config_class = Qwen3MoeConfig

    def make_layers(self, config: Qwen3MoeConfig, policy: Policy) -> Stack:
        """The layers, which may be of two kinds."""
        kinds = [Qwen3MoeDecoderLayer if sparse else Qwen3MoeDenseLayer for sparse in config.sparse_layers]
        if len(set(kinds)) > 1:
            return MixedStack(lambda number: kinds[number](config, policy), len(kinds), policy)
        return Stack(lambda: kinds[0](config, policy), len(kinds), policy)


class Qwen3MoeForCausalLM(SparseDecoderForCausalLM):
    base_class = Qwen3MoeModel


class Qwen3MoeForSequenceClassification(DecoderForSequenceClassification):
    base_class = Qwen3MoeModel


class Qwen3MoeForTokenClassification(DecoderForTokenClassification):
    base_class = Qwen3MoeModel


class Qwen3MoeForQuestionAnswering(ForQuestionAnswering):
    base_class = Qwen3MoeModel
    base_model_prefix = "transformer"

"""Mixtral (arXiv 2401.04088): decoder with rotary positions whose MLPs are mixtures of experts."""

from __future__ import annotations

from flaxmodels.bases.decoder_heads import DecoderForSequenceClassification, DecoderForTokenClassification
from flaxmodels.bases.decoder_layer import DecoderLayer
from flaxmodels.bases.decoder_parts import attention, rms_norm
from flaxmodels.bases.heads import ForQuestionAnswering
from flaxmodels.bases.sparse_decoder import (
    SPARSE_PRE_NORM,
    SparseDecoderConfig,
    SparseDecoderForCausalLM,
    SparseDecoderModel,
)
from flaxmodels.fields import Epsilon, ExpertCount, Length, Scale, Size
from flaxmodels.nn.initializers import normal
from flaxmodels.nn.moe import Router, SeparateExperts, SparseMLP
from flaxmodels.policy import Policy


class MixtralConfig(SparseDecoderConfig):
    """Configuration of Mixtral; the defaults are those of Mixtral 8x7B v0.1."""

    model_type = "mixtral"
    attribute_map = {"num_experts": "num_local_experts"}
    default_theta = 1e6

    intermediate_size: Size = 14336
    num_key_value_heads: Size | None = 8
    max_position_embeddings: Length = 131072
    rms_norm_eps: Epsilon = 1e-5
    sliding_window: Length | None = None
    num_local_experts: ExpertCount = 8
    router_jitter_noise: Scale = 0.0

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        return (self.sliding_window,) * self.num_hidden_layers


class MixtralExperts(SeparateExperts):
    """Experts under the names of the published files."""

    projections = ("w1", "w3", "w2")


class MixtralDecoderLayer(DecoderLayer):
    """Attention and experts, each with a norm before it."""

    torch_names = {"mlp": "block_sparse_moe"}
    sublayers = SPARSE_PRE_NORM

    def __init__(self, config: MixtralConfig, policy: Policy):
        hidden, experts, init = config.hidden_size, config.num_experts, normal(config.initializer_range)
        self.self_attn = attention(config, policy)
        self.mlp = SparseMLP(
            Router(hidden, experts, policy, top_k=config.num_experts_per_tok, normalise=True, init=init),
            MixtralExperts(experts, hidden, config.intermediate_size, policy, activation=config.hidden_act, init=init),
            noise=config.router_jitter_noise,
        )
        self.input_layernorm = rms_norm(config, policy)
        self.post_attention_layernorm = rms_norm(config, policy)


class MixtralModel(SparseDecoderModel):
    """The decoder without a head."""

    config_class = MixtralConfig
    layer_class = MixtralDecoderLayer


class MixtralForCausalLM(SparseDecoderForCausalLM):
    base_class = MixtralModel


class MixtralForSequenceClassification(DecoderForSequenceClassification):
    base_class = MixtralModel


class MixtralForTokenClassification(DecoderForTokenClassification):
    base_class = MixtralModel


class MixtralForQuestionAnswering(ForQuestionAnswering):
    base_class = MixtralModel

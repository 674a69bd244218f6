"""gpt-oss (arXiv 2508.10925): Mixtral with attention sinks, windows in every other layer, and clamped, biased experts.

Parameter names and numerics follow the reference implementation in transformers (`GptOssModel`, `GptOssFor...`). The
published files hold the experts in MXFP4, which `flaxmodels.files.mxfp4` reads as bfloat16.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import normal

from flaxmodels.fields import (
    ExpertCount,
    Layers,
    LayerType,
    Length,
    Positive,
    Scale,
    Size,
    SpecialId,
    SpecialIds,
    VocabSize,
)
from flaxmodels.models.mixtral import (
    MixtralConfig,
    MixtralDecoderLayer,
    MixtralForCausalLM,
    MixtralForSequenceClassification,
    MixtralForTokenClassification,
    MixtralModel,
    MixtralPreTrainedModel,
)
from flaxmodels.nn.module import Module
from flaxmodels.nn.moe import Experts, Router
from flaxmodels.nn.policy import Policy

_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


class GptOssConfig(MixtralConfig):
    """Configuration of gpt-oss; the defaults are those of gpt-oss-120b."""

    model_type = "gpt_oss"
    default_theta = 150000.0
    attention_sinks = True

    vocab_size: VocabSize = 201088
    hidden_size: Size = 2880
    intermediate_size: Size = 2880
    num_hidden_layers: Layers = 36
    num_attention_heads: Size = 64
    head_dim: Size | None = 64
    num_experts_per_tok: ExpertCount = 4
    num_local_experts: ExpertCount = 128
    sliding_window: Length | None = 128
    layer_types: list[LayerType] | None = None
    attention_bias: bool = True
    swiglu_alpha: Scale = 1.702
    swiglu_limit: Positive = 7.0
    bos_token_id: SpecialId | None = None
    eos_token_id: SpecialIds | None = None

    def rope_values(self) -> dict[str, Any]:
        values = super().rope_values()
        stated = values["rope_parameters"] or values["rope_scaling"]
        return values if stated else values | {"rope_parameters": _ROPE}

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        turns = ("sliding_attention", "full_attention")
        kinds = self.layer_types or [turns[number % 2] for number in range(self.num_hidden_layers)]
        return tuple(self.sliding_window if kind == "sliding_attention" else None for kind in kinds)


class GptOssExperts(Experts):
    """Experts whose gates and ups alternate: `down((up + 1) * gate * sigmoid(alpha * gate))`, both clamped."""

    def __init__(self, config: GptOssConfig, policy: Policy):
        sizes = (config.num_experts, config.hidden_size, config.expert_size)
        super().__init__(*sizes, policy, use_bias=True, init=normal(config.initializer_range))
        self.alpha, self.limit = config.swiglu_alpha, config.swiglu_limit

    def gated(self, gate_up: jax.Array) -> jax.Array:
        gate = jnp.minimum(gate_up[..., ::2], self.limit)
        up = jnp.clip(gate_up[..., 1::2], -self.limit, self.limit)
        return (up + 1) * (gate * jax.nn.sigmoid(gate * self.alpha))


class GptOssMLP(Module):
    """A router and its experts."""

    def __init__(self, config: GptOssConfig, policy: Policy):
        choice = {"top_k": config.num_experts_per_tok, "normalise": True, "use_bias": True}
        init = normal(config.initializer_range)
        self.router = Router(config.hidden_size, config.num_experts, policy, init=init, **choice)
        self.experts = GptOssExperts(config, policy)

    def __call__(self, hidden_states: jax.Array, dropout_rng: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        routing = self.router(tokens)
        return self.experts(tokens, routing).reshape(hidden_states.shape), routing.logits


class GptOssDecoderLayer(MixtralDecoderLayer):
    mlp_class = GptOssMLP
    torch_names = {}


class GptOssPreTrainedModel(MixtralPreTrainedModel):
    """Base of the gpt-oss models. All take the inputs of `MixtralModel.forward`."""

    config_class = GptOssConfig


class GptOssModel(GptOssPreTrainedModel, MixtralModel):
    """The decoder without a head."""

    layer_class = GptOssDecoderLayer


GptOssPreTrainedModel.base_class = GptOssModel


class GptOssForCausalLM(GptOssPreTrainedModel, MixtralForCausalLM):
    """Next token prediction, as `MixtralForCausalLM`."""


class GptOssForSequenceClassification(GptOssPreTrainedModel, MixtralForSequenceClassification):
    """Classification of a sequence by its last token that is not padding."""


class GptOssForTokenClassification(GptOssPreTrainedModel, MixtralForTokenClassification):
    """Classification of each token."""

"""The parts of a decoder whose configuration has the fields of `DecoderConfig`, perhaps as other names of its own.

Keywords say what is not usual in them.
"""

from __future__ import annotations

from typing import Any

from flaxmodels.nn.embedding import Embedding
from flaxmodels.nn.initializers import normal
from flaxmodels.nn.mlp import GatedMLP
from flaxmodels.nn.norms import RMSNorm
from flaxmodels.nn.rope import apply_rope
from flaxmodels.nn.self_attention import GroupedQueryAttention
from flaxmodels.policy import Policy


def token_embedding(config: Any, policy: Policy) -> Embedding:
    """The table of tokens."""
    return Embedding(config.vocab_size, config.hidden_size, policy, init=normal(config.initializer_range))


def rms_norm(config: Any, policy: Policy, features: int | None = None, *, offset: float = 0.0) -> RMSNorm:
    """A norm of `features`, by default `hidden_size`."""
    return RMSNorm(features or config.hidden_size, policy, epsilon=config.rms_norm_eps, offset=offset)


def attention(config: Any, policy: Policy, kind: Any = GroupedQueryAttention, **options: Any) -> Any:
    """Self-attention with rotary positions of a class `kind`, whose further arguments are `options`."""
    sizes = {"heads": config.num_attention_heads, "kv_heads": config.kv_heads, "head_dim": config.features_per_head}
    usual = {"rotate": apply_rope, "dropout_rate": config.attention_dropout, "init": normal(config.initializer_range)}
    return kind(config.hidden_size, policy, **(sizes | usual | options))


def gated_mlp(config: Any, policy: Policy, **options: Any) -> GatedMLP:
    """A gated MLP; `options` are those of `GatedMLP`."""
    usual = {"activation": config.hidden_act, "init": normal(config.initializer_range)}
    return GatedMLP(config.hidden_size, config.intermediate_size, policy, **(usual | options))

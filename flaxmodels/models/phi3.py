"""Phi-3 (arXiv 2404.14219): Llama with fused projections, partial and long rotary positions.

Parameter names and numerics follow the reference implementation in transformers (`Phi3Model`, `Phi3For...`).
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.nn.initializers import normal

from flaxmodels.fields import Epsilon, Length, Rate, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.models.llama import (
    LlamaAttention,
    LlamaConfig,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
    LlamaPreTrainedModel,
)
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.linear import Linear
from flaxmodels.nn.module import Module
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.rope import RopeConfig, rope_parameters


class Phi3Config(LlamaConfig):
    """Configuration of Phi-3; the defaults are those of Phi-3 mini."""

    model_type = "phi3"

    vocab_size: VocabSize = 32064
    hidden_size: Size = 3072
    intermediate_size: Size = 8192
    max_position_embeddings: Length = 4096
    original_max_position_embeddings: Length = 4096
    rms_norm_eps: Epsilon = 1e-5
    resid_pdrop: Rate = 0.0
    embd_pdrop: Rate = 0.0
    eos_token_id: SpecialIds | None = 32000
    pad_token_id: SpecialId | None = 32000
    sliding_window: Length | None = None

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        return (self.sliding_window,) * self.num_hidden_layers

    @property
    def rope(self) -> RopeConfig:
        """Early files call "longrope" "su"."""
        values = self.rope_values()
        if (scaling := values.get("rope_scaling")) and scaling.get("type", scaling.get("rope_type")) in ("su", "yarn"):
            values["rope_scaling"] = {k: v for k, v in scaling.items() if k != "type"} | {"rope_type": "longrope"}
        lengths = {"max_position_embeddings": self.max_position_embeddings}
        return RopeConfig.from_parameters(rope_parameters(values), head_dim=self.features_per_head, **lengths)


class Phi3Attention(LlamaAttention):
    def build(self, config: Phi3Config, policy: Policy) -> None:
        hidden, init = config.hidden_size, normal(config.initializer_range)
        inner, kv = (count * config.features_per_head for count in (self.heads, self.kv_heads))
        self.sizes = (inner, kv)
        self.o_proj = Linear(inner, hidden, policy, use_bias=False, init=init)
        self.qkv_proj = Linear(hidden, inner + 2 * kv, policy, use_bias=False, init=init)

    def project(self, hidden_states):
        inner, kv = self.sizes
        return jnp.split(self.qkv_proj(hidden_states), (inner, inner + kv), axis=-1)


class Phi3MLP(Module):
    """`LlamaMLP` whose first two matrices are one."""

    def __init__(self, config: Phi3Config, policy: Policy):
        hidden, inner, init = config.hidden_size, config.intermediate_size, normal(config.initializer_range)
        self.activation = get_activation(config.hidden_act)
        self.gate_up_proj = Linear(hidden, 2 * inner, policy, use_bias=False, init=init)
        self.down_proj = Linear(inner, hidden, policy, use_bias=False, init=init)

    def __call__(self, hidden_states):
        gate, up = jnp.split(self.gate_up_proj(hidden_states), 2, axis=-1)
        return self.down_proj(up * self.activation(gate))


class Phi3DecoderLayer(LlamaDecoderLayer):
    attention_class, mlp_class = Phi3Attention, Phi3MLP


class Phi3PreTrainedModel(LlamaPreTrainedModel):
    """Base of the Phi3 models. All take the inputs of `LlamaModel.forward`."""

    config_class = Phi3Config
    tp_plan = {"(qkv_proj|gate_up_proj|lm_head)": COLUMN, "(o_proj|down_proj|embed_tokens)": ROW}


class Phi3Model(Phi3PreTrainedModel, LlamaModel):
    """The decoder without a head."""

    layer_class = Phi3DecoderLayer


Phi3PreTrainedModel.base_class = Phi3Model


class Phi3ForCausalLM(Phi3PreTrainedModel, LlamaForCausalLM):
    """Next token prediction."""


class Phi3ForSequenceClassification(Phi3PreTrainedModel, LlamaForSequenceClassification):
    """Classification of a sequence by its last token that is not padding."""


class Phi3ForTokenClassification(Phi3PreTrainedModel, LlamaForTokenClassification):
    """Classification of each token."""

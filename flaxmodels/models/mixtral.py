"""Mixtral (arXiv 2401.04088): Mistral whose MLPs are mixtures of experts.

Parameter names and numerics follow the reference implementation in transformers (`MixtralModel`, `MixtralFor...`).
"""

from __future__ import annotations

from typing import ClassVar

import jax
from jax.nn.initializers import normal

from flaxmodels.fields import MAX_ALL_EXPERTS, Epsilon, ExpertCount, Length, Scale, Size
from flaxmodels.models.llama import (
    LlamaConfig,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
    LlamaPreTrainedModel,
)
from flaxmodels.nn.cache import Cache
from flaxmodels.nn.masks import token_mask
from flaxmodels.nn.module import Module
from flaxmodels.nn.moe import Experts, Router, SeparateExperts, load_balancing_loss
from flaxmodels.nn.partition import EXPERT
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.stack import MixedStack, Stack, present
from flaxmodels.outputs import MoeCausalLMOutput, MoeModelOutput


class MixtralConfig(LlamaConfig):
    """Configuration of Mixtral; the defaults are those of Mixtral 8x7B v0.1."""

    model_type = "mixtral"
    attribute_map = {"num_experts": "num_local_experts"}
    default_theta = 1e6

    intermediate_size: Size = 14336
    num_key_value_heads: Size | None = 8
    max_position_embeddings: Length = 131072
    rms_norm_eps: Epsilon = 1e-5
    sliding_window: Length | None = None
    num_experts_per_tok: ExpertCount = 2
    num_local_experts: ExpertCount = 8
    output_router_logits: bool = False
    router_aux_loss_coef: Scale = 0.001
    router_jitter_noise: Scale = 0.0

    def problems(self) -> list[str]:
        found = super().problems()
        if any(self.sparse_layers) and not 1 <= self.num_experts_per_tok <= self.num_experts:
            found.append(f"num_experts_per_tok={self.num_experts_per_tok}: expected 1 to {self.num_experts} experts")
        if (total := sum(self.sparse_layers) * self.num_experts) > MAX_ALL_EXPERTS:
            found.append(f"{total} experts in all layers: expected at most {MAX_ALL_EXPERTS}")
        return found

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        return (self.sliding_window,) * self.num_hidden_layers

    # ---- what descendants change

    @property
    def sparse_layers(self) -> tuple[bool, ...]:
        """Whether each layer is a mixture of experts; the others have a plain MLP."""
        return (True,) * self.num_hidden_layers

    @property
    def expert_size(self) -> int:
        """Number of features inside an expert."""
        return self.intermediate_size

    @property
    def normalise_weights(self) -> bool:
        """Whether the weights of a token's experts add up to 1."""
        return True


class MixtralExperts(SeparateExperts):
    projections = ("w1", "w3", "w2")


class MixtralSparseMoeBlock(Module):
    """A router and its experts. In training, the input of both may be multiplied by noise around 1."""

    experts_class: ClassVar[type[Experts]] = MixtralExperts

    def __init__(self, config: MixtralConfig, policy: Policy):
        hidden, experts, init = config.hidden_size, config.num_experts, normal(config.initializer_range)
        self.noise = config.router_jitter_noise
        choice = {"top_k": config.num_experts_per_tok, "normalise": config.normalise_weights}
        self.gate = Router(hidden, experts, policy, init=init, **choice)
        inner = config.expert_size
        self.experts = self.experts_class(experts, hidden, inner, policy, activation=config.activation, init=init)

    def __call__(self, hidden_states: jax.Array, dropout_rng: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        if dropout_rng is not None and self.noise:
            low, high = 1.0 - self.noise, 1.0 + self.noise
            tokens = tokens * jax.random.uniform(dropout_rng, tokens.shape, tokens.dtype, low, high)
        routing = self.gate(tokens)
        return self.experts(tokens, routing).reshape(hidden_states.shape), routing.logits


class MixtralDecoderLayer(LlamaDecoderLayer):
    mlp_class = MixtralSparseMoeBlock
    torch_names = {"mlp": "block_sparse_moe"}

    def feed(self, hidden_states, dropout_rng):
        return self.mlp(hidden_states, dropout_rng)


class MixtralPreTrainedModel(LlamaPreTrainedModel):
    """Base of the Mixtral models. All take the inputs of `MixtralModel.forward`."""

    config_class = MixtralConfig
    tp_plan = {**LlamaPreTrainedModel.tp_plan, "mlp/experts": EXPERT}
    config: MixtralConfig


class MixtralModel(MixtralPreTrainedModel, LlamaModel):
    """The decoder without a head."""

    layer_class = MixtralDecoderLayer
    dense_layer_class: ClassVar = LlamaDecoderLayer

    def make_layers(self, config: MixtralConfig, policy: Policy) -> Stack:
        sparse, kinds = config.sparse_layers, {True: self.layer_class, False: self.dense_layer_class}
        if len(set(sparse)) > 1:
            return MixedStack(lambda number: kinds[sparse[number]](config, policy), len(sparse), policy)
        return Stack(lambda: kinds[sparse[0]](config, policy), len(sparse), policy)

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        output_router_logits: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> MoeModelOutput:
        """Decode. The inputs are those of `LlamaModel.forward`."""
        outputs, layers = self.decode(
            *(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            dropout_rng=dropout_rng,
        )
        return MoeModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=present(layer.router_logits for layer in layers) if output_router_logits else None,
        )


MixtralPreTrainedModel.base_class = MixtralModel


class MixtralForCausalLM(MixtralPreTrainedModel, LlamaForCausalLM):
    """Next token prediction. With router logits comes a loss for the balance of experts, to be added with the weight
    `config.router_aux_loss_coef`.
    """

    def head(self, outputs, inputs, dropout_rng):
        logits = super().head(outputs, inputs, dropout_rng).logits
        return outputs.to(MoeCausalLMOutput, logits=logits, aux_loss=self._aux_loss(outputs, inputs))

    def _aux_loss(self, outputs: MoeModelOutput, inputs: dict) -> jax.Array | None:
        if outputs.router_logits is None:
            return None
        mask, q_len = inputs.get("attention_mask"), outputs.last_hidden_state.shape[1]
        counted = None if mask is None else token_mask(mask, q_len, inputs.get("past_key_values")).reshape(-1)
        return load_balancing_loss(outputs.router_logits, self.config.num_experts_per_tok, counted)


class MixtralForSequenceClassification(MixtralPreTrainedModel, LlamaForSequenceClassification):
    """Classification of a sequence by its last token that is not padding."""


class MixtralForTokenClassification(MixtralPreTrainedModel, LlamaForTokenClassification):
    """Classification of each token."""


class MixtralForQuestionAnswering(MixtralPreTrainedModel, LlamaForQuestionAnswering):
    """Where in the text the answer begins and ends."""

    base_model_prefix = "model"

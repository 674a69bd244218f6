"""Decoders whose MLPs, or some of them, are mixtures of experts."""

from __future__ import annotations

from typing import Any

import jax

from flaxmodels.bases.decoder import DecoderBase
from flaxmodels.bases.decoder_config import DecoderConfig
from flaxmodels.bases.decoder_heads import DecoderWithLMHead
from flaxmodels.bases.decoder_layer import Mixer, SparseFeedForward
from flaxmodels.fields import MAX_ALL_EXPERTS, ExpertCount, Scale
from flaxmodels.nn.cache import Cache
from flaxmodels.nn.masks import token_mask
from flaxmodels.nn.moe import load_balancing_loss
from flaxmodels.nn.partition import EXPERT
from flaxmodels.nn.stack import present
from flaxmodels.outputs import MoeCausalLMOutput, MoeModelOutput

SPARSE_PRE_NORM = (
    Mixer("self_attn", pre_norm="input_layernorm"),
    SparseFeedForward("mlp", pre_norm="post_attention_layernorm"),
)
"""Attention and experts, each with a norm before it, under the names that most architectures have."""


class SparseDecoderConfig(DecoderConfig):
    """Configuration of a decoder with experts. A subclass has a field `num_experts`, or another with that alias."""

    num_experts_per_tok: ExpertCount = 2
    output_router_logits: bool = False
    router_aux_loss_coef: Scale = 0.001

    def validation_errors(self) -> list[str]:
        found = super().validation_errors()
        if any(self.sparse_layers) and not 1 <= self.num_experts_per_tok <= self.num_experts:
            found.append(f"num_experts_per_tok={self.num_experts_per_tok}: expected 1 to {self.num_experts} experts")
        if (total := sum(self.sparse_layers) * self.num_experts) > MAX_ALL_EXPERTS:
            found.append(f"{total} experts in all layers: expected at most {MAX_ALL_EXPERTS}")
        return found

    @property
    def sparse_layers(self) -> tuple[bool, ...]:
        """Whether each layer has a mixture of experts."""
        return (True,) * self.num_hidden_layers


class SparseDecoderModel(DecoderBase):
    """A decoder with experts, without a head."""

    tp_plan = {**DecoderBase.tp_plan, "mlp/experts": EXPERT}

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
        """Decode. The inputs are those of `DecoderModel.forward`."""
        inputs = (input_ids, attention_mask, position_ids, past_key_values, inputs_embeds)
        options: dict[str, Any] = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        outputs, layers = self.decode(*inputs, **options, dropout_rng=dropout_rng)
        return MoeModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=present(layer.router_logits for layer in layers) if output_router_logits else None,
        )


class SparseDecoderForCausalLM(DecoderWithLMHead):
    """Next token prediction. With router logits comes a loss for the balance of experts, to be added with the weight
    `config.router_aux_loss_coef`.
    """

    def head(self, outputs, inputs, dropout_rng):
        logits = self.logits(outputs.last_hidden_state)
        return outputs.to(MoeCausalLMOutput, logits=logits, aux_loss=self._aux_loss(outputs, inputs))

    def _aux_loss(self, outputs: MoeModelOutput, inputs: dict[str, Any]) -> jax.Array | None:
        if outputs.router_logits is None:
            return None
        mask, q_len = inputs.get("attention_mask"), outputs.last_hidden_state.shape[1]
        counted = None if mask is None else token_mask(mask, q_len, inputs.get("past_key_values")).reshape(-1)
        return load_balancing_loss(outputs.router_logits, self.config.num_experts_per_tok, counted)

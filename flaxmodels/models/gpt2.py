"""GPT-2 (Radford et al. 2019, "Language models are unsupervised multitask learners"): learned positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from flaxmodels.bases.decoder import DecoderBase, Tokens, causal_masks
from flaxmodels.bases.decoder_heads import (
    DecoderForCausalLM,
    DecoderForSequenceClassification,
    DecoderForTokenClassification,
    DecoderWithLMHead,
)
from flaxmodels.bases.decoder_layer import DecoderLayer, FeedForward, Mixer, Sublayer
from flaxmodels.bases.decoder_parts import token_embedding
from flaxmodels.bases.heads import ForQuestionAnswering
from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution.inputs import OPTIONAL_CHOICES
from flaxmodels.fields import (
    ABSENT,
    Activation,
    Epsilon,
    Layers,
    Length,
    Rate,
    Scale,
    Size,
    SpecialId,
    SpecialIds,
    SummaryType,
    VocabSize,
)
from flaxmodels.nn.attention import cached_attention, split_heads
from flaxmodels.nn.cache import Cache
from flaxmodels.nn.dense import Conv1D
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.embedding import Embedding
from flaxmodels.nn.heads import SequenceSummary, fold_choices
from flaxmodels.nn.initializers import normal
from flaxmodels.nn.masks import padding_mask
from flaxmodels.nn.mlp import MLP
from flaxmodels.nn.module import Module, fresh
from flaxmodels.nn.norms import LayerNorm
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.self_attention import SelfAttention
from flaxmodels.nn.stack import BlockOutput
from flaxmodels.outputs import BaseModelOutput, DoubleHeadsOutput
from flaxmodels.policy import Policy


class GPT2Config(PreTrainedConfig):
    """Configuration of GPT-2; the defaults are those of gpt2."""

    model_type = "gpt2"
    attribute_map = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }
    multiples = (("n_embd", "n_head"),)

    vocab_size: VocabSize = 50257
    n_positions: Length = 1024
    n_embd: Size = 768
    n_layer: Layers = 12
    n_head: Size = 12
    n_inner: Size | None = None
    activation_function: Activation = "gelu_new"
    resid_pdrop: Rate = 0.1
    embd_pdrop: Rate = 0.1
    attn_pdrop: Rate = 0.1
    layer_norm_epsilon: Epsilon = 1e-5
    initializer_range: Scale = 0.02
    summary_type: SummaryType = "cls_index"
    summary_use_proj: bool = True
    summary_activation: Literal["", Activation] | None = None
    summary_proj_to_labels: bool = True
    summary_first_dropout: Rate = 0.1
    summary_last_dropout: Rate = ABSENT
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    classifier_dropout: Rate | None = None
    hidden_dropout: Rate | None = None
    bos_token_id: SpecialId | None = 50256
    eos_token_id: SpecialIds | None = 50256
    use_cache: bool = True


def query_scales(config: GPT2Config, tokens: Tokens) -> tuple[Any, ...]:
    """What each layer multiplies queries by, before attention divides by the root of `head_dim`."""
    scale = 1.0 if config.scale_attn_weights else config.features_per_head**0.5
    if not config.scale_attn_by_inverse_layer_idx:
        return (scale,) * config.n_layer
    return tuple(scale / (number + 1) for number in jnp.arange(config.n_layer))


class GPT2Attention(SelfAttention):
    """Attention with one dense layer for all queries, then all keys, then all values."""

    def __init__(self, config: GPT2Config, policy: Policy):
        heads, head_dim = config.n_head, config.features_per_head
        super().__init__(policy, heads=heads, head_dim=head_dim, dropout_rate=config.attn_pdrop)
        init = normal(config.initializer_range)
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd, policy, init=init)
        self.c_proj = Conv1D(config.n_embd, config.n_embd, policy, init=init)

    def project(self, hidden_states, context):
        fused = jnp.split(self.c_attn(hidden_states), 3, axis=-1)
        query, key, value = (split_heads(array, self.heads) for array in fused)
        return query * jnp.asarray(context["query_scale"], query.dtype), key, value

    def output(self, attn_output):
        return self.c_proj(attn_output)


class GPT2CrossAttention(Module):
    """Attention to an encoder's hidden states, whose keys and values are of one dense layer."""

    def __init__(self, config: GPT2Config, policy: Policy):
        init = normal(config.initializer_range)
        self.heads, self.dropout_rate = config.n_head, config.attn_pdrop
        self.implementation = policy.attn_implementation
        self.c_attn = Conv1D(config.n_embd, 2 * config.n_embd, policy, init=init)
        self.q_attn = Conv1D(config.n_embd, config.n_embd, policy, init=init)
        self.c_proj = Conv1D(config.n_embd, config.n_embd, policy, init=init)

    def __call__(
        self, hidden_states: jax.Array, context: Mapping[str, Any], dropout_rng: jax.Array | None
    ) -> BlockOutput:
        projected = [self.q_attn(hidden_states), *jnp.split(self.c_attn(context["encoder_hidden_states"]), 2, axis=-1)]
        query, key, value = (split_heads(array, self.heads) for array in projected)
        attn_output, weights, _ = cached_attention(
            query * jnp.asarray(context["query_scale"], query.dtype),
            key,
            value,
            context["encoder_mask"],
            None,
            implementation=self.implementation,
            return_weights=context["output_attentions"],
            dropout_rate=self.dropout_rate,
            dropout_rng=dropout_rng,
        )
        return BlockOutput(self.c_proj(attn_output), cross_attention=weights)


class CrossAttention(Sublayer):
    """Attention to an encoder, which takes place if there is one."""

    def applies(self, context):
        return context["encoder_hidden_states"] is not None

    def run(self, part, hidden_states, cache, context, dropout_rng):
        return part(hidden_states, context, dropout_rng)


class GPT2Block(DecoderLayer):
    """Attention, cross-attention if configured, and MLP, each with a norm before it."""

    def __init__(self, config: GPT2Config, policy: Policy):
        rate, crosses = config.resid_pdrop, config.add_cross_attention
        self.sublayers = (
            Mixer("attn", pre_norm="ln_1", dropout_rate=rate),
            *([CrossAttention("crossattention", pre_norm="ln_cross_attn", dropout_rate=rate)] if crosses else []),
            FeedForward("mlp", pre_norm="ln_2", dropout_rate=rate),
        )
        self.ln_1 = LayerNorm(config.n_embd, policy, epsilon=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, policy)
        self.ln_2 = LayerNorm(config.n_embd, policy, epsilon=config.layer_norm_epsilon)
        if crosses:
            self.crossattention = fresh(GPT2CrossAttention(config, policy))
            self.ln_cross_attn = fresh(LayerNorm(config.n_embd, policy, epsilon=config.layer_norm_epsilon))
        self.mlp = MLP(
            config.n_embd,
            config.n_inner or 4 * config.n_embd,
            policy,
            activation=config.activation_function,
            names=("c_fc", "c_proj"),
            layer=Conv1D,
            init=normal(config.initializer_range),
        )

    head_axes = {"attn.c_attn": (1, 3), "attn.c_proj": (0, 1)}
    """Of each dense layer of self-attention, which axis counts heads, and in how many groups; for pruning."""

    def set_num_heads(self, count: int) -> None:
        """Say how many heads self-attention has."""
        self.attn.heads = self.attn.kv_heads = count


class GPT2Model(DecoderBase):
    """The decoder without a head."""

    config_class = GPT2Config
    layer_class = GPT2Block
    base_model_prefix = "transformer"
    keys_to_ignore_on_load = (r"\.(attn|crossattention)\.(bias|masked_bias)$",)
    tp_plan = {"(c_attn|q_attn|c_fc|lm_head)": COLUMN, "(c_proj|wte)": ROW}
    input_embeddings = "wte"
    position_embeddings = "wpe"
    layers_path = prunable_layers = "h"
    final_norm_path = "ln_f"
    layer_context = {"mask": causal_masks, "query_scale": query_scales}

    def setup(self, config: GPT2Config, policy: Policy):
        self.wte = token_embedding(config, policy)
        self.wpe = Embedding(config.n_positions, config.n_embd, policy, init=normal(config.initializer_range))
        self.h = self.make_layers(config, policy)
        self.ln_f = LayerNorm(config.n_embd, policy, epsilon=config.layer_norm_epsilon)

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: jax.Array | None = None,
        encoder_hidden_states: jax.Array | None = None,
        encoder_attention_mask: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutput:
        """Decode. The inputs are those of `DecoderModel.forward`, and further ones.

        Args:
            token_type_ids: int `[batch, q_len]`, looked up in the table of tokens.
            encoder_hidden_states: `[batch, kv_len, hidden]` for cross-attention, with `encoder_attention_mask`.

        Raises:
            FlaxModelsError: there is no cross-attention.
        """
        if encoder_hidden_states is not None and not self.config.add_cross_attention:
            raise FlaxModelsError("encoder_hidden_states needs add_cross_attention=True in the configuration")
        outputs, _ = self.decode(
            *(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, token_type_ids),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            encoder_mask=None if encoder_attention_mask is None else padding_mask(encoder_attention_mask),
            dropout_rng=dropout_rng,
        )
        return BaseModelOutput(**outputs._asdict())

    def embed_inputs(self, token_embeds: jax.Array, tokens: Tokens, dropout_rng: jax.Array | None) -> jax.Array:
        hidden_states = token_embeds + self.wpe(tokens.position_ids)
        if tokens.token_type_ids is not None:
            hidden_states = hidden_states + self.wte(tokens.token_type_ids)
        return dropout(hidden_states, self.config.embd_pdrop, dropout_rng)


class GPT2LMHeadModel(DecoderForCausalLM):
    base_class = GPT2Model


class GPT2DoubleHeadsModel(DecoderWithLMHead):
    """Next token prediction, and a score for each of several sequences. Inputs are `[batch, num_choices, q_len]`.

    A further input `mc_token_ids`, int `[batch, num_choices]`, names the token of each sequence that its score is made
    of, the last one by default. Sequences may also be `[batch, q_len]`, with a score for each.
    """

    base_class = GPT2Model
    expected_inputs = OPTIONAL_CHOICES

    def setup(self, config: GPT2Config, policy: Policy):
        super().setup(config, policy)
        outputs = 1 if config.summary_proj_to_labels else config.n_embd
        self.multiple_choice_head = SequenceSummary(
            config.n_embd,
            outputs if config.summary_use_proj else None,
            policy,
            kind=config.summary_type,
            activation=config.summary_activation or "linear",
            dropout_rates=(config.summary_first_dropout, getattr(config, "summary_last_dropout", 0.0)),
            init=normal(config.initializer_range),
        )

    def forward(
        self, *, mc_token_ids: jax.Array | None = None, dropout_rng: jax.Array | None = None, **inputs: Any
    ) -> DoubleHeadsOutput:
        base_key, head_key = split_key(dropout_rng, 2)
        sequences, choices = fold_choices(inputs)
        outputs = self.base_forward(dropout_rng=base_key, **sequences)
        last = outputs.last_hidden_state
        last = last.reshape(*choices, *last.shape[1:])
        # transformers gives each choice an axis in the last of the hidden states alone.
        states = None if outputs.hidden_states is None else (*outputs.hidden_states[:-1], last)
        outputs = replace(outputs, last_hidden_state=last, hidden_states=states)
        return self.head(outputs, {"mc_token_ids": mc_token_ids}, head_key)

    def head(self, outputs, inputs, dropout_rng):
        last = outputs.last_hidden_state
        scores = self.multiple_choice_head(last, inputs.get("mc_token_ids"), dropout_rng)
        scores = scores[..., 0] if scores.shape[-1] == 1 else scores
        return outputs.to(DoubleHeadsOutput, logits=self.logits(last), mc_logits=scores)

    def bind_inputs(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        others = {name: value for name, value in kwargs.items() if name != "mc_token_ids"}
        chosen = kwargs.get("mc_token_ids")
        return super().bind_inputs(function, args, others) | ({} if chosen is None else {"mc_token_ids": chosen})


class GPT2ForSequenceClassification(DecoderForSequenceClassification):
    base_class = GPT2Model


class GPT2ForTokenClassification(DecoderForTokenClassification):
    base_class = GPT2Model
    head_name = "classifier"


class GPT2ForQuestionAnswering(ForQuestionAnswering):
    base_class = GPT2Model

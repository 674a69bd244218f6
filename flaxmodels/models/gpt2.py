"""GPT-2 (Radford et al. 2019, "Language models are unsupervised multitask learners"): decoder with learned positions.

Parameter names and numerics follow the reference implementation in transformers (`GPT2Model`, `GPT2...`).
"""

from __future__ import annotations

from dataclasses import replace
from types import MethodType
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.nn.initializers import normal, zeros

from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import FlaxModelsError
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
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.attention import cached_attention, split_heads
from flaxmodels.nn.cache import Cache, LayerCache, self_attention_cache
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.heads import SequenceSummary, fold_choices, last_token, span_logits
from flaxmodels.nn.inputs import OPTIONAL_CHOICES
from flaxmodels.nn.linear import Conv1D, Embedding, LayerNorm, Linear, TiedLinear, embed, vocabulary_projection
from flaxmodels.nn.masks import decoder_mask, new_places, padding_mask
from flaxmodels.nn.mlp import MLP
from flaxmodels.nn.module import Module, fresh, param
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.stack import BlockOutput, Stack
from flaxmodels.outputs import (
    BaseModelOutput,
    CausalLMOutput,
    DoubleHeadsOutput,
    QuestionAnsweringOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)


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


class GPT2Attention(Module):
    """Attention of the hidden states to themselves and a cache, or, if it `crosses`, to `memory`."""

    def __init__(self, config: GPT2Config, policy: Policy, *, crosses: bool = False):
        init = normal(config.initializer_range)
        self.heads = config.n_head
        self.implementation = policy.attn_implementation
        self.attn_dropout, self.resid_dropout = config.attn_pdrop, config.resid_pdrop
        # Attention divides by the root of head_dim.
        self.scale = 1.0 if config.scale_attn_weights else config.features_per_head**0.5
        self.c_attn = Conv1D(config.n_embd, (2 if crosses else 3) * config.n_embd, policy, init=init)
        self.q_attn = Conv1D(config.n_embd, config.n_embd, policy, init=init) if crosses else None
        self.c_proj = Conv1D(config.n_embd, config.n_embd, policy, init=init)

    def __call__(
        self, hidden_states, mask, number, *, memory=None, cache=None, output_attentions=False, dropout_rng=None
    ):
        inner, outer = split_key(dropout_rng, 2)
        if self.q_attn is None or memory is None:
            parts = jnp.split(self.c_attn(hidden_states), 3, -1)
        else:
            parts = [self.q_attn(hidden_states), *jnp.split(self.c_attn(memory), 2, -1)]
        query, key, value = (split_heads(part, self.heads) for part in parts)
        query = query * self.scale if number is None else query * (self.scale / (number + 1)).astype(query.dtype)
        mixed, weights, cache = cached_attention(
            query,
            key,
            value,
            mask,
            cache,
            implementation=self.implementation,
            return_weights=output_attentions,
            dropout_rate=self.attn_dropout,
            dropout_rng=inner,
        )
        return dropout(self.c_proj(mixed), self.resid_dropout, outer), weights, cache


class GPT2Block(Module):
    def __init__(self, config: GPT2Config, policy: Policy):
        self.ln_1 = LayerNorm(config.n_embd, policy, epsilon=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, policy)
        self.ln_2 = LayerNorm(config.n_embd, policy, epsilon=config.layer_norm_epsilon)
        crosses = config.add_cross_attention
        self.crossattention = fresh(GPT2Attention(config, policy, crosses=True)) if crosses else None
        if crosses:
            self.ln_cross_attn = fresh(LayerNorm(config.n_embd, policy, epsilon=config.layer_norm_epsilon))
        self.dropout_rate = config.resid_pdrop
        self.mlp = MLP(
            config.n_embd,
            config.n_inner or 4 * config.n_embd,
            policy,
            activation=config.activation_function,
            names=("c_fc", "c_proj"),
            layer=Conv1D,
            init=normal(config.initializer_range),
        )

    def __call__(
        self,
        hidden_states: jax.Array,
        *,
        mask: jax.Array,
        number: jax.Array | None = None,
        memory: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        cache: LayerCache | None = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BlockOutput:
        keys, options = split_key(dropout_rng, 3), {"output_attentions": output_attentions}
        normed, cross_weights = self.ln_1(hidden_states), None
        mixed, weights, cache = self.attn(normed, mask, number, cache=cache, dropout_rng=keys[0], **options)
        hidden_states = hidden_states + mixed
        if self.crossattention is not None and memory is not None:
            normed = self.ln_cross_attn(hidden_states)
            mixed, cross_weights, _ = self.crossattention(
                normed, memory_mask, number, memory=memory, dropout_rng=keys[1], **options
            )
            hidden_states = hidden_states + mixed
        fed = dropout(self.mlp(self.ln_2(hidden_states)), self.dropout_rate, keys[2])
        return BlockOutput(hidden_states + fed, cache, weights, cross_weights)


class GPT2PreTrainedModel(PreTrainedModel):
    """Base of the GPT-2 models. All take the inputs of `GPT2Model.forward`."""

    config_class = GPT2Config
    base_model_prefix = "transformer"
    ignored_names = (r"\.(attn|crossattention)\.(bias|masked_bias)$",)
    tp_plan = {"(c_attn|q_attn|c_fc|lm_head)": COLUMN, "(c_proj|wte)": ROW}
    base_class: ClassVar[Any]
    """The base model that a model with a head is built on."""
    config: Any

    def set_base(self, config: Any, policy: Policy) -> Any:
        """Make the base model, under the name that it has in checkpoints."""
        base = self.base_class.part(config, policy)
        setattr(self, self.base_model_prefix, base)
        return base

    @property
    def output_features(self) -> int:
        """Size of what the base model returns."""
        return self.config.hidden_size

    def classifier_layer(self, policy: Policy, outputs: int, *, use_bias: bool = True) -> Linear:
        """A dense layer from what the base model returns to `outputs` values."""
        init = normal(self.config.initializer_range)
        return Linear(self.output_features, outputs, policy, use_bias=use_bias, init=init)


class GPT2Model(GPT2PreTrainedModel):
    """The decoder without a head."""

    input_embeddings = "wte"
    position_embeddings = "wpe"

    def build(self, config: GPT2Config, policy: Policy):
        init = normal(config.initializer_range)
        self.wte = Embedding(config.vocab_size, config.n_embd, policy, init=init)
        self.wpe = Embedding(config.n_positions, config.n_embd, policy, init=init)
        self.h = Stack(lambda: GPT2Block(config, policy), config.n_layer, policy)
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
        """Decode.

        Args:
            input_ids: int `[batch, q_len]`; or `inputs_embeds` `[batch, q_len, hidden]` in its place.
            attention_mask: `[batch, kv_len]`, 0 for padding; with a cache it speaks of the whole text.
            token_type_ids: int `[batch, q_len]`, looked up among the words.
            position_ids: int `[batch, q_len]`; 0, 1, ... behind the cache.
            past_key_values: from `init_cache` or an earlier output.
            encoder_hidden_states: `[batch, kv_len, hidden]` for cross-attention, with `encoder_attention_mask`.
        """
        if encoder_hidden_states is not None and not self.config.add_cross_attention:
            raise FlaxModelsError("encoder_hidden_states needs add_cross_attention=True in the configuration")
        words = embed(self.wte, input_ids, inputs_embeds)
        q_len = words.shape[1]
        cache = None if past_key_values is None else self_attention_cache(past_key_values)
        if position_ids is None:
            position_ids = new_places(q_len, cache)[None]
        hidden_states = words + self.wpe(position_ids)
        if token_type_ids is not None:
            hidden_states = hidden_states + self.wte(token_type_ids)
        keys = split_key(dropout_rng, 2)
        numbers = jnp.arange(self.config.n_layer) if self.config.scale_attn_by_inverse_layer_idx else None
        outputs = self.h(
            dropout(hidden_states, self.config.embd_pdrop, keys[0]),
            past_key_values=past_key_values,
            dropout_rng=keys[1],
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            per_layer={"number": numbers},
            mask=decoder_mask(attention_mask, q_len, cache),
            memory=encoder_hidden_states,
            memory_mask=None if encoder_attention_mask is None else padding_mask(encoder_attention_mask),
        )
        return BaseModelOutput(**outputs.normed(self.ln_f)._asdict())


GPT2PreTrainedModel.base_class = GPT2Model


class GPT2LMHeadModel(GPT2PreTrainedModel):
    """Next token prediction."""

    predicts_next_token = True
    head_name: ClassVar[str] = "lm_head"
    """Of the projection to the vocabulary."""
    head_has_bias: ClassVar[bool] = False

    def build(self, config: Any, policy: Policy):
        table = self.set_base(config, policy).get_input_embeddings()
        bias = param((config.vocab_size,), policy.param_dtype, zeros) if self.head_has_bias else None
        tied, init = config.tie_word_embeddings, normal(config.initializer_range)
        setattr(self, self.head_name, vocabulary_projection(table, policy, tied=tied, init=init, bias=bias))

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(CausalLMOutput, logits=self.get_output_embeddings()(outputs.last_hidden_state))

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return getattr(self, self.head_name)


class GPT2DoubleHeadsModel(GPT2LMHeadModel):
    """Next token prediction, and a score for each of several texts. Inputs are `[batch, num_choices, q_len]`.

    A further input `mc_token_ids`, int `[batch, num_choices]`, names the token of each text that its score is made of,
    the last one by default. Texts may also be `[batch, q_len]`, with a score for each.
    """

    expected_inputs = OPTIONAL_CHOICES

    def build(self, config: GPT2Config, policy: Policy):
        super().build(config, policy)
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

    def forward(self, *, mc_token_ids: jax.Array | None = None, dropout_rng: jax.Array | None = None, **inputs: Any):
        base_key, head_key = split_key(dropout_rng, 2)
        texts, choices = fold_choices(inputs)
        outputs = self.features(dropout_rng=base_key, **texts)
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
        return outputs.to(DoubleHeadsOutput, logits=self.get_output_embeddings()(last), mc_logits=scores)

    def _inputs(self, function: MethodType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        others = {name: value for name, value in kwargs.items() if name != "mc_token_ids"}
        chosen = kwargs.get("mc_token_ids")
        return super()._inputs(function, args, others) | ({} if chosen is None else {"mc_token_ids": chosen})


class GPT2ForSequenceClassification(GPT2PreTrainedModel):
    """Classification of a sequence by its last token that is not padding."""

    def build(self, config: Any, policy: Policy):
        self.set_base(config, policy)
        self.score = self.classifier_layer(policy, config.num_labels, use_bias=False)

    def head(self, outputs, inputs, dropout_rng):
        logits = self.score(outputs.last_hidden_state)
        chosen = last_token(logits, inputs.get("input_ids"), self.config.pad_token_id)
        return outputs.to(SequenceClassifierOutput, logits=chosen)


class GPT2ForTokenClassification(GPT2PreTrainedModel):
    """Classification of each token."""

    def build(self, config: Any, policy: Policy):
        self.set_base(config, policy)
        rates = (getattr(config, name, None) for name in ("classifier_dropout", "hidden_dropout"))
        self.dropout_rate = next((rate for rate in rates if rate is not None), 0.1)
        self.classifier = self.classifier_layer(policy, config.num_labels)

    def head(self, outputs, inputs, dropout_rng):
        logits = self.classifier(dropout(outputs.last_hidden_state, self.dropout_rate, dropout_rng))
        return outputs.to(TokenClassifierOutput, logits=logits)


class GPT2ForQuestionAnswering(GPT2PreTrainedModel):
    """Where in the text the answer begins and ends."""

    def build(self, config: Any, policy: Policy):
        self.set_base(config, policy)
        self.qa_outputs = self.classifier_layer(policy, 2)

    def head(self, outputs, inputs, dropout_rng):
        start, end = span_logits(self.qa_outputs, outputs.last_hidden_state)
        return outputs.to(QuestionAnsweringOutput, start_logits=start, end_logits=end)

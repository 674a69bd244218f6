"""GPT-2 (Radford et al. 2019, "Language models are unsupervised multitask learners"): decoder with learned positions.

Parameter names and numerics follow the reference implementation in transformers (`GPT2Model`, `GPT2...`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn.initializers import normal

from flaxmodels.config import PreTrainedConfig
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.activations import ACTIVATIONS, get_activation
from flaxmodels.nn.attention import cached_attention, split_heads
from flaxmodels.nn.cache import Cache, LayerCache, self_attention_cache
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.heads import last_token, span_logits
from flaxmodels.nn.linear import Conv1D, Embedding, LayerNorm, Linear, TiedLinear, embed, vocabulary_projection
from flaxmodels.nn.masks import decoder_mask
from flaxmodels.nn.module import Module
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.stack import BlockOutput, Stack
from flaxmodels.outputs import (
    BaseModelOutput,
    CausalLMOutput,
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

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    classifier_dropout: float | None = None
    hidden_dropout: float | None = None
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256
    use_cache: bool = True

    def problems(self) -> list[str]:
        found = []
        if self.activation_function not in ACTIVATIONS:
            known = ", ".join(sorted(ACTIVATIONS))
            found.append(f"activation_function={self.activation_function!r}: expected one of {known}")
        if self.n_embd % self.n_head:
            found.append(f"n_embd={self.n_embd} is not a multiple of n_head={self.n_head}")
        if self.add_cross_attention:
            found.append("add_cross_attention=True is not implemented")
        return found


class GPT2Attention(Module):
    def __init__(self, config: GPT2Config, policy: Policy):
        init = normal(config.initializer_range)
        self.heads = config.n_head
        self.implementation = policy.attn_implementation
        self.attn_dropout, self.resid_dropout = config.attn_pdrop, config.resid_pdrop
        # Attention divides by the root of head_dim.
        self.scale = 1.0 if config.scale_attn_weights else config.features_per_head**0.5
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd, policy, init=init)
        self.c_proj = Conv1D(config.n_embd, config.n_embd, policy, init=init)

    def __call__(self, hidden_states, mask, number, cache, output_attentions, dropout_rng):
        inner, outer = split_key(dropout_rng, 2)
        query, key, value = (split_heads(part, self.heads) for part in jnp.split(self.c_attn(hidden_states), 3, -1))
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


class GPT2MLP(Module):
    def __init__(self, config: GPT2Config, policy: Policy):
        init, inner = normal(config.initializer_range), config.n_inner or 4 * config.n_embd
        self.activation, self.dropout_rate = get_activation(config.activation_function), config.resid_pdrop
        self.c_fc = Conv1D(config.n_embd, inner, policy, init=init)
        self.c_proj = Conv1D(inner, config.n_embd, policy, init=init)

    def __call__(self, hidden_states, dropout_rng):
        return dropout(self.c_proj(self.activation(self.c_fc(hidden_states))), self.dropout_rate, dropout_rng)


class GPT2Block(Module):
    def __init__(self, config: GPT2Config, policy: Policy):
        self.ln_1 = LayerNorm(config.n_embd, policy, epsilon=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, policy)
        self.ln_2 = LayerNorm(config.n_embd, policy, epsilon=config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config, policy)

    def __call__(
        self,
        hidden_states: jax.Array,
        *,
        mask: jax.Array,
        number: jax.Array | None = None,
        cache: LayerCache | None = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BlockOutput:
        keys = split_key(dropout_rng, 2)
        mixed, weights, cache = self.attn(self.ln_1(hidden_states), mask, number, cache, output_attentions, keys[0])
        hidden_states = hidden_states + mixed
        return BlockOutput(hidden_states + self.mlp(self.ln_2(hidden_states), keys[1]), cache, weights)


class GPT2PreTrainedModel(PreTrainedModel):
    """Base of the GPT-2 models. All take the inputs of `GPT2Model.forward`."""

    config_class = GPT2Config
    base_model_prefix = "transformer"
    ignored_names = (r"attn\.(bias|masked_bias)$",)
    tp_plan = {"(c_attn|c_fc|lm_head)": COLUMN, "(c_proj|wte)": ROW}
    config: GPT2Config


class GPT2Model(GPT2PreTrainedModel):
    """The decoder without a head."""

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
        """
        words = embed(self.wte, input_ids, inputs_embeds)
        q_len = words.shape[1]
        cache = None if past_key_values is None else self_attention_cache(past_key_values)
        if position_ids is None:
            position_ids = jnp.arange(q_len)[None] + (0 if cache is None else cache.length)
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
        )
        return BaseModelOutput(**outputs.normed(self.ln_f)._asdict())

    def get_input_embeddings(self) -> Embedding:
        return self.wte

    def set_input_embeddings(self, value: Embedding) -> None:
        self.wte = value


class GPT2LMHeadModel(GPT2PreTrainedModel):
    """Next token prediction."""

    predicts_next_token = True

    def build(self, config: GPT2Config, policy: Policy):
        self.transformer = GPT2Model.part(config, policy)
        tied, init = config.tie_word_embeddings, normal(config.initializer_range)
        self.lm_head = vocabulary_projection(self.transformer.wte, policy, tied=tied, init=init)

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(CausalLMOutput, logits=self.lm_head(outputs.last_hidden_state))

    def get_output_embeddings(self) -> Linear | TiedLinear:
        return self.lm_head


class GPT2ForSequenceClassification(GPT2PreTrainedModel):
    """Classification of a sequence by its last token that is not padding."""

    def build(self, config: GPT2Config, policy: Policy):
        self.transformer = GPT2Model.part(config, policy)
        init = normal(config.initializer_range)
        self.score = Linear(config.n_embd, config.num_labels, policy, use_bias=False, init=init)

    def head(self, outputs, inputs, dropout_rng):
        logits = self.score(outputs.last_hidden_state)
        chosen = last_token(logits, inputs.get("input_ids"), self.config.pad_token_id)
        return outputs.to(SequenceClassifierOutput, logits=chosen)


class GPT2ForTokenClassification(GPT2PreTrainedModel):
    """Classification of each token."""

    def build(self, config: GPT2Config, policy: Policy):
        self.transformer = GPT2Model.part(config, policy)
        rates = (config.classifier_dropout, config.hidden_dropout, 0.1)
        self.dropout_rate = next(rate for rate in rates if rate is not None)
        self.classifier = Linear(config.n_embd, config.num_labels, policy, init=normal(config.initializer_range))

    def head(self, outputs, inputs, dropout_rng):
        logits = self.classifier(dropout(outputs.last_hidden_state, self.dropout_rate, dropout_rng))
        return outputs.to(TokenClassifierOutput, logits=logits)


class GPT2ForQuestionAnswering(GPT2PreTrainedModel):
    """Where in the text the answer begins and ends."""

    def build(self, config: GPT2Config, policy: Policy):
        self.transformer = GPT2Model.part(config, policy)
        self.qa_outputs = Linear(config.n_embd, 2, policy, init=normal(config.initializer_range))

    def head(self, outputs, inputs, dropout_rng):
        start, end = span_logits(self.qa_outputs, outputs.last_hidden_state)
        return outputs.to(QuestionAnsweringOutput, start_logits=start, end_logits=end)

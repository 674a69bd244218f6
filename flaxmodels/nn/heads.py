"""Task heads, written once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer, zeros

from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.linear import Embedding, LayerNorm, Linear, vocabulary_projection
from flaxmodels.nn.module import Module, param
from flaxmodels.nn.policy import Policy


class MaskedLMHead(Module):
    """Dense layer, gelu, norm, and a projection to the vocabulary of `table`, whose parameter it shares if `tied`."""

    def __init__(
        self, features: int, table: Embedding, policy: Policy, *, epsilon: float, tied: bool, init: Initializer
    ):
        self.activation = get_activation("gelu")
        self.dense = Linear(features, features, policy, init=init)
        self.layer_norm = LayerNorm(features, policy, epsilon=epsilon)
        self.bias = param(table.embedding.get_raw_value().shape[:1], policy.param_dtype, zeros)
        self.decoder = vocabulary_projection(table, policy, tied=tied, init=init, bias=self.bias)

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        return self.decoder(self.layer_norm(self.activation(self.dense(hidden_states))))


class ClassificationHead(Module):
    """Two dense layers on one vector a text, `[batch, features]`, with dropout before each."""

    def __init__(
        self,
        features: int,
        labels: int,
        policy: Policy,
        *,
        dropout_rate: float,
        init: Initializer,
        activation: str = "tanh",
    ):
        self.activation, self.dropout_rate = get_activation(activation), dropout_rate
        self.dense = Linear(features, features, policy, init=init)
        self.out_proj = Linear(features, labels, policy, init=init)

    def __call__(self, pooled: jax.Array, dropout_rng: jax.Array | None) -> jax.Array:
        keys = split_key(dropout_rng, 2)
        hidden = self.activation(self.dense(dropout(pooled, self.dropout_rate, keys[0])))
        return self.out_proj(dropout(hidden, self.dropout_rate, keys[1]))


def mean_of_tokens(hidden_states: jax.Array, attention_mask: jax.Array | None) -> jax.Array:
    """`[batch, q_len, hidden]` averaged, in float32, over the tokens that are not padding: `[batch, hidden]`."""
    if attention_mask is None:
        return hidden_states.mean(1, dtype=jnp.float32).astype(hidden_states.dtype)
    kept = attention_mask.astype(jnp.float32)[:, :, None]
    mean = (hidden_states * kept).sum(1) / kept.sum(1)
    return mean.astype(hidden_states.dtype)


def last_token(logits: jax.Array, input_ids: jax.Array | None, pad_token_id: int | None) -> jax.Array:
    """`[batch, q_len, labels]` at the last token of each row that is not padding, `[batch, labels]`."""
    if pad_token_id is None or input_ids is None:
        return logits[:, -1]
    last = jnp.argmax(jnp.arange(input_ids.shape[1])[None] * (input_ids != pad_token_id), axis=-1)
    return jnp.take_along_axis(logits, last[:, None, None], axis=1)[:, 0]


def span_logits(head: Linear, hidden_states: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Start and end logits, each `[batch, q_len]`, of a head with two outputs."""
    logits = head(hidden_states)
    return logits[..., 0], logits[..., 1]


_PER_CHOICE = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")


def score_choices(forward: Callable[..., Any], inputs: dict[str, Any]) -> Any:
    """The output of `forward`, which gives one logit for each text, of inputs `[batch, num_choices, ...]`.

    All choices are texts of one batch; the logits become `[batch, num_choices]`.
    """
    given = {name: array for name in _PER_CHOICE if (array := inputs.get(name)) is not None}
    choices = next(iter(given.values())).shape[:2]
    outputs = forward(**inputs | {name: array.reshape(-1, *array.shape[2:]) for name, array in given.items()})
    return replace(outputs, logits=outputs.logits.reshape(choices))

"""Task heads, written once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.initializers import Initializer
from flaxmodels.nn.module import Module
from flaxmodels.policy import Policy


class ClassificationHead(Module):
    """Two dense layers on one vector a sequence, `[batch, features]`, with dropout before each."""

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


def last_chosen(hidden_states: jax.Array, chosen: jax.Array) -> jax.Array:
    """`[batch, q_len, hidden]` at the last token of each row that is `chosen`, bool `[batch, q_len]`."""
    last = chosen.shape[1] - 1 - jnp.argmax(chosen[:, ::-1], axis=1)
    return jnp.take_along_axis(hidden_states, last[:, None, None], axis=1)[:, 0]


def weighted_layers(weights: jax.Array, hidden_states: tuple[jax.Array, ...]) -> jax.Array:
    """The mean of hidden states `[batch, q_len, hidden]`, by the softmax of `weights` `[layers]`."""
    shares = jax.nn.softmax(weights.astype(jnp.float32))
    # [layers], [layers, batch, q_len, hidden] -> [batch, q_len, hidden]
    mean = jnp.einsum("l,l...->...", shares, jnp.stack(hidden_states), preferred_element_type=jnp.float32)
    return mean.astype(hidden_states[0].dtype)


def span_logits(head: Linear, hidden_states: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Start and end logits, each `[batch, q_len]`, of a head with two outputs."""
    logits = head(hidden_states)
    return logits[..., 0], logits[..., 1]


class SequenceSummary(Module):
    """One vector for each sequence, `[..., outputs]` of hidden states `[..., q_len, features]`.

    It is the state of a token or the mean of all, through dropout, a dense layer (none if `outputs` is `None`), an
    activation and dropout again.

    Attributes:
        kind: which state: "first", "last", "mean", or "cls_index", that of a given token, or of the last.
        dropout_rates: dropout rates before the dense layer and after it.
    """

    kinds = ("first", "last", "mean", "cls_index")

    def __init__(
        self,
        features: int,
        outputs: int | None,
        policy: Policy,
        *,
        kind: str,
        activation: str = "linear",
        dropout_rates: tuple[float, float] = (0.0, 0.0),
        init: Initializer,
    ):
        self.kind, self.dropout_rates, self.activation = kind, dropout_rates, get_activation(activation)
        self.summary = None if outputs is None else Linear(features, outputs, policy, init=init)

    def __call__(
        self, hidden_states: jax.Array, token_ids: jax.Array | None = None, dropout_rng: jax.Array | None = None
    ) -> jax.Array:
        """`token_ids`, int `[...]`, are the positions of tokens for "cls_index"."""
        keys = split_key(dropout_rng, 2)
        if self.kind == "mean":
            chosen = hidden_states.mean(-2)
        elif self.kind == "cls_index" and token_ids is not None:
            chosen = jnp.take_along_axis(hidden_states, token_ids[..., None, None], axis=-2)[..., 0, :]
        else:
            chosen = hidden_states[..., 0 if self.kind == "first" else -1, :]
        chosen = dropout(chosen, self.dropout_rates[0], keys[0])
        chosen = chosen if self.summary is None else self.summary(chosen)
        return dropout(self.activation(chosen), self.dropout_rates[1], keys[1])


_PER_CHOICE = {"input_ids": 1, "attention_mask": 1, "token_type_ids": 1, "position_ids": 1, "inputs_embeds": 2}
"""Inputs of which there is one for each choice, and how many axes it has there."""


def fold_choices(inputs: dict[str, Any]) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Inputs `[..., q_len]` with all sequences in one batch, and the axes before `q_len`: `[batch, num_choices]`."""
    given = {name: array for name in _PER_CHOICE if (array := inputs.get(name)) is not None}
    name, first = next(iter(given.items()))
    folded = {name: array.reshape(-1, *array.shape[-_PER_CHOICE[name] :]) for name, array in given.items()}
    return inputs | folded, first.shape[: -_PER_CHOICE[name]]


def score_choices(forward: Callable[..., Any], inputs: dict[str, Any]) -> Any:
    """The output of `forward`, which gives one logit for each sequence, of inputs `[batch, num_choices, ...]`.

    All choices are sequences of one batch; the logits become `[batch, num_choices]`.
    """
    folded, choices = fold_choices(inputs)
    outputs = forward(**folded)
    return replace(outputs, logits=outputs.logits.reshape(choices))

"""Task heads, written once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.nn.linear import Linear


def last_token(logits: jax.Array, input_ids: jax.Array | None, pad_token_id: int | None) -> jax.Array:
    """`[batch, q_len, labels]` at the last token of each row that is not padding, `[batch, labels]`."""
    if pad_token_id is None or input_ids is None:
        return logits[:, -1]
    last = jnp.argmax(jnp.arange(input_ids.shape[1])[None] * (input_ids != pad_token_id), axis=-1)
    return jnp.take_along_axis(logits, last[:, None, None], axis=1)[:, 0]


def weighted_layers(weights: jax.Array, hidden_states: tuple[jax.Array, ...]) -> jax.Array:
    """The mean of hidden states `[batch, q_len, hidden]`, by the softmax of `weights` `[layers]`."""
    shares = jax.nn.softmax(weights.astype(jnp.float32))
    mean = jnp.einsum("l,l...->...", shares, jnp.stack(hidden_states), preferred_element_type=jnp.float32)
    return mean.astype(hidden_states[0].dtype)


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

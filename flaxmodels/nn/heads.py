"""Task heads, written once."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxmodels.nn.linear import Linear


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


def flatten_choices(array: jax.Array | None) -> jax.Array | None:
    """`[batch, num_choices, ...]` to `[batch * num_choices, ...]`."""
    return None if array is None else array.reshape(-1, *array.shape[2:])

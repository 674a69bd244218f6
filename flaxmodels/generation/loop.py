"""The compiled part of generation: the prompt and the whole decoding loop are one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmodels.generation.logits import Number, process
from flaxmodels.nn.cache import Cache
from flaxmodels.nn.functional import functional
from flaxmodels.nn.linear import Linear
from flaxmodels.nn.module import iter_leaves


class Request(NamedTuple):
    """All that may differ between two calls of one compiled program. Arrays of numpy or jax.

    Attributes:
        input_ids: int32 `[batch, prompt_len]`, padded on the left.
        attention_mask: int32 `[batch, prompt_len]`, 0 for padding.
        max_new_tokens: int32, at least 1.
        eos_token_ids: int32 `[several]`; -1 is none.
        pad_token_id: int32, fills rows after their end.
        sampling: numbers for `process`; `None` takes the likeliest token instead of drawing one.
        rng: for drawing: a key, typed or raw, or an integer that makes one.
    """

    input_ids: Any
    attention_mask: Any
    max_new_tokens: Any
    eos_token_ids: Any
    pad_token_id: Any
    sampling: dict[str, Number] | None = None
    rng: Any = None


class State(NamedTuple):
    """How far decoding is: `step` columns of `tokens` `[batch, room]` are there, `finished` `[batch]` rows have ended.

    The cache holds the prompt and all of these tokens but the last.
    """

    step: jax.Array
    tokens: jax.Array
    finished: jax.Array
    cache: Cache


def compiled_loop(model: Any) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """`generate_tokens` for `model`, compiled once for each shape of a request and each room."""
    structure = functional(model)
    if "generate" not in structure.compiled:
        structure.compiled["generate"] = jax.jit(partial(generate_tokens, structure.bind), static_argnames="room")
    return structure.compiled["generate"]


def generate_tokens(
    bind: Callable[[list[Any]], Any], values: list[Any], request: Request, *, room: int
) -> tuple[jax.Array, jax.Array]:
    """Continue the prompts until all rows have ended, or for `max_new_tokens`.

    Args:
        bind: makes the model of its parameters.
        values: the parameters.
        room: for so many new tokens, at least `max_new_tokens`.

    Returns:
        New tokens, int32 `[batch, room]`, and how many columns of them there are.
    """
    model = bind(values)
    prepare(model)
    batch, prompt_len = request.input_ids.shape
    choose = _chooser(request, batch)

    def extend(state: State, input_ids: jax.Array, position_ids: jax.Array) -> State:
        scores, cache = _next_scores(model, input_ids, request.attention_mask, position_ids, state.cache)
        token = jnp.where(state.finished, request.pad_token_id, choose(scores, state.step))
        ended = (token[:, None] == request.eos_token_ids[None]).any(-1)
        tokens = jax.lax.dynamic_update_slice(state.tokens, token[:, None], (0, state.step))
        return State(state.step + 1, tokens, state.finished | ended, cache)

    def decode(state: State) -> State:
        last = jax.lax.dynamic_slice_in_dim(state.tokens, state.step - 1, 1, axis=1)
        return extend(state, last, (lengths + state.step - 1)[:, None])

    state = State(
        jnp.zeros((), jnp.int32),
        jnp.zeros((batch, room), jnp.int32),
        jnp.zeros(batch, bool),
        model.init_cache(batch, prompt_len + room),
    )
    lengths = request.attention_mask.sum(-1)
    state = extend(state, request.input_ids, jnp.maximum(request.attention_mask.cumsum(-1) - 1, 0))
    state = jax.lax.while_loop(
        lambda state: (state.step < request.max_new_tokens) & ~state.finished.all(), decode, state
    )
    return state.tokens, state.step


def prepare(model: Any) -> None:
    """Cast once for all steps what layers cast in each; norms compute with their scales in float32 and have no dtype.

    XLA's CPU backend multiplies one half-precision row 1.6 times as fast by a transposed kernel.
    """
    for leaf in list(iter_leaves(model)):
        if dtype := getattr(leaf.owner, "dtype", None):
            leaf.variable.set_value(leaf.variable.get_value().astype(dtype))
    if model.policy.dtype.itemsize == 2 and jax.default_backend() == "cpu":
        for _, layer in nnx.iter_modules(model):
            if isinstance(layer, Linear):
                layer.transpose_kernel()


def _next_scores(
    model: Any, input_ids: jax.Array, attention_mask: jax.Array, position_ids: jax.Array, cache: Cache
) -> tuple[jax.Array, Cache]:
    """float32 scores `[batch, vocab]` of the token behind the last one, for which alone the head is computed."""
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
    outputs = model.base_model.forward(**inputs, past_key_values=cache)
    outputs = model.head(replace(outputs, last_hidden_state=outputs.last_hidden_state[:, -1:]), inputs, None)
    return outputs.logits[:, 0].astype(jnp.float32), outputs.past_key_values


def _chooser(request: Request, batch: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The function from scores `[batch, vocab]` and the step to int32 tokens `[batch]`.

    Each row draws with a key of its own, so that its tokens do not depend on the number of rows.
    """
    sampling = request.sampling
    if sampling is None:
        return lambda scores, step: scores.argmax(-1).astype(jnp.int32)
    rows = jax.random.split(_as_key(request.rng), batch)

    def draw(scores: jax.Array, step: jax.Array) -> jax.Array:
        keys = jax.vmap(jax.random.fold_in, (0, None))(rows, step)
        return jax.vmap(jax.random.categorical)(keys, process(scores, sampling)).astype(jnp.int32)

    return draw


def _as_key(rng: jax.Array) -> jax.Array:
    if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
        return rng
    return jax.random.wrap_key_data(rng) if rng.ndim else jax.random.key(rng)

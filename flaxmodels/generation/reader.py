"""Reading tokens with a cache: what all ways of decoding share, inside the compiled program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxmodels.generation.logits import NO_TOKEN, Custom, History, process
from flaxmodels.nn.cache import Cache, expecting, resized, rewound, self_attention_cache, take_rows
from flaxmodels.nn.module import iter_leaves


class Request(NamedTuple):
    """All that may differ between two calls of one compiled program. Arrays of numpy or jax.

    Attributes:
        input_ids: int32 `[batch, prompt_room]`, the prompt, with -1 for padding on either side of it.
        attention_mask: int32 `[batch, prompt_room]`, 0 for padding on the left.
        prompt_len: int32, padding on the left included.
        max_new_tokens: int32, at least 1.
        eos_token_ids: int32 `[several]`; -1 is none.
        pad_token_id: int32, fills rows after their end.
        settings: values for `logits.process`.
        rng: for drawing: a key, typed or raw, or an integer that makes one.
        seeds: uint32 `[batch]`, in its place.
        inputs_embeds: `[batch, prompt_room, hidden]` in the place of ids.
        encoder: inputs of the encoder.
        cache: what is read already, of `cached` tokens.
        numbers: of one way of decoding.
    """

    input_ids: Any
    attention_mask: Any
    prompt_len: Any
    max_new_tokens: Any
    eos_token_ids: Any
    pad_token_id: Any
    settings: dict[str, Any]
    rng: Any = None
    seeds: Any = None
    inputs_embeds: Any = None
    encoder: dict[str, Any] | None = None
    cache: Cache | None = None
    cached: Any = 0
    numbers: Any = None


@dataclass(frozen=True)
class Program:
    """What is compiled.

    Attributes:
        slots: tokens that there is room for in all.
        room: new tokens that there is room for.
        chunk: tokens of the prompt that are read at once, those in the cache not among them.
        repeats: sequences for each prompt.
        sample: whether tokens are drawn.
        custom: processors of the user.
        wanted: which outputs of the model, and of "scores" and "logits", are kept for each token.
        cache_dtype: name of the dtype of keys and values.
        variant: what one way of decoding adds.
    """

    slots: int
    room: int
    chunk: int
    repeats: int = 1
    sample: bool = False
    custom: tuple[Custom, ...] = ()
    wanted: tuple[str, ...] = ()
    cache_dtype: str | None = None
    variant: tuple[Any, ...] = ()


class Text(NamedTuple):
    """What is written so far: the first `length` of `tokens` `[rows, slots]`. The cache lacks the last of them."""

    tokens: jax.Array
    length: jax.Array
    cache: Cache


class Reader:
    """A model that reads on where its cache ends.

    Attributes:
        model: with its parameters.
        mask, positions: int32 `[rows, slots]`, of the whole text.
        source: the tokens of the encoder's input for `History`, or `None`.
    """

    def __init__(self, model: Any, request: Request, program: Program):
        self.model, self.request, self.program = model, request, program
        room = ((0, 0), (0, program.slots - request.attention_mask.shape[1]))
        there = jnp.pad(request.attention_mask, room) | (jnp.arange(program.slots) >= request.prompt_len)[None]
        self.mask = there.astype(jnp.int32)
        self.positions = jnp.maximum(self.mask.cumsum(-1) - 1, 0)
        self.memory = None if request.encoder is None else request.encoder.get("attention_mask")
        self.source = None
        if request.encoder is not None and "input_ids" in request.encoder:
            self.source = jnp.where(request.encoder["attention_mask"] > 0, request.encoder["input_ids"], NO_TOKEN)

    def repeat(self, count: int) -> None:
        """From now on each row stands `count` times."""
        if count > 1:
            given = (self.mask, self.positions, self.memory, self.source)
            self.mask, self.positions, self.memory, self.source = jax.tree.map(
                lambda array: jnp.repeat(array, count, axis=0), given
            )

    def begin(self) -> tuple[Text, Any]:
        """Read the prompt. The text with the prompt in it, and the outputs behind its last token; rows repeated."""
        request, program = self.request, self.program
        tokens = jnp.pad(
            request.input_ids,
            ((0, 0), (0, program.slots - request.input_ids.shape[1])),
            constant_values=NO_TOKEN,
        )
        batch = len(tokens)
        if request.cache is None:
            cache = self.model.init_cache(batch, program.slots, program.cache_dtype)
        else:
            cache = rewound(resized(request.cache, program.slots), jnp.asarray(request.cached, jnp.int32))
        count = request.prompt_len - request.cached
        read, other = jax.lax.dynamic_slice_in_dim(tokens, request.cached, program.chunk, axis=1), {}
        if request.inputs_embeds is not None:
            read, other = None, {"inputs_embeds": request.inputs_embeds[:, : program.chunk]}
        if request.encoder is not None:
            other = {"encoder_outputs": self.model.run_encoder(**request.encoder)}
        outputs, cache = self(read, expecting(cache, count), count - 1, **other)
        rows = jnp.repeat(jnp.arange(batch), program.repeats)
        if program.repeats > 1:
            tokens, cache = tokens[rows], take_rows(cache, rows)
            outputs = jax.tree.map(lambda array: array[rows], outputs)
            self.repeat(program.repeats)
        return Text(tokens, jnp.asarray(request.prompt_len, jnp.int32), cache), outputs

    def __call__(
        self, tokens: jax.Array | None, cache: Cache, last: jax.Array | int | None, **replaced: Any
    ) -> tuple[Any, Cache]:
        """Read `tokens` `[rows, q_len]`.

        Returns:
            The outputs, whose logits are float32 `[rows, vocab]` behind token number `last` (`[rows, q_len, vocab]`
            for `None`), and the cache with these tokens in it.
        """
        start = self_attention_cache(cache).length
        q_len = (replaced["inputs_embeds"] if tokens is None else tokens).shape[1]
        positions = jax.lax.dynamic_slice_in_dim(self.positions, start, q_len, axis=1)
        ids = None if tokens is None else jnp.maximum(tokens, 0)
        inputs = self.model.prepare_inputs_for_generation(ids, self.mask, positions, cache) | replaced
        if self.memory is not None:
            inputs["attention_mask"] = self.memory
        flags = {name: True for name in ("output_attentions", "output_hidden_states") if name in self.program.wanted}
        outputs = self.model.features(**inputs, **flags)
        hidden = outputs.last_hidden_state
        if last is not None:
            hidden = jax.lax.dynamic_slice_in_dim(hidden, last, 1, axis=1)
        logits = self.model.head(replace(outputs, last_hidden_state=hidden), inputs, None).logits
        logits = logits.astype(jnp.float32)
        cache = outputs.past_key_values
        kept = {}
        for name in ("hidden_states", "attentions", "cross_attentions") if flags else ():
            value = getattr(outputs, name, None) or getattr(outputs, f"decoder_{name}", None)
            kept |= {} if value is None else {name: value}
        return kept | {"logits": logits if last is None else logits[:, 0]}, cache

    def process(self, scores: jax.Array, tokens: jax.Array, length: jax.Array, keep: int = 1) -> jax.Array:
        """Scores after the processors of the request."""
        request = self.request
        stop = request.prompt_len + request.max_new_tokens
        history = History(tokens, length, request.prompt_len, stop, self.source)
        return process(scores, request.settings, history, self.program.custom, keep)

    def fails(self, logits: jax.Array) -> jax.Array:
        """Whether logits `[..., vocab]` are NaN or infinite, bool `[...]`; never if the request replaces these."""
        if "remove_invalid_values" in self.request.settings:
            return jnp.zeros(logits.shape[:-1], bool)
        return ~(logits < jnp.inf).all(-1)

    def ends(self, tokens: jax.Array) -> jax.Array:
        """Whether each of the tokens ends an answer."""
        ends = self.request.eos_token_ids.reshape((1,) * tokens.ndim + (-1,))
        return (tokens[..., None] == ends).any(-1)


def prepare(model: Any) -> None:
    """Cast once for all steps what layers cast in each; not the scales of norms, which compute in float32."""
    for leaf in list(iter_leaves(model)):
        if dtype := getattr(leaf.owner, "dtype", None):
            leaf.variable.set_value(leaf.variable.get_value().astype(dtype))

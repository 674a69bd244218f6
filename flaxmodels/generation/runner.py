"""A model that reads tokens with a cache inside a compiled program: what all strategies of decoding share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxmodels.execution.structure import structure_of
from flaxmodels.generation.logits import NO_TOKEN, History
from flaxmodels.generation.processing import Custom, process
from flaxmodels.nn.cache import Cache, expecting, resized, rewound, self_attention_cache, take_rows
from flaxmodels.nn.leaves import iter_leaves


class DynamicInputs(NamedTuple):
    """All that may differ between two calls of one compiled program. Arrays of numpy or jax.

    Attributes:
        input_ids: the prompt, int32 `[batch, prompt_width]`, with -1 for padding on either side of it.
        attention_mask: the mask of the prompt, int32 `[batch, prompt_width]`, 0 for padding on the left.
        prompt_len: the length of the prompt, int32, padding on the left included.
        max_new_tokens: the most tokens of a completion, int32, at least 1.
        eos_token_ids: the ids that end a completion, int32 `[several]`; -1 is none.
        pad_token_id: the id that fills rows after their end, int32.
        processors: the values of `processing.process`.
        rng: the key to sample with, typed or raw, or an integer that makes one.
        seeds: seeds in its place, uint32 `[batch]`.
        inputs_embeds: embeddings in place of ids, `[batch, prompt_width, hidden]`.
        encoder: the inputs of the encoder.
        cache: keys and values of the first `cached` tokens of the prompt.
        strategy: what one strategy adds.
    """

    input_ids: Any
    attention_mask: Any
    prompt_len: Any
    max_new_tokens: Any
    eos_token_ids: Any
    pad_token_id: Any
    processors: dict[str, Any]
    rng: Any = None
    seeds: Any = None
    inputs_embeds: Any = None
    encoder: dict[str, Any] | None = None
    cache: Cache | None = None
    cached: Any = 0
    strategy: Any = None


@dataclass(frozen=True)
class StaticArgs:
    """What is compiled into a program.

    Attributes:
        cache_len: the most tokens of a sequence, prompt and completion.
        max_new_tokens: the most tokens of a completion; `DynamicInputs.max_new_tokens` is at most that.
        prefill_len: tokens of the prompt that are read at once, without those in the cache.
        rows_per_prompt: sequences for each prompt.
        do_sample: whether tokens are sampled.
        custom: the user's processors.
        outputs: the settings `output_...` that are true, of what is kept for each token.
        cache_dtype: the name of the dtype of keys and values.
        strategy: what one strategy adds.
    """

    cache_len: int
    max_new_tokens: int
    prefill_len: int
    rows_per_prompt: int = 1
    do_sample: bool = False
    custom: tuple[Custom, ...] = ()
    outputs: tuple[str, ...] = ()
    cache_dtype: str | None = None
    strategy: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Strategy:
    """How the next tokens are chosen.

    Attributes:
        program: the function that is compiled: of `bind`s, values, `DynamicInputs` and `static=`.
        rows_per_prompt, static: what it adds to `StaticArgs`.
        inputs: what it adds to `DynamicInputs`.
        overshoot: the most tokens by which it may exceed a completion.
        draft: the model that drafts tokens, and its flat parameters.
    """

    program: Callable[..., Any]
    rows_per_prompt: int = 1
    static: tuple[Any, ...] = ()
    inputs: dict[str, Any] = field(default_factory=dict)
    overshoot: int = 0
    draft: tuple[Any, list[Any]] | None = None


class Sequences(NamedTuple):
    """Prompts and completions: the first `length` of `tokens` `[rows, cache_len]`. The cache lacks the last of them."""

    tokens: jax.Array
    length: jax.Array
    cache: Cache


class ModelRunner:
    """A model that continues where its cache ends.

    Attributes:
        model: the model, with its parameters.
        attention_mask, position_ids: the mask and the positions of the whole sequence, int32 `[rows, cache_len]`.
        source: the tokens of the encoder's input for `History`, or `None`.
    """

    def __init__(self, model: Any, inputs: DynamicInputs, static: StaticArgs):
        self.model, self.inputs, self.static = model, inputs, static
        width = ((0, 0), (0, static.cache_len - inputs.attention_mask.shape[1]))
        is_token = jnp.pad(inputs.attention_mask, width) | (jnp.arange(static.cache_len) >= inputs.prompt_len)[None]
        self.attention_mask = is_token.astype(jnp.int32)
        self.position_ids = jnp.maximum(self.attention_mask.cumsum(-1) - 1, 0)
        self.encoder_attention_mask = None if inputs.encoder is None else inputs.encoder.get("attention_mask")
        self.source = None
        if inputs.encoder is not None and "input_ids" in inputs.encoder:
            self.source = jnp.where(inputs.encoder["attention_mask"] > 0, inputs.encoder["input_ids"], NO_TOKEN)

    def repeat(self) -> None:
        """From now on there are `rows_per_prompt` rows for each prompt."""
        if self.static.rows_per_prompt > 1:
            arrays = (self.attention_mask, self.position_ids, self.encoder_attention_mask, self.source)
            self.attention_mask, self.position_ids, self.encoder_attention_mask, self.source = jax.tree.map(
                lambda array: jnp.repeat(array, self.static.rows_per_prompt, axis=0), arrays
            )

    def prefill(self) -> tuple[Sequences, Any]:
        """Read the prompts: the sequences with them, and the outputs after their last token; rows repeated."""
        inputs, static = self.inputs, self.static
        width = ((0, 0), (0, static.cache_len - inputs.input_ids.shape[1]))
        tokens = jnp.pad(inputs.input_ids, width, constant_values=NO_TOKEN)
        count = inputs.prompt_len - inputs.cached
        ids, others = jax.lax.dynamic_slice_in_dim(tokens, inputs.cached, static.prefill_len, axis=1), {}
        if inputs.inputs_embeds is not None:
            ids, others = None, {"inputs_embeds": inputs.inputs_embeds[:, : static.prefill_len]}
        if inputs.encoder is not None:
            others = {"encoder_outputs": self.model.run_encoder(**inputs.encoder)}
        outputs, cache = self(ids, expecting(self._cache(len(tokens)), count), count - 1, **others)
        if static.rows_per_prompt > 1:
            rows = jnp.repeat(jnp.arange(len(tokens)), static.rows_per_prompt)
            tokens, cache = tokens[rows], take_rows(cache, rows)
            outputs = jax.tree.map(lambda array: array[rows], outputs)
            self.repeat()
        return Sequences(tokens, jnp.asarray(inputs.prompt_len, jnp.int32), cache), outputs

    def _cache(self, batch: int) -> Cache:
        """The cache before the prompt is read: empty, or that of an earlier call."""
        if self.inputs.cache is None:
            return self.model.init_cache(batch, self.static.cache_len, self.static.cache_dtype)
        return rewound(resized(self.inputs.cache, self.static.cache_len), jnp.asarray(self.inputs.cached, jnp.int32))

    def __call__(
        self, tokens: jax.Array | None, cache: Cache, last: jax.Array | int | None, **replaced: Any
    ) -> tuple[Any, Cache]:
        """Read `tokens` `[rows, q_len]`.

        Returns:
            The outputs, whose logits are float32 `[rows, vocab]` after token number `last` (`[rows, q_len, vocab]`
            for `None`), and the cache with these tokens in it.
        """
        start = self_attention_cache(cache).length
        q_len = (replaced["inputs_embeds"] if tokens is None else tokens).shape[1]
        position_ids = jax.lax.dynamic_slice_in_dim(self.position_ids, start, q_len, axis=1)
        ids = None if tokens is None else jnp.maximum(tokens, 0)
        inputs = self.model.prepare_inputs_for_generation(ids, self.attention_mask, position_ids, cache) | replaced
        if self.encoder_attention_mask is not None:
            inputs["attention_mask"] = self.encoder_attention_mask
        flags = {name: True for name in ("output_attentions", "output_hidden_states") if name in self.static.outputs}
        outputs = self.model.base_forward(**inputs, **flags)
        hidden_states = outputs.last_hidden_state
        if last is not None:
            hidden_states = jax.lax.dynamic_slice_in_dim(hidden_states, last, 1, axis=1)
        logits = self.model.head(replace(outputs, last_hidden_state=hidden_states), inputs, None).logits
        logits = logits.astype(jnp.float32)
        kept = _of_layers(outputs) if flags else {}
        return kept | {"logits": logits if last is None else logits[:, 0]}, outputs.past_key_values

    def process(self, scores: jax.Array, tokens: jax.Array, length: jax.Array, keep: int = 1) -> jax.Array:
        """The scores `[rows, vocab]`, float32, after the processors of the call.

        Args:
            scores: float32 `[rows, vocab]`.
            tokens: int32 `[rows, cache_len]`, of which the first `length` count.
            keep: the fewest tokens that warpers leave possible.
        """
        inputs = self.inputs
        stop = inputs.prompt_len + inputs.max_new_tokens
        history = History(tokens, length, inputs.prompt_len, stop, self.source)
        return process(scores, inputs.processors, history, self.static.custom, keep)

    def fails(self, logits: jax.Array) -> jax.Array:
        """Whether logits `[..., vocab]` are NaN or infinite, bool `[...]`; never if a processor replaces these."""
        if "remove_invalid_values" in self.inputs.processors:
            return jnp.zeros(logits.shape[:-1], bool)
        return ~(logits < jnp.inf).all(-1)

    def ends(self, tokens: jax.Array) -> jax.Array:
        """Whether each of the tokens, int32 `[...]`, ends a completion: bool `[...]`."""
        eos_token_ids = self.inputs.eos_token_ids.reshape((1,) * tokens.ndim + (-1,))
        return (tokens[..., None] == eos_token_ids).any(-1)


def _of_layers(outputs: Any) -> dict[str, Any]:
    """The outputs of each layer by name, those of a decoder where there is an encoder too."""
    names = ("hidden_states", "attentions", "cross_attentions")
    found = {name: getattr(outputs, name, None) or getattr(outputs, f"decoder_{name}", None) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def runner_of(bind: Callable[[Any], Any], values: Any, inputs: DynamicInputs, static: StaticArgs) -> ModelRunner:
    """The runner of a model with these flat parameters."""
    model = bind(values)
    cast_parameters(model)
    return ModelRunner(model, inputs, static)


def compiled(*models: Any, program: Callable[..., Any], donate: str | None = None) -> Callable[..., Any]:
    """`program` with the models' `bind`s as its first arguments, compiled once for each `StaticArgs` and shapes."""
    structures = [structure_of(model) for model in models]
    cache = structures[0].compiled
    key = (program.__name__, *structures[1:])
    if key not in cache:
        bound = partial(program, *(structure.bind for structure in structures))
        cache[key] = jax.jit(bound, static_argnames="static", donate_argnames=donate)
    return cache[key]


def cast_parameters(model: Any) -> None:
    """Cast once for all steps what layers cast in each; not the scales of norms, which compute in float32."""
    for leaf in list(iter_leaves(model)):
        if dtype := getattr(leaf.owner, "dtype", None):
            leaf.variable.set_value(leaf.variable.get_value().astype(dtype))


def cast_values(model: Any, values: Any) -> Any:
    """The flat parameters as decoding reads them, so that several calls need not cast them."""
    if all(value.dtype == model.policy.dtype for value in values):
        return values
    structure = structure_of(model)

    def cast(values: Any) -> Any:
        bound = structure.bind(values)
        cast_parameters(bound)
        return structure.read(bound)

    return structure.compiled.setdefault("cast_values", jax.jit(cast))(values)

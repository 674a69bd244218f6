"""What the inputs of a model must be, by argument name, and the checks of it.

Shapes and dtypes are always checked, as they are known in a trace too; values where they are on the host already: numpy
arrays, lists and numbers. An array on a device is not fetched for a check, and no dispatch waits, unless `debug_checks`
asks for it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flaxmodels.errors import FlaxModelsError
from flaxmodels.nn.cache import LayerCache, RingCache, self_attention_cache


class Input:
    """What one argument must be.

    Attributes:
        kind: "integers", "floats", "numbers" of any dtype, "zeros and ones" of any dtype, or "cache".
        axes: the names of its axes; several tuples where it may have more axes or fewer. Axes of one name are equal.
        table: the size that its integers are below; "" if there is none.
        expands: whether one row may stand for all of the batch.
        spans_cache: whether it speaks of the whole text, tokens in the cache included.
    """

    def __init__(self, kind: str, *axes: str, table: str = "", expands: bool = False, spans_cache: bool = False):
        self.kind, self.axes = kind, tuple(tuple(each.split()) for each in axes)
        self.table, self.expands, self.spans_cache = table, expands, spans_cache

    def __str__(self) -> str:
        return f"{self.kind} {' or '.join(map(_listed, self.axes))}"

    def per_choice(self, *, optional: bool = False) -> Input:
        """The same for models that read several texts a row; one text too if `optional`."""
        batch, *others = self.axes[0]
        axes = (" ".join(self.axes[0]),) * optional + (" ".join((batch, "choices", *others)),)
        spans_cache = self.spans_cache and optional
        return Input(self.kind, *axes, table=self.table, expands=self.expands, spans_cache=spans_cache)


EXPECTED: dict[str, Input] = {
    "input_ids": Input("integers", "batch length", table="vocab"),
    "inputs_embeds": Input("floats", "batch length features"),
    "input_features": Input("floats", "batch bands frames"),
    "input_values": Input("floats", "batch samples"),
    "pixel_values": Input("floats", "batch channels height width", "batch height width channels"),
    "encoder_outputs": Input("floats", "batch source_length hidden"),
    "encoder_hidden_states": Input("floats", "batch source_length hidden"),
    "decoder_input_ids": Input("integers", "batch decoder_length", table="decoder_vocab"),
    "decoder_inputs_embeds": Input("floats", "batch decoder_length decoder_features"),
    "past_key_values": Input("cache"),
    "attention_mask": Input("zeros and ones", "batch length", "batch length length", spans_cache=True),
    "encoder_attention_mask": Input("zeros and ones", "batch source_length", "batch length source_length"),
    "decoder_attention_mask": Input(
        "zeros and ones", "batch decoder_length", "batch decoder_length decoder_length", spans_cache=True
    ),
    "token_type_ids": Input("integers", "batch length", table="token_types", expands=True),
    "position_ids": Input("integers", "batch length", table="positions", expands=True),
    "decoder_position_ids": Input("integers", "batch decoder_length", table="decoder_positions", expands=True),
    "head_mask": Input("numbers", "layers heads"),
    "bool_masked_pos": Input("zeros and ones", "batch patches"),
    "mask_time_indices": Input("zeros and ones", "batch masked_frames"),
    "mc_token_ids": Input("integers", "batch", "batch choices", table="length"),
}
"""By argument name, in the order of the checks: what names the axes comes before what must agree with them."""

PADDING_MASK = Input("zeros and ones", "batch length", spans_cache=True)
"""A mask from which tokens are counted, and which is therefore of padding alone."""

_OF_CHOICES = ("input_ids", "inputs_embeds", "attention_mask", "token_type_ids", "position_ids")
PER_CHOICE = {name: EXPECTED[name].per_choice() for name in _OF_CHOICES}
"""Those of models that read several texts a row."""
OPTIONAL_CHOICES = {name: EXPECTED[name].per_choice(optional=True) for name in _OF_CHOICES}
"""Those of models that read one text a row, or several."""

_TREES = ("past_key_values", "encoder_outputs")
_CACHE_LENGTH = "tokens in past_key_values"

_TABLES = {
    "vocab": ("token ids", "use the tokenizer of this model"),
    "decoder_vocab": ("token ids", "use the tokenizer of this model"),
    "token_types": ("token types", "see type_vocab_size of the configuration"),
    "positions": ("positions", "those of padding do not matter if attention_mask says where it is"),
    "decoder_positions": ("positions", "those of padding do not matter if decoder_attention_mask says where it is"),
    "length": ("places of tokens", "count from the beginning of each text"),
}
"""What the integers below a size are, and the remedy for others."""


class DefaultPositions(NamedTuple):
    """Which positions tokens have where none are given.

    Attributes:
        first: that of the first token.
        skips: an argument and its value for padding, which takes no positions; `None` where it does.
    """

    first: int = 0
    skips: tuple[str, int] | None = None


Sizes = dict[str, tuple[float, str]]
"""Of each axis or table its size, and the argument that it is known from, or "the model"."""


@dataclass(frozen=True)
class InputChecks:
    """The checks of the inputs of one model.

    Attributes:
        expected: what each argument must be.
        sizes: of axes and tables that the model fixes, by name.
        positions: which positions tokens have.
        caches: which text `past_key_values` holds, as the prefix of its arguments: "" or "decoder_".
    """

    expected: Mapping[str, Input]
    sizes: Sizes
    positions: DefaultPositions
    caches: str

    def __call__(self, inputs: Mapping[str, Any], *, counts_places: bool = True) -> dict[str, Any]:
        """The inputs, with numpy arrays in place of lists, numbers, and arrays of other libraries than JAX.

        Args:
            inputs: by argument name; those that are not in `expected` are passed on.
            counts_places: whether a text must not be longer than the table of positions.

        Raises:
            FlaxModelsError: names every input that is wrong, what was expected, and the remedy.
        """
        problems: dict[str, str] = {}
        given = {
            name: _as_array(name, value, problems)
            for name, value in inputs.items()
            if name in self.expected and value is not None
        }
        sizes = self._check_shapes(given, problems)
        values = {name: value for name, value in given.items() if name not in problems and self._has_values(name)}
        if "past_key_values" in given and "past_key_values" not in problems:
            values[_CACHE_LENGTH] = self_attention_cache(given["past_key_values"]).length
        context = {"sizes": sizes, "given": set(given), "lengths": counts_places and not problems}
        on_host = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        _raise([*problems.values(), *self._value_problems(on_host, **context)])
        if _enabled:
            self._check_elsewhere(values, context)
        return {**inputs, **given}

    def _has_values(self, name: str) -> bool:
        return self.expected[name].kind in ("integers", "zeros and ones")

    def _check_shapes(self, given: Mapping[str, Any], problems: dict[str, str]) -> Sizes:
        """Add what is wrong with shapes and dtypes to `problems`, and return the sizes of all axes and tables."""
        sizes = dict(self.sizes)
        for name, wanted in self.expected.items():
            if name == "past_key_values" and "length" in sizes:
                sizes.setdefault("decoder_length", sizes["length"])  # a decoder without ids gets the encoder's, shifted
            if name in given and name not in problems:
                check = partial(_cache_problem, self.caches) if wanted.kind == "cache" else partial(_problem, wanted)
                if problem := check(name, given[name], sizes):
                    problems[name] = problem
        return sizes

    def _check_elsewhere(self, values: Mapping[str, Any], context: Mapping[str, Any]) -> None:
        """Check the values of arrays that are on a device, now, or when the computation that is traced runs."""

        def check(values: Mapping[str, Any]) -> None:
            _raise(self._value_problems({name: np.asarray(value) for name, value in values.items()}, **context))

        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray | jax.Array)}
        if any(isinstance(value, Tracer) for value in arrays.values()):
            jax.debug.callback(check, arrays)
        elif any(isinstance(value, jax.Array) for value in arrays.values()):
            check({name: _fetched(value) for name, value in arrays.items()})

    def _value_problems(
        self, values: Mapping[str, np.ndarray], sizes: Sizes, given: set[str], lengths: bool
    ) -> list[str]:
        """Of the arrays that are known; `given` are the names of all arguments."""
        problems = [self._value_problem(name, values, sizes, given) for name in self.expected if name in values]
        for prefix in ("", "decoder_") if lengths else ():
            held = int(values.get(_CACHE_LENGTH, 0)) if prefix == self.caches else 0
            problems.append(self._length_problem(prefix, held, values, sizes, given))
        if _CACHE_LENGTH in values:
            problems.append(_room_problem(int(values[_CACHE_LENGTH]), self.caches, sizes))
        return [problem for problem in problems if problem]

    def _value_problem(self, name: str, values: Mapping[str, np.ndarray], sizes: Sizes, given: set[str]) -> str | None:
        wanted, value = self.expected[name], values[name]
        if wanted.kind == "zeros and ones":
            return _mask_problem(name, value)
        if wanted.table.endswith("positions"):
            mask = name.replace("position_ids", "attention_mask")
            if mask in given and mask not in values:
                return None
            value = _of_tokens(value, values.get(mask))
        return _table_problem(name, value, wanted.table, sizes)

    def _length_problem(
        self, prefix: str, held: int, values: Mapping[str, np.ndarray], sizes: Sizes, given: set[str]
    ) -> str | None:
        """Of a text with more tokens than there are positions, of which a cache holds `held`."""
        length, source = sizes.get(f"{prefix}length", (0, ""))
        limit = sizes.get(f"{prefix}positions", (math.inf, ""))[0] - self.positions.first
        if length + held <= limit or f"{prefix}position_ids" in given:
            return None
        if self.positions.skips is not None and self.positions.skips[0] in given:
            name, padding = self.positions.skips
            if name not in values or "past_key_values" in given:
                return None
            length = int((values[name] != padding).sum(-1).max())
        if length + held <= limit:
            return None
        return f"{source}: {length + held} tokens exceed the {limit} positions of the model; shorten the text"


def last_hidden_state(outputs: Any) -> Any:
    """Of an encoder's output, a mapping with the same names, a tuple that begins with it, or the array itself.

    `None` if there is none.
    """
    if isinstance(outputs, Mapping):
        return outputs.get("last_hidden_state")
    if isinstance(outputs, tuple | list):
        return outputs[0] if outputs else None
    return getattr(outputs, "last_hidden_state", outputs if hasattr(outputs, "shape") else None)


def _raise(problems: Iterable[str]) -> None:
    if lines := dict.fromkeys(problems):
        raise FlaxModelsError("\n".join(lines))


def _as_array(name: str, value: Any, problems: dict[str, str]) -> Any:
    """Arrays and trees of JAX, and descriptions of arrays, as they are; anything else as a numpy array."""
    if isinstance(value, np.ndarray | jax.Array | jax.ShapeDtypeStruct) or name in _TREES:
        return value
    if isinstance(_first(value), jax.Array):
        return jnp.asarray(value)
    try:
        return np.asarray(value)
    except ValueError:
        problems[name] = f"{name}: the rows differ in length; pad the shorter ones"
    return value


def _first(value: Any) -> Any:
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return value


def _fetched(array: Any) -> np.ndarray:
    """The array, or the parts of it that this process holds."""
    if isinstance(array, np.ndarray) or array.is_fully_addressable:
        return np.asarray(array)
    parts = [np.asarray(shard.data) for shard in array.addressable_shards]
    return np.concatenate(parts) if array.ndim else parts[0]


# ---- shapes and dtypes


def _listed(axes: Sequence[str]) -> str:
    return f"[{', '.join(axes)}]"


_DTYPES = {
    "integers": (jnp.integer,),
    "floats": (jnp.floating,),
    "numbers": (jnp.integer, jnp.floating, jnp.bool_),
    "zeros and ones": (jnp.integer, jnp.floating, jnp.bool_),
}


@lru_cache(maxsize=64)
def _is_kind(dtype: Any, kind: str) -> bool:
    return any(jnp.issubdtype(dtype, each) for each in _DTYPES[kind])


def _problem(wanted: Input, name: str, value: Any, sizes: Sizes) -> str | None:
    """What is wrong with the dtype or the shape of `value`; if nothing is, its axes are added to `sizes`."""
    array = last_hidden_state(value) if name == "encoder_outputs" else value
    if not hasattr(array, "shape"):
        return f"{name}: expected what encode() returns, or its last hidden states, got {type(value).__name__}"
    if wanted.spans_cache and "slots" in sizes:
        return _whole_text_problem(wanted, name, array, sizes)
    axes = next((axes for axes in wanted.axes if len(axes) == len(array.shape)), None)
    if axes is None or 0 in array.shape or not _is_kind(array.dtype, wanted.kind):
        return f"{name}: expected {wanted}, got {array.dtype} {array.shape}{_remedy(wanted, array)}"
    return _size_problem(axes, wanted.expands and array.shape[0] == 1, name, array.shape, sizes)


def _remedy(wanted: Input, array: Any) -> str:
    missing = len(wanted.axes[0]) - len(array.shape)
    if 0 in array.shape:
        return "; no axis may be empty"
    if missing == 1:
        return f"; add the axis {wanted.axes[0][0]}, as in x[None]"
    return "" if missing else f"; convert them with astype({'int' if wanted.kind == 'integers' else 'float'})"


def _size_problem(axes: tuple[str, ...], expands: bool, name: str, shape: tuple[int, ...], sizes: Sizes) -> str | None:
    fitting = tuple(sizes.get(axis, (size, ""))[0] for axis, size in zip(axes, shape, strict=True))
    if fitting[expands:] != shape[expands:]:
        differing = [axis for axis, size, got in zip(axes, fitting, shape, strict=True) if size != got]
        sources = " and ".join(dict.fromkeys(sizes[axis][1] for axis in differing))
        return f"{name}: expected {_listed(axes)} = {fitting} as {sources}, got {shape}"
    for axis, size in zip(axes[expands:], shape[expands:], strict=True):
        sizes.setdefault(axis, (size, name))
    return None


def _whole_text_problem(wanted: Input, name: str, mask: Any, sizes: Sizes) -> str | None:
    """Of a mask beside a cache, which may be as long as the cache; what is behind the mask counts."""
    axes, shape = wanted.axes[0], mask.shape
    (batch, _), (least, source), (most, _) = (sizes[name] for name in (*axes, "slots"))
    if len(shape) == 2 and shape[0] == batch and least <= shape[1] <= most:
        return None
    return (
        f"{name}: expected {_listed(axes)} = ({batch}, {least} to {most}) as {source} and past_key_values, got "
        f"{shape}; it speaks of the whole text, tokens in the cache included"
    )


def _cache_problem(prefix: str, name: str, cache: Any, sizes: Sizes) -> str | None:
    """What is wrong with a cache; if nothing is, `sizes` get how many tokens it has room for as "slots"."""
    layers = [self_attention_cache((layer,)) for layer in cache] if _is_cache(cache) else []
    if not layers or len(layers) != sizes.get("cache_layers", (len(layers), ""))[0]:
        kind = f"{type(cache).__name__} of {len(layers)} layers" if layers else type(cache).__name__
        return (
            f"{name}: expected what init_cache(batch_size, max_length) of this model gives, or the past_key_values of "
            f"an earlier output, got {kind}"
        )
    rows = layers[0].key.shape[0]
    batch, source = sizes.setdefault("batch", (rows, name))
    if rows != batch:
        return f"{name}: expected a cache of {batch} rows as {source}, got {rows}"
    sizes.setdefault(f"{prefix}length", (1, name))
    if isinstance(cache[0], tuple) and cache[0][1] is not None:
        sizes.setdefault("length", (cache[0][1].key.shape[1], name))
    room = (layer.key.shape[1] for layer in layers if not isinstance(layer, RingCache))
    sizes["slots"] = (min(room, default=math.inf), name)
    return _room_problem(0, prefix, sizes)


def _is_cache(cache: Any) -> bool:
    return isinstance(cache, tuple) and all(
        isinstance(layer[0] if isinstance(layer, tuple) and layer else layer, LayerCache) for layer in cache
    )


def _room_problem(held: int, prefix: str, sizes: Sizes) -> str | None:
    """Of more new tokens than a cache that holds some has room for."""
    (slots, name), (length, source) = sizes["slots"], sizes[f"{prefix}length"]
    if held + length <= slots:
        return None
    return (
        f"{name}: room for {slots} tokens, of which {held} are there, got {length} in {source}; make it with "
        "init_cache(batch_size, max_length) for all of them"
    )


# ---- values


def _mask_problem(name: str, mask: np.ndarray) -> str | None:
    if mask.dtype == bool or ((mask == 0) | (mask == 1)).all():
        return None
    low, high = float(mask.min()), float(mask.max())
    remedy = f"; of a mask that is added to scores, pass {name} == 0" if high <= 0 else ""
    return f"{name}: expected zeros and ones, got {low:g} to {high:g}{remedy}"


def _of_tokens(positions: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Without those of padding, which are often -1; all without a mask of the same places."""
    if mask is None or mask.ndim != positions.ndim or mask.shape[-1] != positions.shape[-1]:
        return positions
    return np.broadcast_to(positions, mask.shape)[mask != 0]


def _table_problem(name: str, ids: np.ndarray, table: str, sizes: Sizes) -> str | None:
    limit = sizes.get(table, (math.inf, ""))[0]
    if not ids.size or (ids.min() >= 0 and ids.max() < limit):
        return None
    what, remedy = _TABLES[table]
    those = "from 0 on" if limit == math.inf else f"from 0 to {limit - 1}"
    return f"{name}: expected {what} {those}, got {ids.min()} to {ids.max()}; {remedy}"


# ---- the switch


def is_enabled(environment: Mapping[str, str]) -> bool:
    """Whether `FLAXMODELS_DEBUG_CHECKS` is set to anything but 0."""
    return environment.get("FLAXMODELS_DEBUG_CHECKS", "0") not in ("", "0")


_enabled = is_enabled(os.environ)


class debug_checks:  # noqa: N801, as it is called like a function
    """Check the values of inputs wherever they are, from now on, or in a `with` block: a switch for debugging.

    Masks, ids, token types and positions on a device are then fetched and checked before each call. Inside a function
    that is being traced (`jax.jit`, `jax.grad`, `jax.lax.scan`, ...) they are checked by `jax.debug.callback` when it
    runs: what was compiled before is not checked, what is compiled now always will be. The environment variable
    `FLAXMODELS_DEBUG_CHECKS=1` switches it on from the start.

    Args:
        enabled: whether they are checked.

    Raises:
        FlaxModelsError: by calls, as for inputs on the host. Out of a compiled function it comes as a
            `jax.errors.JaxRuntimeError` with the same message, at the latest when its result is read.
    """

    def __init__(self, enabled: bool = True):
        global _enabled
        self._before, _enabled = _enabled, enabled

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: Any) -> None:
        global _enabled
        _enabled = self._before

"""The checks of the inputs of a model.

Shapes and dtypes are always checked, as they are known in a trace too; values where they are on the host already: numpy
arrays, lists and numbers. An array on a device is not fetched for a check, and no dispatch waits, unless `debug_checks`
asks for it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution.input_shapes import cache_problem, capacity_problem, shape_problem
from flaxmodels.execution.inputs import DefaultPositions, Input, Sizes
from flaxmodels.nn.cache import self_attention_cache

_TREES = ("past_key_values", "encoder_outputs")
_CACHE_LENGTH = "tokens in past_key_values"

_TABLES = {
    "vocab": ("token ids", "use the tokenizer of this model"),
    "decoder_vocab": ("token ids", "use the tokenizer of this model"),
    "token_types": ("token types", "see type_vocab_size of the configuration"),
    "positions": ("positions", "those of padding do not matter if attention_mask says where it is"),
    "decoder_positions": ("positions", "those of padding do not matter if decoder_attention_mask says where it is"),
    "length": ("positions of tokens", "count from the beginning of each sequence"),
}
"""What the integers below a size are, and the remedy for others."""


@dataclass(frozen=True)
class InputChecks:
    """The checks of the inputs of one model.

    Attributes:
        expected: what each argument must be.
        sizes: of axes and tables that the model fixes, by name.
        positions: which positions tokens have.
        caches: which sequence `past_key_values` holds, as the prefix of its arguments: "" or "decoder_".
    """

    expected: Mapping[str, Input]
    sizes: Sizes
    positions: DefaultPositions
    caches: str

    def __call__(self, inputs: Mapping[str, Any], *, check_positions: bool = True) -> dict[str, Any]:
        """The inputs, with numpy arrays in place of lists, numbers, and arrays of other libraries than JAX.

        Args:
            inputs: by argument name; those that are not in `expected` are passed on.
            check_positions: whether a sequence must not be longer than the table of positions.

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
        context = {"sizes": sizes, "given": set(given), "lengths": check_positions and not problems}
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
                is_cache = wanted.kind == "cache"
                check = partial(cache_problem, self.caches) if is_cache else partial(shape_problem, wanted)
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
            problems.append(capacity_problem(int(values[_CACHE_LENGTH]), self.caches, sizes))
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
        """Of a sequence with more tokens than there are positions, of which a cache holds `held`."""
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
        return f"{source}: {length + held} tokens exceed the {limit} positions of the model; shorten the sequence"


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


def _mask_problem(name: str, mask: np.ndarray) -> str | None:
    if mask.dtype == bool or ((mask == 0) | (mask == 1)).all():
        return None
    low, high = float(mask.min()), float(mask.max())
    remedy = f"; of a mask that is added to scores, pass {name} == 0" if high <= 0 else ""
    return f"{name}: expected zeros and ones, got {low:g} to {high:g}{remedy}"


def _of_tokens(positions: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Without those of padding, which are often -1; all without a mask of the same shape."""
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

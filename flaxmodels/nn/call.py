"""Calling a model as a function of its parameters: compiled outside a trace, plainly inside one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from flaxmodels.nn.functional import Functional, functional


def call(
    model: Any,
    method: Callable[..., Any],
    inputs: dict[str, Any],
    params: Any,
    batch_stats: Any,
    dropout_rng: jax.Array | None,
) -> Any:
    """`method(model, **inputs)` with `params` and `batch_stats` in the place of the model's own.

    Booleans and texts are compiled into the computation; anything else is an array or a pytree of arrays.
    """
    options = tuple(sorted((name, value) for name, value in inputs.items() if isinstance(value, bool | str)))
    arrays = {name: as_jax(value) for name, value in inputs.items() if not isinstance(value, bool | str)}
    structure = functional(model)
    values = structure.values(params, batch_stats)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((values, arrays, dropout_rng))):
        return _run(structure, method, values, arrays, dropout_rng, options)
    if method not in structure.compiled:
        structure.compiled[method] = jax.jit(
            lambda values, arrays, key, options: _run(structure, method, values, arrays, key, options),
            static_argnums=3,
        )
    return structure.compiled[method](values, arrays, dropout_rng, options)


def compile_call(
    model: Any, inputs: dict[str, Any], check: Callable[[dict[str, Any]], dict[str, Any]]
) -> Callable[..., Any]:
    """`model.forward` compiled now for inputs of these shapes and dtypes, given as arrays or `jax.ShapeDtypeStruct`.

    The result takes the same inputs by name, and `params`; inputs that `check` refuses, and of other shapes or names by
    JAX, raise an error. Parameters need not be there yet.
    """
    inputs = check(inputs)
    options = tuple(sorted((name, value) for name, value in inputs.items() if isinstance(value, bool | str)))
    arrays = {name: as_jax(value) for name, value in inputs.items() if not isinstance(value, bool | str)}
    structure = functional(model)
    shapes = [jax.ShapeDtypeStruct(raw.shape, raw.dtype) for raw in map(_raw, structure.variables)]
    forward = type(model).forward
    program = jax.jit(lambda values, arrays: _run(structure, forward, values, arrays, None, options))
    compiled = program.lower(shapes, arrays).compile()

    def run(params: Any = None, **inputs: Any) -> Any:
        return compiled(structure.values(params), {name: as_jax(value) for name, value in check(inputs).items()})

    return run


def _raw(variable: Any) -> Any:
    return variable.get_raw_value()


def _run(structure: Functional, method: Callable[..., Any], values, arrays, dropout_rng, options) -> Any:
    model = structure.bind(values)
    outputs = method(model, **arrays, **dict(options), dropout_rng=dropout_rng)
    if ("train", True) in options:
        outputs = replace(outputs, batch_stats=structure.batch_stats(model))
    return outputs


def as_jax(value: Any) -> Any:
    """Nested lists, numpy arrays and whatever numpy can read become jax arrays; pytrees of them stay pytrees."""
    if isinstance(value, list) or (hasattr(value, "__array__") and not isinstance(value, jax.Array)):
        return jnp.asarray(value)
    return value

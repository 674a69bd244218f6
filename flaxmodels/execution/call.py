"""Calling a model as a function of its parameters: compiled outside a trace, plainly inside one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution.structure import Structure


def call(
    structure: Structure,
    method: Callable[..., Any],
    inputs: dict[str, Any],
    params: Any,
    batch_stats: Any,
    dropout_rng: jax.Array | None,
) -> Any:
    """`method(model, **inputs)` with `params` and `batch_stats` in place of the model's own.

    Booleans and strings are compiled into the computation; anything else is an array or a pytree of arrays.

    Args:
        params, batch_stats: nested dicts by the paths of the parameters; `None` for the model's own.
        dropout_rng: a key, or `None` for no dropout.

    Raises:
        FlaxModelsError: names that are not those of the model, or values that are not there.
    """
    options, arrays = _split(inputs)
    values = structure.values(params, batch_stats)
    kinds = set(map(type, jax.tree.leaves((values, arrays, dropout_rng))))
    if any(issubclass(kind, Tracer) for kind in kinds):
        return _run(structure, method, values, arrays, dropout_rng, options)
    if method not in structure.compiled:
        structure.compiled[method] = jax.jit(
            lambda values, arrays, key, options: _run(structure, method, values, arrays, key, options),
            static_argnums=3,
        )
    return structure.compiled[method](values, arrays, dropout_rng, options)


def call_uncompiled(
    structure: Structure,
    method: Callable[..., Any],
    inputs: dict[str, Any],
    params: Any,
    batch_stats: Any,
    dropout_rng: jax.Array | None,
    observe: Callable[[Any], Any],
) -> Any:
    """As `call`, one operation after another, with the copy of the model that `observe` makes of the one it gets."""
    options, arrays = _split(inputs)
    return _run(structure, method, structure.values(params, batch_stats), arrays, dropout_rng, options, observe)


def compile_call(
    structure: Structure,
    method: Callable[..., Any],
    inputs: dict[str, Any],
    check: Callable[[dict[str, Any]], dict[str, Any]],
    compiler_options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """`method` compiled now for inputs of these shapes and dtypes, given as arrays or `jax.ShapeDtypeStruct`.

    The result takes the same inputs by name, and `params`; inputs that `check` refuses, and of other shapes or names by
    JAX, raise an error. Parameters need not be there yet. `compiler_options` are those of XLA.
    """
    options, arrays = _split(check(inputs))
    raw = (variable.get_raw_value() for variable in structure.variables)
    shapes = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in raw]
    program = jax.jit(lambda values, arrays: _run(structure, method, values, arrays, None, options))
    compiled = program.lower(shapes, arrays).compile(dict(compiler_options or {}))

    def run(params: Any = None, **inputs: Any) -> Any:
        return compiled(structure.values(params), {name: as_jax(value) for name, value in check(inputs).items()})

    return run


def call_by_shapes(
    structure: Structure,
    method: Callable[..., Any],
    inputs: dict[str, Any],
    params: Any,
    check: Callable[[dict[str, Any]], dict[str, Any]],
    compiler_options: Mapping[str, Any],
) -> Any:
    """As `call`, by a program of `compile_call` that is compiled once for inputs of these shapes and dtypes."""
    flags, arrays = _split(check(inputs))
    leaves, tree = jax.tree.flatten(arrays)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((leaves, params))):
        return call(structure, method, inputs, params, None, None)
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    key = (method, flags, tree, shapes, tuple(compiler_options.items()))
    if key not in structure.compiled:
        structure.compiled[key] = compile_call(structure, method, arrays | dict(flags), check, compiler_options)
    return structure.compiled[key](params, **arrays)


def compiler_options_of(compile_config: Any) -> dict[str, Any]:
    """The options for XLA in what `get_compiled_call` is given.

    Raises:
        FlaxModelsError: it is neither a mapping nor a `CompileConfig` of transformers, or asks torch for what is not
            done here.
    """
    if compile_config is None or isinstance(compile_config, Mapping):
        return dict(compile_config or {})
    if not hasattr(compile_config, "to_dict"):
        kind = type(compile_config).__name__
        raise FlaxModelsError(f"compile_config: expected a mapping of options for XLA, or a CompileConfig, got {kind}")
    asked = compile_config.to_dict()
    if asked.get("options") is not None or asked.get("backend", "inductor") not in ("inductor", "tpu"):
        raise FlaxModelsError(
            f"compile_config asks torch for backend={asked.get('backend')!r} and options={asked.get('options')!r}, and "
            "XLA compiles here: give a mapping of options for XLA, or neither"
        )
    return {}


def _split(inputs: dict[str, Any]) -> tuple[tuple[tuple[str, Any], ...], dict[str, Any]]:
    """The options that are compiled into a program, and the arrays that it takes."""
    options = tuple(sorted((name, value) for name, value in inputs.items() if isinstance(value, bool | str)))
    return options, {name: as_jax(value) for name, value in inputs.items() if not isinstance(value, bool | str)}


def _run(
    structure: Structure, method: Callable[..., Any], values, arrays, dropout_rng, options, observe=lambda model: model
) -> Any:
    model = observe(structure.bind(values))
    outputs = method(model, **arrays, **dict(options), dropout_rng=dropout_rng)
    moves_statistics = dict(options).get("train", False)
    return replace(outputs, batch_stats=structure.batch_stats(model)) if moves_statistics else outputs


def as_jax(value: Any) -> Any:
    """Nested lists, numpy arrays and whatever numpy can read become jax arrays; pytrees of them stay pytrees."""
    if isinstance(value, list) or (hasattr(value, "__array__") and not isinstance(value, jax.Array)):
        return jnp.asarray(value)
    return value

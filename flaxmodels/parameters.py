"""The parameters of a module: shapes, values, initialisation, casts and counts. Every capability reaches them here.

Parameters are named by their path from the module, joined by "/". Running statistics, which are no parameters, are
among them unless `kind` is `nnx.Param`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from flaxmodels.errors import FlaxModelsError
from flaxmodels.nn.embedding import Embedding
from flaxmodels.nn.initializers import zeros
from flaxmodels.nn.leaves import Leaf, split_shared
from flaxmodels.nn.module import Module, is_abstract, is_frozen

Params = dict[str, Any]
"""Nested dict with string keys and arrays as leaves."""
Kind = type[nnx.Variable]
"""`nnx.Param`, `nnx.BatchStat`, or `nnx.Variable` for both."""


def nest(values: Mapping[str, Any]) -> Params:
    """A nested dict of values by "/"-joined path."""
    return traverse_util.unflatten_dict(dict(values), sep="/")


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a nested dict by "/"-joined path."""
    return traverse_util.flatten_dict(params, sep="/")


# ---- reading and setting


def leaves(module: Module, kind: Kind = nnx.Variable) -> list[Leaf]:
    """The distinct parameters, with their paths and owners."""
    return [leaf for leaf in split_shared(module)[0] if issubclass(type(leaf.variable), kind)]


def shapes(module: Module, kind: Kind = nnx.Variable) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes, whether or not the values are there."""
    raw = ((leaf.name, leaf.variable.get_raw_value()) for leaf in leaves(module, kind))
    return {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in raw}


def values(module: Module, kind: Kind = nnx.Variable) -> dict[str, jax.Array]:
    """The values.

    Raises:
        FlaxModelsError: the module is described but not filled.
    """
    found = {leaf.name: leaf.variable.get_value() for leaf in leaves(module, kind)}
    check_present(found.values())
    return found


def values_with(module: Module, params: Mapping[str, Any] | None) -> dict[str, Any]:
    """The values, with those of the nested dict `params`, if given, in place of the module's own parameters.

    Raises:
        FlaxModelsError: names or shapes that are not those of the module, or values that are not there.
    """
    if params is None:
        return values(module)
    given = flatten(params)
    check_keys(given, shapes(module, nnx.Param))
    check_shapes(module, given)
    own = values(module, nnx.BatchStat)
    return {name: given[name] if name in given else own[name] for name in shapes(module)}


def set_values(module: Module, values: Mapping[str, Any], *, complete: Kind | None = None) -> None:
    """Set all of the values or, if some do not fit, none.

    Args:
        module: whose parameters are set.
        values: arrays by path.
        complete: the kind of which `values` must have all and only those; by default some will do.

    Raises:
        FlaxModelsError: lists what is missing or unknown, or of another shape.
    """
    expected = shapes(module, complete or nnx.Variable)
    check_keys(values if complete else expected.keys() | values.keys(), expected)
    check_shapes(module, values)
    for leaf in leaves(module):
        if leaf.name in values:
            value = values[leaf.name]
            leaf.variable.set_value(value if isinstance(value, jax.Array) else jnp.asarray(value))


def abstract_names(module: Module) -> set[str]:
    """The paths of the parameters that are described but not filled."""
    return {leaf.name for leaf in leaves(module) if is_abstract(leaf.variable)}


def check_present(values: Iterable[Any]) -> None:
    """Refuse descriptions where values should be.

    Raises:
        FlaxModelsError: there is one.
    """
    if jax.ShapeDtypeStruct in set(map(type, values)):
        raise FlaxModelsError("the model holds no parameters: pass params=, or call init_weights()")


def check_keys(given: Iterable[str], expected: Iterable[str]) -> None:
    """Refuse paths that are not those of a module.

    Raises:
        FlaxModelsError: lists the parameters that are missing and those that the module does not have.
    """
    missing, extra = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing or extra:
        lines = [f"  - missing {name}" for name in missing] + [f"  - unexpected {name}" for name in extra]
        raise FlaxModelsError("the parameters do not fit the model:\n" + "\n".join(lines))


def check_shapes(module: Module, values: Mapping[str, Any]) -> None:
    """Refuse values, by paths of the module, whose shapes are not its own.

    Raises:
        FlaxModelsError: lists them.
    """
    expected = shapes(module)
    wrong = [
        f"  ! {name}: given {np.shape(value)}, model {expected[name].shape}"
        for name, value in values.items()
        if np.shape(value) != expected[name].shape
    ]
    if wrong:
        raise FlaxModelsError("the parameters do not fit the model:\n" + "\n".join(wrong))


# ---- initialisation


def init_values(module: Module, rng: jax.Array, names: Iterable[str] | None = None) -> dict[str, jax.Array]:
    """Initial values of the parameters `names`, by default of all. They are not set.

    Each depends on the key and on the path of the parameter in the base model alone: the same key gives the same
    encoder with and without a head, and the same layers whether or not they are stacked.
    """
    every = {leaf.name: leaf for leaf in leaves(module)}
    chosen = every.keys() if names is None else set(names)
    found = {name: _init_value(leaf, keys_of(module, leaf, rng)) for name, leaf in every.items() if name in chosen}
    return _customised(module, found, rng)


def keys_of(module: Module, leaf: Leaf, rng: jax.Array) -> list[jax.Array]:
    """The keys by which a parameter of `module` is initialised, one for each layer that it holds."""
    prefix = getattr(module, "base_model_prefix", "")
    return [_fold_in(rng, *_hash("/".join(path[path[0] == prefix :]))) for path in leaf.paths]


def _init_value(leaf: Leaf, keys: list[jax.Array]) -> jax.Array:
    described = leaf.variable.get_raw_value()
    init = leaf.variable.get_metadata("init", zeros)
    shape = described.shape[1:] if leaf.layers else described.shape
    layers = [init(key, shape, described.dtype) for key in keys]
    return jnp.stack(layers) if leaf.layers else layers[0]


def init_own(model: Any, module: Module) -> None:
    """Initialise the parameters that `module`, a part of `model`, owns itself: what `_init_weights` does by default."""
    own = [leaf for leaf in leaves(model) if leaf.owner is module]
    rng = jax.random.key(model.seed)
    set_values(model, {leaf.name: _init_value(leaf, keys_of(model, leaf, rng)) for leaf in own})


def _customised(module: Module, values: dict[str, jax.Array], rng: jax.Array) -> dict[str, jax.Array]:
    """The initial values after the `_init_weights` of those models in `module` whose class defines its own.

    That of the innermost model is called with every module that has a parameter among them, with these values in it.
    """
    hooks = dict(_hooks(module, None))
    every = leaves(module) if hooks else []
    owners = {id(leaf.owner): leaf.owner for leaf in every if leaf.name in values and id(leaf.owner) in hooks}
    own = [leaf for leaf in every if id(leaf.owner) in owners]
    before = [leaf.variable.get_raw_value() for leaf in own]
    try:
        for leaf in own:
            if leaf.name in values or is_abstract(leaf.variable):
                value = values.get(leaf.name)
                leaf.variable.set_value(_init_value(leaf, keys_of(module, leaf, rng)) if value is None else value)
        for owner in owners.values():
            hooks[id(owner)](owner)
        return values | {leaf.name: leaf.variable.get_value() for leaf in own if leaf.name in values}
    finally:
        for leaf, raw in zip(own, before, strict=True):
            leaf.variable.set_raw_value(raw)


def _hooks(module: Any, hook: Callable[[Any], None] | None) -> Iterator[tuple[int, Callable[[Any], None]]]:
    """The identity of every module below whose innermost model has an `_init_weights` of its own, and that."""
    defined = getattr(type(module), "_init_weights", None)
    if defined is not None:
        hook = None if defined is init_own else module._init_weights
    if hook is not None:
        yield id(module), hook
    for value in vars(module).values():
        if isinstance(value, nnx.Module):
            yield from _hooks(value, hook)


@jax.jit
def _fold_in(key: jax.Array, high: Any, low: Any) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(key, high), low)


def _hash(path: str) -> np.ndarray:
    """uint32 `[2]`, the same in every process; 64 bits, as a large model has a million parameters."""
    return np.frombuffer(hashlib.blake2b(path.encode(), digest_size=8).digest(), np.dtype("<u4"))


# ---- casts and counts


def cast(params: Mapping[str, Any], dtype: Any, mask: Mapping[str, Any] | None = None) -> Params:
    """The nested dict with its floating leaves in `dtype`, where `mask`, of the same structure, is true if given.

    Raises:
        FlaxModelsError: `mask` is of another structure.
    """
    values = flatten(params)
    chosen = dict.fromkeys(values, True) if mask is None else flatten(mask)
    check_keys(chosen, values)
    return nest(
        {
            name: jnp.asarray(value, dtype) if chosen[name] and jnp.issubdtype(value.dtype, jnp.floating) else value
            for name, value in values.items()
        }
    )


def count(module: Module, *, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
    """Number of parameters, shared ones once; on request without those that are frozen, and those of `Embedding`s."""
    return sum(
        math.prod(leaf.variable.get_raw_value().shape)
        for leaf in leaves(module, nnx.Param)
        if not (exclude_embeddings and isinstance(leaf.owner, Embedding))
        and not (only_trainable and is_frozen(leaf.variable))
    )


def num_bytes(module: Module, kind: Kind = nnx.Variable) -> int:
    """Bytes that the values take, or would take."""
    return sum(math.prod(shape.shape) * shape.dtype.itemsize for shape in shapes(module, kind).values())

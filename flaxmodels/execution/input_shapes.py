"""Checks of inputs that need no values: shapes and dtypes, which are known in a trace too."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax.numpy as jnp

from flaxmodels.execution.inputs import Input, Sizes, last_hidden_state, listed
from flaxmodels.nn.cache import CrossCache, LayerCache, self_attention_cache

_DTYPES = {
    "integers": (jnp.integer,),
    "floats": (jnp.floating,),
    "numbers": (jnp.integer, jnp.floating, jnp.bool_),
    "zeros and ones": (jnp.integer, jnp.floating, jnp.bool_),
}


@lru_cache(maxsize=64)
def _is_kind(dtype: Any, kind: str) -> bool:
    return any(jnp.issubdtype(dtype, each) for each in _DTYPES[kind])


def shape_problem(wanted: Input, name: str, value: Any, sizes: Sizes) -> str | None:
    """What is wrong with the dtype or the shape of `value`; if nothing is, its axes are added to `sizes`."""
    array = last_hidden_state(value) if name == "encoder_outputs" else value
    if not hasattr(array, "shape"):
        return f"{name}: expected what encode() returns, or its last hidden states, got {type(value).__name__}"
    if wanted.spans_cache and "cache_len" in sizes:
        return _whole_mask_problem(wanted, name, array, sizes)
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
        return f"{name}: expected {listed(axes)} = {fitting} as {sources}, got {shape}"
    for axis, size in zip(axes[expands:], shape[expands:], strict=True):
        sizes.setdefault(axis, (size, name))
    return None


def _whole_mask_problem(wanted: Input, name: str, mask: Any, sizes: Sizes) -> str | None:
    """Of a mask beside a cache, which may be as long as the cache; what follows after the mask counts."""
    axes, shape = wanted.axes[0], mask.shape
    (batch, _), (least, source), (most, _) = (sizes[name] for name in (*axes, "cache_len"))
    if len(shape) == 2 and shape[0] == batch and least <= shape[1] <= most:
        return None
    return (
        f"{name}: expected {listed(axes)} = ({batch}, {least} to {most}) as {source} and past_key_values, got "
        f"{shape}; it covers the whole sequence, tokens in the cache included"
    )


def cache_problem(prefix: str, name: str, cache: Any, sizes: Sizes) -> str | None:
    """What is wrong with a cache; if nothing is, `sizes` get the most tokens that it can hold as "cache_len"."""
    layers = [self_attention_cache((layer,)) for layer in cache] if _is_cache(cache) else []
    if not layers or len(layers) != sizes.get("cache_layers", (len(layers), ""))[0]:
        kind = f"{type(cache).__name__} of {len(layers)} layers" if layers else type(cache).__name__
        return (
            f"{name}: expected what init_cache(batch_size, max_length) of this model gives, or the past_key_values of "
            f"an earlier output, got {kind}"
        )
    rows = layers[0].batch_size
    batch, source = sizes.setdefault("batch", (rows, name))
    if rows != batch:
        return f"{name}: expected a cache of {batch} rows as {source}, got {rows}"
    sizes.setdefault(f"{prefix}length", (1, name))
    if isinstance(cache[0], tuple) and isinstance(cache[0][1], CrossCache):
        sizes.setdefault("length", (cache[0][1].key.shape[1], name))
    sizes["cache_len"] = (min(layer.cache_len for layer in layers), name)
    return capacity_problem(0, prefix, sizes)


def _is_cache(cache: Any) -> bool:
    return isinstance(cache, tuple) and all(
        isinstance(layer[0] if isinstance(layer, tuple) and layer else layer, LayerCache) for layer in cache
    )


def capacity_problem(held: int, prefix: str, sizes: Sizes) -> str | None:
    """What is wrong with new tokens that a cache cannot hold beside the `held` ones."""
    (cache_len, name), (length, source) = sizes["cache_len"], sizes[f"{prefix}length"]
    if held + length <= cache_len:
        return None
    return (
        f"{name}: can hold {cache_len} tokens and holds {held}, got {length} more in {source}; make it with "
        "init_cache(batch_size, max_length) for all of them"
    )

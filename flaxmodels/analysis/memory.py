"""How much memory each module of a model takes in a forward pass, which is run one operation after another for it."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.core import Tracer

from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution.call import call_uncompiled
from flaxmodels.execution.structure import structure_of
from flaxmodels.nn.module import Module

_METHODS = ("__call__", "forward", "run")
"""What modules are called by."""
_ORIGINALS: weakref.WeakKeyDictionary[Module, Module] = weakref.WeakKeyDictionary()
"""The modules whose `mem_rss_diff` counts, by those that are called in their place; without those being called."""


def used_bytes() -> int:
    """Bytes that are in use on the first accelerator; without one, those that the process holds in memory.

    Raises:
        FlaxModelsError: psutil, which knows that, is not installed.
    """
    if stats := jax.local_devices()[0].memory_stats():
        return stats["bytes_in_use"]
    try:
        import psutil
    except ImportError:
        raise FlaxModelsError("memory hooks need psutil: pip install psutil") from None
    return psutil.Process().memory_info().rss


def reset(model: Module) -> None:
    """Set `mem_rss_diff` of every module to 0."""
    for module in _modules(model).values():
        module.mem_rss_diff = 0


def call_measured(
    model: Module,
    method: Callable[..., Any],
    inputs: dict[str, Any],
    params: Any,
    batch_stats: Any,
    dropout_rng: jax.Array | None,
) -> Any:
    """As `flaxmodels.execution.call.call`, uncompiled; each module adds what it takes to its `mem_rss_diff`."""

    def observe(copy: Module) -> Module:
        originals = _modules(model)
        for path, module in _modules(copy).items():
            module.__class__ = _measuring_class(type(module))
            _ORIGINALS[module] = originals[path]
        return copy

    used_bytes()
    return call_uncompiled(structure_of(model), _measured(method), inputs, params, batch_stats, dropout_rng, observe)


def _modules(model: Module) -> dict[tuple[Any, ...], Module]:
    """The modules of a model by their paths."""
    return {path: module for path, module in nnx.iter_modules(model) if isinstance(module, Module)}


@functools.cache
def _measuring_class(kind: Any) -> Any:
    """The class of copies that measure their calls."""
    methods = {name: _measured(getattr(kind, name)) for name in _METHODS if hasattr(kind, name)}
    return type(kind)(kind.__name__, (kind,), methods)


def _measured(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(module: Any, *args: Any, **kwargs: Any) -> Any:
        original = _ORIGINALS.pop(module, None)
        if original is None:  # the module itself is calling, or is a traced one
            return method(module, *args, **kwargs)
        before = used_bytes()
        outputs = method(module, *args, **kwargs)
        if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(outputs)):
            jax.block_until_ready(outputs)
            original.mem_rss_diff = original.mem_rss_diff + used_bytes() - before
        _ORIGINALS[module] = original
        return outputs

    return run

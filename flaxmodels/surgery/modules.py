"""Modules below a model by identity: where one is, and another in its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flax import nnx


def iter_modules(module: nnx.Module, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], nnx.Module]]:
    """`module` and every module below it, with its path; a shared one comes once for each place it is in."""
    yield path, module
    for name, value in list(vars(module).items()):
        if issubclass(type(value), nnx.Module):
            yield from iter_modules(value, (*path, name))


def path_of(model: nnx.Module, wanted: Any) -> tuple[str, ...]:
    """The path of the first place where `wanted`, a module, is in `model`."""
    return next(path for path, module in iter_modules(model) if module is wanted)


def replace_everywhere(model: nnx.Module, old: Any, new: Any) -> None:
    """Let every attribute in `model` that is `old`, a module or a variable, be `new`."""
    modules = {id(module): module for _, module in iter_modules(model)}
    for module in modules.values():
        for name, value in list(vars(module).items()):
            if value is old:
                setattr(module, name, new)

"""A row of the table of architectures, and a model class with a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

MASK = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1]])
"""Of a batch of texts: no padding, padding on the right, padding on the left."""


@dataclass(frozen=True)
class Family:
    """One model type.

    Attributes:
        module: where its classes are; transformers has them under the same names.
        config: values of the configuration, dropout among them.
        heads: every model class, with what its configuration needs beside `config`.
        decoders: those of them that decode with a cache.
        variants: further configurations by name: the class that they are tested with, and the changed values.
        older_names: parts of torch names, and what early checkpoints call them.
        useless: names, in the base model, of tensors that checkpoints may have for nothing.
        inputs: makes a batch from our configuration and a random generator, for models that do not read text alone;
            each class gets those that it takes.
        unequal: the variants whose layers are of several kinds, which cannot be stacked.
        head_inputs: further inputs of single heads, made likewise.
        half_tolerance: how far bfloat16 may be from float32, relative to the largest value.
        has_dropout: whether there is any.
        published: well-known checkpoints, whose configurations are in `tests/fixtures/configs`: the class that they are
            of and how many parameters they have.
    """

    module: str
    config: Mapping[str, Any]
    heads: Mapping[str, Mapping[str, Any]]
    decoders: tuple[str, ...]
    variants: Mapping[str, tuple[str, Mapping[str, Any]]]
    older_names: Mapping[str, str] = field(default_factory=dict)
    useless: tuple[str, ...] = ()
    inputs: Callable[[Any, np.random.Generator], dict[str, np.ndarray]] | None = None
    unequal: tuple[str, ...] = ()
    head_inputs: Mapping[str, Callable[[Any, np.random.Generator], dict[str, np.ndarray]]] = field(default_factory=dict)
    half_tolerance: float = 5e-2
    has_dropout: bool = True
    published: Mapping[str, tuple[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Case:
    """One model class with one configuration."""

    name: str
    family: Family
    head: str
    values: Mapping[str, Any]

    def __str__(self) -> str:
        return self.name

    @property
    def ours(self) -> Any:
        """The class under test."""
        return getattr(import_module(self.family.module), self.head)

    @property
    def theirs(self) -> Any:
        """Its counterpart in transformers."""
        return getattr(import_module("transformers"), self.head)

    @property
    def is_decoder(self) -> bool:
        """Whether it decodes with a cache."""
        return self.head in self.family.decoders

"""Rules: which tensors of one world make which tensors of another, and through which ops.

A rule reads left to right; its reverse is derived, never written. A table of rules turns a `Source` with one set of
names and layouts into a `Source` with another (`Mapped`), so mappings compose by wrapping.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interop.errors import InteropError
from interop.ops import Op, chain_dtype, chain_shapes, full_index, invert, read_chain
from interop.source import Header, Index, Source


@dataclass(frozen=True)
class Rule:
    """`sources`, passed as a list through `ops`, are `targets`, in the dtype that holds the values of all sources."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    ops: tuple[Op, ...] = ()

    @property
    def inverse(self) -> Rule:
        """The rule that makes the sources out of the targets."""
        return Rule(self.targets, self.sources, invert(self.ops))

    def headers(self, sources: Mapping[str, Header]) -> dict[str, Header]:
        """Headers of the targets; `ValueError` if the shapes do not fit the ops, or no dtype fits all sources."""
        inputs = [sources[name] for name in self.sources]
        shapes = chain_shapes(self.ops, [header.shape for header in inputs])
        dtype = chain_dtype(self.ops, self._common_dtype(inputs))
        return {name: Header(shape, dtype) for name, shape in zip(self.targets, shapes, strict=True)}

    def _common_dtype(self, headers: Sequence[Header]) -> np.dtype:
        dtypes = {header.dtype for header in headers}
        try:
            return np.result_type(*dtypes)
        except TypeError:
            found, names = " and ".join(sorted(map(str, dtypes))), ", ".join(self.sources)
            raise InteropError(f"{names}: no dtype holds the values of both {found}; cast them to one") from None

    def read(self, source: Source, target: str, index: Index):
        """The box `index` of `target`, computed from the boxes of the sources that it needs."""
        shapes = [source.headers[name].shape for name in self.sources]
        return read_chain(
            self.ops,
            self.targets.index(target),
            index,
            shapes,
            lambda number, box: source.read(self.sources[number], box),
        )


class Mapped:
    """A `Source` seen through rules: its names are the targets of the rules."""

    def __init__(self, source: Source, rules: Iterable[Rule]):
        self.source = source
        self.rules = {target: rule for rule in rules for target in rule.targets}
        self.headers: dict[str, Header] = {}
        for rule in dict.fromkeys(self.rules.values()):
            self.headers.update(rule.headers(source.headers))

    def read(self, name: str, index: Index | None = None):
        """The tensor, or the box that `index` names, made of the tensors of `source` that it depends on."""
        box = full_index(self.headers[name].shape) if index is None else index
        return self.rules[name].read(self.source, name, box)


def check_bijection(rules: Sequence[Rule]) -> None:
    """Refuse rules of which two use, or make, one tensor.

    Raises:
        ValueError: names every such tensor.
    """
    for side in ("sources", "targets"):
        names = [name for rule in rules for name in getattr(rule, side)]
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        if repeated:
            raise ValueError(f"a mapping must be a bijection, but these {side} occur twice: {', '.join(repeated)}")

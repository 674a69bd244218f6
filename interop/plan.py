"""The plan of a conversion, made from headers alone: what becomes what, and everything that does not fit.

Loading, converting, dry runs and error messages are readers of one plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interop.ops import Shape
from interop.rules import Mapped, Rule
from interop.source import Header, Source


@dataclass(frozen=True)
class CheckpointSpec:
    """What a model needs: rules from a checkpoint's names to its leaves, and the headers of the leaves.

    Attributes:
        rules: one bijective table; its sources are the canonical names of the checkpoint.
        leaves: shape and dtype of each leaf.
        alternatives: other names under which a source may be found, in order of preference: older names, then
            names of tensors that are tied to it.
        base_prefix: name of the base model inside a model with a head, or of this model inside one.
        is_base: whether the model is that base model itself.
        ignored: regular expressions (searched in the name) for tensors that a checkpoint may have for nothing.
        separator: what joins the parts of a name in the checkpoint.
        optional: leaves that are not missing where a checkpoint lacks them.
        fresh: leaves that a checkpoint of the backbone lacks as a rule, such as those of a head.
    """

    rules: tuple[Rule, ...]
    leaves: Mapping[str, Header]
    alternatives: Mapping[str, tuple[str, ...]]
    base_prefix: str = ""
    is_base: bool = False
    ignored: tuple[str, ...] = ()
    separator: str = "."
    optional: frozenset[str] = frozenset()
    fresh: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Mismatch:
    """A tensor whose shape the model does not have. `expected` is in the layout of the checkpoint."""

    name: str
    found: Shape
    expected: Shape


@dataclass(frozen=True)
class Mistype:
    """A tensor that is not made of floating-point numbers where the model has a parameter that is."""

    name: str
    found: np.dtype
    expected: np.dtype


@dataclass(frozen=True)
class Plan:
    """What becomes of a checkpoint.

    Attributes:
        rules: ready to run; their sources are tensors of the checkpoint.
        missing: from names that the checkpoint lacks to the leaves that need them.
        required: those of `missing` without which the model is not the one that was saved: its backbone.
        unexpected: tensors that no rule names.
        mismatched: tensors of another shape.
        mistyped: tensors of another kind of numbers.
    """

    rules: tuple[Rule, ...]
    missing: Mapping[str, str]
    required: Mapping[str, str]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    mistyped: tuple[Mistype, ...]

    def read_from(self, source: Source) -> Mapped:
        """The leaves, as a source."""
        return Mapped(source, self.rules)


def make_plan(spec: CheckpointSpec, headers: Mapping[str, Header]) -> Plan:
    """Match what a model needs with what is there."""
    rename = _prefix_rename(spec, headers)
    ready: list[Rule] = []
    missing: dict[str, str] = {}
    mismatched: list[Mismatch] = []
    mistyped: list[Mistype] = []
    for rule in spec.rules:
        found = [_find(name, spec.alternatives, headers, rename) for name in rule.sources]
        if None in found:
            absent = [name for name, there in zip(rule.sources, found, strict=True) if there is None]
            if not spec.optional.issuperset(rule.targets):
                missing |= dict.fromkeys(absent, rule.targets[0])
            continue
        expected = Mapped(HeadersOnly(spec.leaves), [rule.inverse]).headers
        present = Rule(tuple(filter(None, found)), rule.targets, rule.ops)
        wrong = [
            Mismatch(there, headers[there].shape, expected[name].shape)
            for name, there in zip(rule.sources, present.sources, strict=True)
            if headers[there].shape != expected[name].shape
        ]
        mismatched += wrong
        mistyped += [
            Mistype(there, headers[there].dtype, expected[name].dtype)
            for name, there in zip(rule.sources, present.sources, strict=True)
            if expected[name].is_floating and not headers[there].is_floating
        ]
        if not wrong:
            ready.append(present)
    used = {name for rule in ready for name in rule.sources} | {wrong.name for wrong in mismatched}
    known = used | {rename(other) for others in spec.alternatives.values() for other in others}
    return Plan(
        rules=tuple(ready),
        missing=missing,
        required={name: leaf for name, leaf in missing.items() if leaf not in spec.fresh},
        unexpected=_unexpected(headers, known, spec.ignored),
        mismatched=tuple(mismatched),
        mistyped=tuple(mistyped),
    )


def _unexpected(headers: Iterable[str], known: set[str], ignored: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        name for name in headers if name not in known and not any(re.search(pattern, name) for pattern in ignored)
    )


def _find(name: str, alternatives: Mapping[str, tuple[str, ...]], headers: Mapping[str, Header], rename):
    candidates = (rename(candidate) for candidate in (name, *alternatives.get(name, ())))
    return next((candidate for candidate in candidates if candidate in headers), None)


def _prefix_rename(spec: CheckpointSpec, headers: Mapping[str, Header]):
    """The function from canonical names to names in this checkpoint, which may be of the base model or of a head."""
    prefix = spec.base_prefix + spec.separator
    has_prefix = any(name.startswith(prefix) for name in headers)
    if not spec.base_prefix or has_prefix != spec.is_base:
        return lambda name: name
    if spec.is_base:
        return lambda name: prefix + name
    return lambda name: name.removeprefix(prefix)


@dataclass(frozen=True)
class HeadersOnly:
    """A source that has headers only."""

    headers: Mapping[str, Header]

    def read(self, name, index=None):
        """Refuse to read, as there are no values.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("there are only headers here")

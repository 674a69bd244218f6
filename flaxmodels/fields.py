"""What the fields of a configuration may hold, declared by their annotations: `hidden_size: Size = 768`.

An annotation is made of the types of JSON: `int`, `float`, `bool`, `str`, `None`, `list[...]`, `tuple[...]`,
`dict[...]`, `Literal[...]` and unions of these; a tuple may be given as a list, and the other way round. `Annotated`
adds what `annotated_types` has: `Interval` bounds a number, `Len` a list, `Predicate` is any other test, and `doc` says
as text what is expected.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import itertools
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np
from annotated_types import DocInfo, Interval, Len, Predicate, doc

MAX_INT = 2**31 - 1
"""Token ids, positions and lengths are int32."""
MAX_FLOAT = float(np.finfo(np.float32).max)
"""Numbers are computed with in float32."""
MAX_LAYERS = 512
"""The deepest published models have 126; a description takes milliseconds for each."""
MAX_SIZE = 2**20
"""Features, heads, kernels, strides; the widest published layers have 53,248 features."""
MAX_EXPERTS = 2**12
"""In a layer; the most that are published are 2,048."""
MAX_ALL_EXPERTS = 2**17
"""In all layers; each has names of its own in a file, and no published model has 2**15."""
MAX_VOCAB = 2**24
"""The largest published vocabularies have a million tokens."""
MAX_IMAGE_SIZE = 2**14
"""Pixels a side; published models see up to 1,536."""
MAX_NESTING = 64
"""Lists and dicts within each other; to copy and to write them recurses."""
MAX_LABELS = 2**20
"""A configuration holds two dicts of their names."""

Size = Annotated[int, Interval(ge=1, le=MAX_SIZE)]
Count = Annotated[int, Interval(ge=0, le=MAX_SIZE)]
Layers = Annotated[int, Interval(ge=1, le=MAX_LAYERS)]
FurtherLayers = Annotated[int, Interval(ge=0, le=MAX_LAYERS)]
"""Layers that a model may be without."""
ExpertCount = Annotated[int, Interval(ge=0, le=MAX_EXPERTS)]
VocabSize = Annotated[int, Interval(ge=1, le=MAX_VOCAB)]
LabelCount = Annotated[int, Interval(ge=0, le=MAX_LABELS)]
Length = Annotated[int, Interval(ge=1, le=MAX_INT)]
"""Of sequences and windows, in tokens, frames or samples."""
TokenId = Annotated[int, Interval(ge=0, le=MAX_INT)]
SpecialId = Annotated[int, Interval(ge=-1, le=MAX_INT)]
"""A token id, or -1 for none, as the first files of Llama have it."""
SpecialIds = SpecialId | list[SpecialId]
Rate = Annotated[float, Interval(ge=0, le=1)]
Epsilon = Annotated[float, Interval(gt=0, le=1)]
Scale = Annotated[float, Interval(ge=0)]
Positive = Annotated[float, Interval(gt=0)]
Pixels = Annotated[int, Interval(ge=1, le=MAX_IMAGE_SIZE)]
ImageSize = Pixels | tuple[Pixels, Pixels]
"""Of images and patches: of squares, or height and width."""
Depths = Annotated[
    Sequence[Layers],
    Predicate(lambda depths: 1 <= sum(depths) <= MAX_LAYERS),
    doc(f"a list with the number of layers of each stage, at least 1 each and at most {MAX_LAYERS} together"),
]
SummaryType = Literal["cls_index", "first", "last", "mean"]
"""Where a summary of a text is taken from; without an index, "cls_index" is "last"."""
LayerType = Literal["full_attention", "sliding_attention"]
Activation = Literal[
    "gelu",
    "gelu_fast",
    "gelu_new",
    "gelu_pytorch_tanh",
    "linear",
    "mish",
    "quick_gelu",
    "relu",
    "relu2",
    "sigmoid",
    "silu",
    "swish",
    "tanh",
]
"""The keys of `flaxmodels.nn.activations.ACTIVATIONS`."""

_TYPES = {int: (int, np.integer), float: (int, float, np.integer, np.floating)}
_WIDEST = {int: Interval(ge=-MAX_INT - 1, le=MAX_INT), float: Interval(ge=-MAX_FLOAT, le=MAX_FLOAT)}
_MOST_LINES = 8


class _Absent:
    """A default, of fields that a configuration has only where they are given, as some files of old versions do."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        raise AttributeError


ABSENT: Any = _Absent()


@dataclass(frozen=True)
class Kind:
    """What a value may be.

    Attributes:
        accepts: the test.
        expected: what the test demands, for messages.
        parts: from the name of a list or dict and itself to the names of its items, these, and their kinds.
        is_choice: whether it is one of several strings, or `None`.
    """

    accepts: Callable[[Any], bool]
    expected: str
    parts: Callable[[str, Any], Iterable[tuple[str, Any, Kind]]] = lambda name, value: ()
    is_choice: bool = False

    def problems(self, name: str, value: Any) -> list[str]:
        """Nothing if `value` is of this kind; else what is wrong with it, or with the items of it that are wrong."""
        if self.accepts(value):
            return []
        lines = (line for part, item, kind in self.parts(name, value) for line in kind.problems(part, item))
        inner = list(itertools.islice(lines, _MOST_LINES + 1))
        if len(inner) > _MOST_LINES:
            inner[_MOST_LINES:] = [f"{name}: more of its items are wrong"]
        return inner or [f"{name}={brief(value)}: expected {self.expected}"]


_ANY = Kind(lambda value: True, "anything")


class Field(NamedTuple):
    """A field of a configuration."""

    default: Any
    kind: Kind


@functools.cache
def fields_of(cls: type) -> dict[str, Field]:
    """The annotated fields of a class and its bases, the most basic first; a property of that name is no field."""
    hints = get_type_hints(cls, include_extras=True)
    defaults = {name: inspect.getattr_static(cls, name, ABSENT) for name in hints}
    return {
        name: Field(defaults[name], kind_of(hint))
        for name, hint in hints.items()
        if get_origin(hint) is not ClassVar and not isinstance(defaults[name], property)
    }


def kind_of(hint: Any) -> Kind:
    """What an annotation says.

    Raises:
        TypeError: it is none that this module describes.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _narrowed(args[0], args[1:])
    if origin in (Union, UnionType):
        return _union([kind_of(arg) for arg in sorted(args, key=lambda arg: arg is not NoneType)])
    if origin is Literal:
        return _choice(args)
    if origin is tuple and args[-1] is not Ellipsis:
        return _tuple([kind_of(arg) for arg in args])
    if origin in (list, tuple, Sequence):
        return _list(kind_of(args[0]), Len())
    if origin is dict:
        return _dict(*map(kind_of, args))
    if hint in _WIDEST:
        return _number(hint, Interval())
    if hint is Any:
        return _ANY
    if isinstance(hint, type):
        expected = {NoneType: "None", bool: "True or False", str: "a string"}.get(hint, f"a {hint.__name__}")
        return Kind(lambda value: isinstance(value, hint), expected, is_choice=hint is NoneType)
    raise TypeError(f"{hint} cannot be the type of a field")


def _narrowed(base: Any, metadata: Iterable[Any]) -> Kind:
    kind = kind_of(base)
    for condition in metadata:
        if isinstance(condition, Interval):
            kind = _number(base, condition)
        elif isinstance(condition, Len):
            kind = _list(kind_of(get_args(base)[0]), condition)
        elif isinstance(condition, Predicate):
            kind = replace(kind, accepts=_both(kind.accepts, condition.func))
        elif isinstance(condition, DocInfo):
            kind = Kind(kind.accepts, condition.documentation)
    return kind


def _both(first: Callable[[Any], bool], second: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: first(value) and second(value)


def _number(base: type, given: Interval) -> Kind:
    types, widest = _TYPES[base], _WIDEST[base]
    low: Any = widest.ge if given.ge is None else given.ge
    high: Any = widest.le if given.le is None else given.le
    above: Any = given.gt

    def accepts(value: Any) -> bool:
        if not isinstance(value, types) or isinstance(value, bool):
            return False
        number = value.item() if isinstance(value, np.generic) else value
        return low <= number <= high and (above is None or number > above)

    if given == Interval():
        return Kind(accepts, "an integer of 32 bits" if base is int else "a finite number")
    return Kind(accepts, f"an integer from {low} to {high}" if base is int else f"a number {_range_in_words(given)}")


def _range_in_words(given: Interval) -> str:
    if given.gt is not None:
        return f"above {given.gt}" if given.le is None else f"above {given.gt} and at most {given.le}"
    return f"of at least {given.ge}" if given.le is None else f"from {given.ge} to {given.le}"


def _choice(values: Sequence[str]) -> Kind:
    names = ", ".join(value or repr(value) for value in values)
    expected = f"one of {names}" if len(values) > 1 else f"{names}, the only one that is implemented"
    return Kind(lambda value: isinstance(value, str) and value in values, expected, is_choice=True)


def _union(kinds: Sequence[Kind]) -> Kind:
    def parts(name: str, value: Any) -> Iterable[tuple[str, Any, Kind]]:
        return next((kind.parts(name, value) for kind in kinds if any(True for _ in kind.parts(name, value))), ())

    return Kind(
        lambda value: any(kind.accepts(value) for kind in kinds),
        " or ".join(kind.expected for kind in kinds),
        parts,
        is_choice=all(kind.is_choice for kind in kinds),
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _list(item: Kind, length: Len) -> Kind:
    least, most = length.min_length, length.max_length

    def accepts(value: Any) -> bool:
        return _is_list(value) and least <= len(value) <= (most or len(value)) and all(map(item.accepts, value))

    def parts(name: str, value: Any) -> Iterator[tuple[str, Any, Kind]]:
        return ((f"{name}[{n}]", part, item) for n, part in enumerate(value if _is_list(value) else ()))

    return Kind(accepts, f"a list{f' of {least} to {most} items' if most else ''}, each item {item.expected}", parts)


def _tuple(items: Sequence[Kind]) -> Kind:
    def is_whole(value: Any) -> bool:
        return _is_list(value) and len(value) == len(items)

    def accepts(value: Any) -> bool:
        return is_whole(value) and all(item.accepts(part) for item, part in zip(items, value, strict=True))

    def parts(name: str, value: Any) -> Iterator[tuple[str, Any, Kind]]:
        return ((f"{name}[{n}]", value[n], item) for n, item in enumerate(items if is_whole(value) else ()))

    expected = " and ".join(dict.fromkeys(item.expected for item in items))
    return Kind(accepts, f"a list of {len(items)} items, each {expected}", parts)


def _dict(key: Kind, value: Kind) -> Kind:
    def accepts(given: Any) -> bool:
        return isinstance(given, dict) and all(map(key.accepts, given)) and all(map(value.accepts, given.values()))

    def parts(name: str, given: Any) -> Iterator[tuple[str, Any, Kind]]:
        for own, part in given.items() if isinstance(given, dict) else ():
            yield f"a key of {name}", own, key
            yield f"{name}[{brief(own)}]", part, value

    return Kind(accepts, f"a dict from {key.expected} to {value.expected}" if value is not _ANY else "a dict", parts)


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = 16
        self.maxstring = self.maxlong = self.maxother = 160

    def repr_int(self, x: int, level: int) -> str:
        # The interpreter refuses to write integers of thousands of digits.
        return super().repr_int(x, level) if x.bit_length() < 1000 else f"<an integer of {x.bit_length()} bits>"


brief: Callable[[Any], str] = _Short().repr
"""As `repr`, in a length that fits a message."""


def too_deep(values: Mapping[str, Any]) -> list[str]:
    """A line for each value in which more lists and dicts are within each other than `MAX_NESTING`."""

    def depth(value: Any) -> int:
        count, level = 0, [value]
        while count <= MAX_NESTING and (level := [part for part in level if isinstance(part, dict | list | tuple)]):
            level = [item for part in level for item in (part.values() if isinstance(part, dict) else part)]
            count += 1
        return count

    return [
        f"{name}: nested more than {MAX_NESTING} deep" for name, value in values.items() if depth(value) > MAX_NESTING
    ]


def unknown_names(owner: str, thing: str, given: Iterable[str], known: Iterable[str]) -> list[str]:
    """A line for each name of `given` that is not among `known`, with the one that was probably meant."""
    known = sorted(known)
    matches = {name: difflib.get_close_matches(name, known, n=1, cutoff=0.75) for name in given if name not in known}
    hints = {name: f"did you mean {found[0]!r}?" if found else "check the spelling" for name, found in matches.items()}
    return [f"{owner} has no {thing} {brief(name)}: {hint}" for name, hint in hints.items()]

"""What the operations of a chat template may take and make, which is known before they run.

Each cost is a function of the value that a filter or a method is applied to, and of its arguments. What is in no table
is taken to make as many copies of its value as its arguments have characters, or say in numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import TemplateRuntimeError

from flaxmodels.tokenizer.budget import BUDGET, MAX_BITS

_ITEM_STEPS = 5

Cost = Callable[[Any, Sequence[Any]], None]


def _weight(argument: Any) -> int:
    """How many times as long an argument may make a text."""
    return abs(argument) if isinstance(argument, int) else BUDGET.get().size(argument).chars


def _shallow(value: Any, arguments: Sequence[Any]) -> None:
    """One pass over the items of the value, not over what is in them."""
    size = len(value) if hasattr(value, "__len__") else 0
    if isinstance(value, (str, bytes)):
        BUDGET.get().spend(chars=size)
    else:
        BUDGET.get().spend(steps=size)


def _items(value: Any, arguments: Sequence[Any]) -> None:
    """One pass in Python over the items of the value, characters too, and for each over the parts of an attribute."""
    parts = sum(len(re.findall("[.,]", argument)) for argument in arguments if isinstance(argument, str))
    size = len(value) if hasattr(value, "__len__") else 0
    BUDGET.get().spend(steps=size * (_ITEM_STEPS + parts))


def _compared(value: Any, arguments: Sequence[Any]) -> None:
    """Comparisons of the items of the value."""
    _items(value, arguments)
    _linear(value, arguments)


def _linear(value: Any, arguments: Sequence[Any]) -> None:
    """One pass over all that is in the value and the arguments."""
    budget = BUDGET.get()
    budget.spend(chars=budget.size(value, *arguments).chars)


def _product(value: Any, arguments: Sequence[Any]) -> None:
    budget = BUDGET.get()
    budget.spend(chars=(budget.size(value).chars + 1) * (1 + sum(map(_weight, arguments))))


def _square(value: Any, arguments: Sequence[Any]) -> None:
    """Quadratic time for some texts, with a small factor."""
    BUDGET.get().spend(chars=BUDGET.get().size(value).chars ** 2 // 100)
    _product(value, arguments)


def _codec(value: Any, arguments: Sequence[Any]) -> None:
    """Quadratic time in Python, for "punycode"."""
    BUDGET.get().spend(chars=BUDGET.get().size(value, *arguments).chars ** 2)


def _sum(value: Any, arguments: Sequence[Any]) -> None:
    """Of numbers, or of lists, each of which is copied with all before it."""
    _items(value, arguments)
    if any(isinstance(argument, (list, tuple)) for argument in arguments):
        BUDGET.get().spend(steps=BUDGET.get().size(value).values ** 2)


def _join(value: Any, arguments: Sequence[Any]) -> None:
    _items(value, arguments)
    _product(value, arguments)


def _replace(value: Any, arguments: Sequence[Any]) -> None:
    budget = BUDGET.get()
    length, old, new = (budget.size(text).chars for text in (value, *arguments, "", "")[:3])
    budget.spend(chars=length + (length // max(old, 1) + 1) * new)


def _format(value: Any, arguments: Sequence[Any]) -> None:
    """As `_product`, and all numbers in the format, which may be widths."""
    _product(value, arguments)
    BUDGET.get().spend(chars=sum(int(digits[:18]) for digits in re.findall(r"\d+", str(value))))


def _tojson(value: Any, arguments: Sequence[Any]) -> None:
    """Each value on a line, indented by its depth; a character becomes six at most."""
    size = BUDGET.get().size(value)
    indent = sum(map(_weight, arguments))
    BUDGET.get().spend(chars=6 * size.chars + size.values * (4 + size.depth * indent))


def _table(names: dict[Cost, str]) -> dict[str, Cost]:
    return {name: cost for cost, words in names.items() for name in words.split()}


_FILTERS = _table(
    {
        _shallow: "abs attr count d default first float int last length random safe",
        _items: "items list map reject rejectattr reverse select selectattr",
        _compared: "dictsort groupby max min sort unique",
        _linear: "capitalize e escape filesizeformat forceescape lower string title trim upper urlencode wordcount",
        _square: "pprint striptags urlize wordwrap",
        _join: "batch join slice",
        _sum: "sum",
        _format: "format",
        _replace: "replace",
        _tojson: "tojson",
    }
)
_METHODS = _table(
    {
        _shallow: "copy get items keys values",
        _linear: "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit isidentifier "
        "islower isnumeric isprintable isspace istitle isupper lower lstrip partition removeprefix removesuffix rstrip "
        "split splitlines startswith strip swapcase title upper",
        _square: "striptags",
        _codec: "decode encode",
        _format: "format format_map",
        _replace: "replace",
    }
)


TESTS = (
    *("lower", "upper", "in"),
    *("==", "eq", "equalto", "!=", "ne", "<", "lt", "lessthan", "<=", "le", ">", "gt", "greaterthan", ">=", "ge"),
)
"""Tests that look at more than the type of a value, or its identity."""


def of_filter(name: str, value: Any, arguments: Sequence[Any]) -> None:
    """Spends what a filter may cost."""
    _FILTERS.get(name, _product)(value, arguments)
    BUDGET.get().size(*arguments)


def of_test(name: str, value: Any, others: Sequence[Any]) -> None:
    """Spends what one of the `TESTS` may cost."""
    if name in ("lower", "upper"):
        _linear(value, others)
    else:
        of_comparison("in" if name == "in" else "eq", value, *others)


def of_copy(value: Any) -> None:
    """Spends what a copy of a text or a list costs."""
    _shallow(value, ())


def of_call(function: Any, arguments: Sequence[Any]) -> None:
    """Spends what a call may cost: of a method of a built-in type, or else of going through the arguments."""
    method = getattr(function, "__wrapped__", function)
    value = getattr(method, "__self__", None)
    if isinstance(value, (str, bytes, int, float, list, tuple, dict)):
        _METHODS.get(method.__name__, _product)(value, arguments)
    BUDGET.get().size(*arguments)


def of_operator(operator: str, left: Any, right: Any) -> None:
    """Spends what `+`, `-`, `*`, `/`, `//`, `%` or `**` may cost."""
    if isinstance(left, int) and isinstance(right, int):
        _of_integers(operator, left, right)
    elif operator == "*" and isinstance(left, int):
        of_operator(operator, right, left)
    elif operator == "%" and isinstance(left, (str, bytes)):
        _format(left, right if isinstance(right, tuple) else (right,))
    elif operator in ("+", "*"):
        times = max(right, 0) if isinstance(right, int) else 1
        for value in (left, right):
            if isinstance(value, (str, bytes)):
                BUDGET.get().spend(chars=len(value) * times)
            elif isinstance(value, (list, tuple)):
                BUDGET.get().spend(steps=len(value) * times)


def _of_integers(operator: str, left: int, right: int) -> None:
    bits = max(left.bit_length(), right.bit_length())
    if operator == "*":
        bits = left.bit_length() + right.bit_length()
    elif operator == "**":
        bits = left.bit_length() * max(right, 1)
    if bits > MAX_BITS:
        raise TemplateRuntimeError(f"it computes with integers of more than {MAX_BITS:,} bits")


def of_comparison(operator: str, left: Any, right: Any) -> None:
    """Spends what a comparison may cost. Collections are compared item by item, and so are those in them."""
    left_is, right_is = (isinstance(side, (list, tuple, dict)) for side in (left, right))
    if left_is and (right_is or operator in ("in", "notin")):
        _linear(left, (right,))
    elif operator in ("in", "notin") and not isinstance(right, dict):
        _shallow(right, ())
    elif isinstance(left, str) and isinstance(right, str):
        BUDGET.get().spend(chars=min(len(left), len(right)))

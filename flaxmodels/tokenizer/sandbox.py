"""Jinja as the chat templates of transformers expect it, on a budget.

Templates come from strangers. Jinja's sandbox keeps them from attributes of Python objects. Here, every turn of a loop
and every call, filter and operator takes from the `Budget` of the rendering before it runs.
"""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension
from jinja2.runtime import BlockReference, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

from flaxmodels.tokenizer import costs
from flaxmodels.tokenizer.budget import BUDGET, OVERHEAD
from flaxmodels.tokenizer.metering import CodeGenerator, Metering

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "in": lambda left, right: left in right,
    "notin": lambda left, right: left not in right,
}
"""By Jinja's names of operators."""
_CONSUMERS = ("batch", "groupby", "join", "list", "max", "min", "reverse", "slice", "sort", "sum", "unique")
"""Filters that go through an iterator."""


class Written:
    """What a template has written up to now, and where the assistant's part of it is.

    Attributes:
        pieces: texts in their order.
        length: characters of them.
        spans: of each `{% generation %}` block the first character, the one after its last, and its text.
    """

    def __init__(self):
        self.pieces: list[str] = []
        self.length = 0
        self.spans: list[tuple[int, int, str]] = []

    def add(self, piece: str) -> None:
        """Appends a text."""
        self.pieces.append(piece)
        self.length += len(piece)


WRITTEN: ContextVar[Written] = ContextVar("WRITTEN")
"""By the rendering that goes on."""


class _Generation(Extension):
    """`{% generation %}` marks what the assistant wrote, for training. A prompt takes what is in it."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(lineno)

    @staticmethod
    def mark(caller: Callable[[], str]) -> str:
        """Notes where the block is."""
        text = caller()
        written = WRITTEN.get()
        written.spans.append((written.length, written.length + len(text), text))
        return text


class Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox, with the functions that templates call, and with the costs of what it runs."""

    intercepted_binops = frozenset(SandboxedEnvironment.default_binop_table)

    def __init__(self):
        extensions = [_Generation, "jinja2.ext.loopcontrols"]
        # Without Jinja's optimizer, which takes cubic time for expressions in each other.
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=_finalize, optimized=False
        )
        self.code_generator_class = CodeGenerator
        self.filters["tojson"] = _tojson
        self.filters = {name: _paid_filter(name, filter) for name, filter in self.filters.items()}
        self.tests |= {name: _paid_test(name, self.tests[name]) for name in costs.TESTS}
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(Metering().visit(source), *args, **kwargs)

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls what a template calls."""
        BUDGET.get().spend(steps=OVERHEAD)
        if not isinstance(function, (Macro, BlockReference, LoopContext)):
            own = [value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars", "caller")]
            costs.of_call(function, [*args, *own])
        return _checked(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Applies an operator of arithmetic."""
        costs.of_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An item of an object, or an attribute that the sandbox allows."""
        if isinstance(argument, (tuple, list, dict)):
            BUDGET.get().size(argument)
        return super().getitem(obj, argument)

    @staticmethod
    def turn(steps: int, chars: int) -> bool:
        """Spends what a body of a loop, a macro or a block costs."""
        BUDGET.get().spend(steps + OVERHEAD, chars)
        return True

    @staticmethod
    def text(value: Any) -> Any:
        """Spends what the text of a value costs."""
        budget = BUDGET.get()
        budget.spend(chars=len(value) if type(value) is str else budget.size(value).chars)
        return value

    @staticmethod
    def sliced(value: Any) -> Any:
        """Spends what a slice of a value may cost."""
        costs.of_copy(value)
        return value

    @staticmethod
    def compared(name: str, left: Any, right: Any) -> bool:
        """Compares two values."""
        costs.of_comparison(name, left, right)
        return _COMPARISONS[name](left, right)


def _checked(result: Any) -> Any:
    """A result, if it is no longer than results may be, and its items counted if they are yet to come."""
    if isinstance(result, Iterator):
        return _counted(result)
    if isinstance(result, str):
        BUDGET.get().spend(chars=len(result))
    elif isinstance(result, int):
        costs.of_operator("+", result, 0)
    return result


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        BUDGET.get().spend(steps=OVERHEAD)
        yield item


def _paid_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that spends before it runs. As one that is passed the context, it is not run while compiling."""
    passed = getattr(getattr(function, "jinja_pass_arg", None), "name", None)
    first = {"context": lambda context: [context], "eval_context": lambda context: [context.eval_ctx]}
    first |= {"environment": lambda context: [context.environment], None: lambda context: []}

    @pass_context
    @functools.wraps(function)
    def paid(context: Any, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        BUDGET.get().spend(steps=OVERHEAD)
        if name in _CONSUMERS and isinstance(value, Iterator):
            value = list(value)
        costs.of_filter(name, value, [*args, *kwargs.values()])
        return _checked(function(*first[passed](context), value, *args, **kwargs))

    return paid


def _paid_test(name: str, function: Callable[..., bool]) -> Callable[..., bool]:
    """A test of a value, or of two, that spends before it runs."""

    @functools.wraps(function)
    def paid(value: Any, /, *others: Any) -> bool:
        costs.of_test(name, value, others)
        return function(value, *others)

    return paid


@pass_context
def _finalize(context: Any, value: Any) -> Any:
    return Sandbox.text(value)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    BUDGET.get().spend(chars=100 * len(format))  # "%c" makes a date and a time
    return datetime.now().strftime(format)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

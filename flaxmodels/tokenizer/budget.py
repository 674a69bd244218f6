"""What one rendering of a chat template may cost: its work, the text that it makes, and its time are limited.

The limits grow with the messages, so that no honest template meets them.
"""

from __future__ import annotations

import time
from collections.abc import ItemsView, KeysView, Mapping, ValuesView
from contextvars import ContextVar
from typing import Any, NamedTuple

from jinja2 import TemplateRuntimeError
from jinja2.utils import Namespace

MAX_STEPS = 2_000_000
"""Nodes of syntax that are run in loops, macros and blocks, and values that operations go through: about a second."""
STEPS_PER_VALUE = 5_000
"""More of them for each value in the messages."""
MAX_CHARS = 20_000_000
"""Characters of all texts that operations make, the prompt among them."""
CHARS_PER_CHAR = 100
"""More of them for each character of the messages, and then one more for each value: a template that joins messages
one by one copies each as often as there are messages."""
MAX_BITS = 10_000
"""Of an integer. Python writes none that has more than 14,000."""
MAX_SECONDS = 10
"""Of this thread's processor time, for whatever the other limits miss."""
MAX_VALUES = 1_000_000
"""Of all messages together, each key and each item being one; more are taken for messages that contain themselves."""

OVERHEAD = 10
"""Steps of a turn of a loop, of a call and of a filter, beside what is in it."""

_NUMBER_CHARS = 20
_NAMESPACE_VALUES = 10
_COLLECTIONS = (list, tuple, set, frozenset, range, KeysView, ValuesView, ItemsView)


class Size(NamedTuple):
    """The number of values, their characters, and how deep they are in each other."""

    values: int
    chars: int
    depth: int


class Budget:
    """What is left to one rendering.

    Its methods raise `TemplateRuntimeError` when nothing is left.
    """

    def __init__(self, inputs: Any):
        values, chars, _ = measure(inputs, MAX_VALUES)
        if values > MAX_VALUES:
            raise TemplateRuntimeError(f"they have more than {MAX_VALUES:,} values")
        self._max_steps = self._steps = MAX_STEPS + STEPS_PER_VALUE * values
        self._max_chars = self._chars = MAX_CHARS + (CHARS_PER_CHAR + values) * chars
        self._deadline = time.perf_counter() + MAX_SECONDS
        self._processor_deadline = time.thread_time() + MAX_SECONDS

    def spend(self, steps: int = 0, chars: int = 0) -> None:
        """Takes steps and characters off, before they are used.

        Raises:
            TemplateRuntimeError: there are not as many left, or no time.
        """
        self._steps -= steps
        self._chars -= chars
        if self._steps < 0:
            raise TemplateRuntimeError(f"it takes more than {self._max_steps:,} steps")
        if self._chars < 0:
            raise TemplateRuntimeError(f"it makes more than {self._max_chars:,} characters of text")
        if time.perf_counter() > self._deadline and time.thread_time() > self._processor_deadline:
            raise TemplateRuntimeError(f"it takes more than {MAX_SECONDS} s")

    def size(self, *values: Any) -> Size:
        """The size of values, after taking a step off for each of them."""
        if all(type(value) is str for value in values):
            return Size(len(values), sum(map(len, values)), 1)
        found = measure(values, self._steps)
        self.spend(steps=found.values)
        return found


BUDGET: ContextVar[Budget] = ContextVar("BUDGET")
"""Of the rendering that goes on."""


def measure(value: Any, most: int) -> Size:
    """The size of a value and of all that is in it, each item as often as it is there, up to about `most` values.

    A list that holds one twice, which holds one twice, ... soon has more values than can be counted.
    """
    count = chars = depth = 0
    level = [value]
    while level:
        count += len(level)
        depth += 1
        below: list[Any] = []
        for item in level:
            if isinstance(item, (str, bytes)):
                chars += len(item)
            elif isinstance(item, Mapping):
                below += item.keys()
                below += item.values()
            elif isinstance(item, Namespace):
                count += _NAMESPACE_VALUES
                below += item._Namespace__attrs.values()
            elif isinstance(item, _COLLECTIONS):
                below += item
            else:
                chars += _NUMBER_CHARS
            if count + len(below) > most:
                return Size(count + len(below), chars, depth)
        level = below
    return Size(count, chars, depth)

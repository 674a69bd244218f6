"""Functions that a model may call, described as chat templates expect them.

The JSON schema of a function of Python comes from its types and from its docstring in Google's style, as transformers
writes it.
"""

from __future__ import annotations

import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from flaxmodels.errors import FlaxModelsError

_SIMPLE = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
_SECTION = re.compile(r"^\s*(Args|Returns|Raises|Yields|Examples?):\s*$", re.MULTILINE)
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE | re.DOTALL)


def tool_schema(tool: Any, index: int) -> dict[str, Any]:
    """The JSON schema of a tool, which may be one already.

    Args:
        tool: a dict, or a function whose arguments have types and are described in its docstring under "Args:".
        index: its place among the tools, for errors.

    Raises:
        FlaxModelsError: it is neither, or a type or a description is missing.
    """
    if isinstance(tool, dict):
        return tool
    if not (inspect.isfunction(tool) or inspect.ismethod(tool)):
        raise FlaxModelsError(f"tools[{index}]: expected a JSON schema or a function, got {type(tool).__name__}.")
    try:
        return {"type": "function", "function": _function(tool)}
    except (TypeError, NameError, ValueError) as error:
        raise FlaxModelsError(
            f"tools[{index}]: {tool.__name__} is described in a way that is not understood: {error}."
        ) from error


def _function(function: Callable[..., Any]) -> dict[str, Any]:
    description, arguments, returns = _docstring(inspect.getdoc(function) or "")
    if not description:
        raise TypeError("it has no docstring")
    hints = typing.get_type_hints(function)
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    parameters = inspect.signature(function).parameters
    for name in parameters:
        if name not in hints or name not in arguments:
            raise TypeError(f"{name!r} has no {'type' if name not in hints else 'description in its docstring'}")
        schema["properties"][name] = _described(_typed(hints[name]), arguments[name])
    if required := [name for name, each in parameters.items() if each.default is inspect.Parameter.empty]:
        schema["required"] = required
    found = {"name": function.__name__, "description": description, "parameters": schema}
    with suppress(TypeError):  # a model writes no results, so that their type may be any
        if "return" in hints:
            found["return"] = _typed(hints["return"]) | ({} if returns is None else {"description": returns})
    return found


def _described(schema: dict[str, Any], description: str) -> dict[str, Any]:
    """A schema with its description, which may end with "(choices: [...])", a list in JSON."""
    if match := _CHOICES.search(description):
        choices = [choice.strip() if isinstance(choice, str) else choice for choice in json.loads(match[1])]
        schema, description = schema | {"enum": choices}, description[: match.start()].strip()
    return schema | {"description": description}


def _typed(hint: Any) -> dict[str, Any]:
    """The schema of a type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    if hint is Any:
        return {}
    if origin in (typing.Union, types.UnionType):
        return _union(args)
    if origin is typing.Literal:
        return _choice(args)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _choice([member.value for member in hint])
    if list in (hint, origin):
        return {"type": "array", **({"items": _typed(args[0])} if args else {})}
    if tuple in (hint, origin):
        if len(args) == 1 or ... in args:
            raise TypeError("a tuple of one type, or of any length: use a list")
        return {"type": "array", **({"prefixItems": [*map(_typed, args)]} if args else {})}
    if dict in (hint, origin):
        return {"type": "object", **({"additionalProperties": _typed(args[1])} if args else {})}
    raise TypeError(f"the type {hint} has no JSON schema")


def _choice(values: Sequence[Any]) -> dict[str, Any]:
    """A schema that allows some values."""
    if not values or any(type(value) not in _SIMPLE for value in values):
        raise TypeError(f"{values} are not texts or numbers")
    kinds = list(dict.fromkeys(_SIMPLE[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(values)}


def _union(kinds: tuple[Any, ...]) -> dict[str, Any]:
    """A schema that allows each of several types; None makes it nullable."""
    parts = [_typed(kind) for kind in kinds if kind is not type(None)]
    if len(parts) == 1:
        schema = parts[0]
    elif all(isinstance(part.get("type"), str) and len(part) == 1 for part in parts):
        names = sorted({part["type"] for part in parts})
        schema = {"type": names[0] if len(names) == 1 else names}
    else:
        schema = {"anyOf": parts}
    return schema | ({"nullable": True} if type(None) in kinds else {})


def _docstring(text: str) -> tuple[str, dict[str, str], str | None]:
    """The description of a function, that of each argument, and that of what it returns."""
    first, *rest = _SECTION.split(text)
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    lines = sections.get("Args", "").strip("\n").split("\n")
    indent = len(lines[0]) - len(lines[0].lstrip())
    arguments: dict[str, str] = {}
    name = ""
    for line in lines:
        match = re.match(r"(\w+)\s*(?:\([^)]*\))?:\s*(.*)", line[indent:])
        if match and not line[:indent].strip():
            name = match[1]
            arguments[name] = match[2].strip()
        elif line.strip() and name:
            arguments[name] += " " + line.strip()
    returns = sections.get("Returns")
    return first.strip(), arguments, None if returns is None else returns.strip()

"""Dicts and lists that cannot be changed in place, as configurations hold them: of such a change no model would hear.

They are read, compared, written to JSON and merged as any others; a copy is a plain dict or list.
"""

from __future__ import annotations

import copy
from typing import Any, NoReturn

import numpy as np

from flaxmodels.errors import ConfigError


def read_only(value: Any, name: str) -> Any:
    """`value` with every dict and list, those within others too, as one that cannot be changed.

    Args:
        value: of a field. Arrays and numbers of numpy become those of Python; anything else stays as it is.
        name: of the field, for errors.
    """
    return _read_only(value, name, is_nested=False)


def _read_only(value: Any, name: str, *, is_nested: bool) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, _ReadOnly) and (value._name, value._is_nested) == (name, is_nested):
        return value
    if isinstance(value, dict):
        items = {key: _read_only(item, name, is_nested=True) for key, item in value.items()}
        return ReadOnlyDict(items, name, is_nested)
    if isinstance(value, list):
        return ReadOnlyList((_read_only(item, name, is_nested=True) for item in value), name, is_nested)
    if type(value) is tuple:
        return tuple(_read_only(item, name, is_nested=True) for item in value)
    return value


def _refused(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
    field = f"config.{self._name}"
    if self._is_nested:
        raise ConfigError(
            f"{field} cannot be changed in place, nor can what is in it: change a copy, as copy.deepcopy({field}) "
            f"makes one, and set {field} to it"
        )
    raise ConfigError(f"{field} cannot be changed in place: set it whole, as in {field} = {self._whole.format(field)}")


_REFUSED: Any = _refused
"""In place of each method that would change a dict or a list."""


class _ReadOnly:
    """What read-only dicts and lists have in common."""

    __slots__ = ()
    _name: str
    _is_nested: bool
    _whole: str
    """How a new value is written that has all of the old."""

    __setitem__ = __delitem__ = pop = clear = _REFUSED

    def __copy__(self: Any) -> Any:
        return self.copy()


class ReadOnlyDict(_ReadOnly, dict):
    """A dict that cannot be changed."""

    __slots__ = ("_is_nested", "_name")
    _whole = "{{**{}, ...}}"

    def __init__(self, items: Any, name: str, is_nested: bool):
        super().__init__(items)
        self._name, self._is_nested = name, is_nested

    update = setdefault = popitem = __ior__ = _REFUSED

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        return {copy.deepcopy(key, memo): copy.deepcopy(value, memo) for key, value in self.items()}

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (self.copy(),)


class ReadOnlyList(_ReadOnly, list):
    """A list that cannot be changed."""

    __slots__ = ("_is_nested", "_name")
    _whole = "[*{}, ...]"

    def __init__(self, items: Any, name: str, is_nested: bool):
        super().__init__(items)
        self._name, self._is_nested = name, is_nested

    append = extend = insert = remove = sort = reverse = __iadd__ = __imul__ = _REFUSED

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return [copy.deepcopy(value, memo) for value in self]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return list, (self.copy(),)

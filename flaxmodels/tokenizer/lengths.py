"""How rows get their lengths: strategies of padding and truncation, by transformers' names."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flaxmodels.errors import FlaxModelsError

MAX_PADDED = 10_000_000
"""Tokens of a row. The backend ends the process when it has no memory, and a file may state any `model_max_length`."""
UNLIMITED = int(1e30)
"""The `model_max_length` of a tokenizer that states none."""

_UNKNOWN_ABOVE = int(1e20)
_PADDING = {True: "longest", "longest": "longest", "max_length": "max_length", False: None, "do_not_pad": None}
_TRUNCATION = {
    None: None,
    False: None,
    True: "longest_first",
    **{name: name for name in ("longest_first", "only_first", "only_second")},
    "do_not_truncate": None,
}
_SIDES = ("right", "left")


@dataclass(frozen=True)
class Lengths:
    """What becomes of rows that are too short or too long.

    Attributes:
        padding: "longest" or "max_length", or None for none.
        truncation: "longest_first", "only_first" or "only_second", or None for none.
        max_length: tokens of a row, special ones included.
        stride: tokens of a row that its overflow begins with.
        pad_to_multiple_of: what padded lengths are multiples of, or None.
        padding_side: "right" or "left".
        truncation_side: "right" or "left".
    """

    padding: str | None
    truncation: str | None
    max_length: int | None
    stride: int
    pad_to_multiple_of: int | None
    padding_side: str
    truncation_side: str

    def __post_init__(self):
        _check_number("stride", self.stride, 0)
        for name in ("max_length", "pad_to_multiple_of"):
            if (number := getattr(self, name)) is not None:
                _check_number(name, number, 1)
        longest = max(self.max_length or 0 if self.padding == "max_length" else 0, self.pad_to_multiple_of or 0)
        if self.padding and longest > MAX_PADDED:
            raise FlaxModelsError(f"padding: expected rows of at most {MAX_PADDED:,} tokens, got {longest:,}.")
        if self.padding and self.truncation and (self.max_length or 0) % (self.pad_to_multiple_of or 1):
            raise FlaxModelsError(
                f"max_length={self.max_length} is no multiple of pad_to_multiple_of={self.pad_to_multiple_of}: rows "
                "cannot be cut to the one and padded to the other."
            )


def choose_lengths(
    model_max_length: int,
    padding_side: str,
    truncation_side: str,
    log: Callable[[str], None],
    padding: Any = False,
    truncation: Any = None,
    max_length: int | None = None,
    stride: int = 0,
    pad_to_multiple_of: int | None = None,
) -> Lengths:
    """The strategies that arguments ask for, as transformers reads them.

    A `max_length` alone cuts rows to it. Where there is none, that of the model counts; `log` hears if it is not known.

    Raises:
        FlaxModelsError: an argument is not one of these, or they contradict each other.
    """
    pads = _choice("padding", padding, _PADDING)
    cuts = _choice("truncation", truncation, _TRUNCATION)
    if max_length is not None and pads is None and truncation is None:
        cuts = "longest_first"
    if padding is True and max_length is not None and cuts is None:
        warnings.warn(
            "max_length has no effect with padding=True and without truncation: say padding='max_length' to pad to it.",
            stacklevel=4,
        )
    if max_length is None and model_max_length <= _UNKNOWN_ABOVE:
        max_length = model_max_length if cuts or pads == "max_length" else None
    elif max_length is None:
        if cuts or pads == "max_length":
            log("rows keep their lengths: neither max_length nor the tokenizer's model_max_length is known")
        cuts, pads = None, None if pads == "max_length" else pads
    return Lengths(pads, cuts, max_length, stride, pad_to_multiple_of, check_side("padding_side", padding_side),
                   check_side("truncation_side", truncation_side))  # fmt: skip


def check_side(name: str, side: Any) -> str:
    """A side of a text, "right" or "left".

    Raises:
        FlaxModelsError: it is neither.
    """
    if side not in _SIDES:
        raise FlaxModelsError(f"{name}: expected 'right' or 'left', got {side!r}.")
    return side


def _choice(name: str, value: Any, choices: dict[Any, str | None]) -> str | None:
    """A strategy by its name, by a bool, or by a member of an enumeration such as transformers has."""
    value = getattr(value, "value", value)
    if isinstance(value, (str, bool, type(None))) and value in choices:
        return choices[value]
    remedy = f" The side is padding_side={value!r}." if name == "padding" and value in _SIDES else ""
    raise FlaxModelsError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}.{remedy}")


def _check_number(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise FlaxModelsError(f"{name}: expected an integer of at least {least}, got {value!r}.")

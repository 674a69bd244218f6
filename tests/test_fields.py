"""What annotations of fields accept, and what is said of what they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pytest
from annotated_types import Interval, Len, Predicate, doc

from flaxmodels.fields import (
    ABSENT,
    Activation,
    Epsilon,
    ImageSize,
    LayerType,
    Rate,
    Scale,
    Size,
    brief,
    fields_of,
    kind_of,
    unknown_names,
)
from flaxmodels.nn.activations import ACTIVATIONS

NAN, INF = float("nan"), float("inf")
SIZE, PIXELS = "an integer from 1 to 1048576", "an integer from 1 to 16384"
MORE = "x: more of its items are wrong"
EVEN = Annotated[int, Interval(ge=0, le=9), Predicate(lambda value: value % 2 == 0), doc("an even digit")]


@pytest.mark.parametrize(
    ("hint", "values"),
    [
        (Size, [1, 2**20, np.int32(5), np.int64(5)]),
        (Rate, [0, 1, 0.5, np.float32(0.5), np.int8(1)]),
        (Epsilon, [1, 1e-300]),
        (Scale, [0, 3e38]),
        (float, [-1, -1.5, np.float16(2)]),
        (int, [-(2**31), 2**31 - 1]),
        (bool, [True, False]),
        (str, ["", "a"]),
        (Size | None, [None, 1]),
        (Size | list[Size], [1, [], [1, 2], (1,), np.array([1, 2])]),
        (Sequence[str], [[], ("a",)]),
        (tuple[int, ...], [[], [1, 2, 3]]),
        (tuple[int, str], [(1, "a"), [1, "a"]]),
        (Annotated[Sequence[Size], Len(1, 2)], [[1], (1, 2)]),
        (ImageSize, [8, [8, 9], (8, 9)]),
        (dict[str, Size | None], [{}, {"a": 1, "b": None}]),
        (dict, [{}, {1: 2}]),
        (Literal["a", "b"], ["a", "b"]),
        (EVEN, [0, 8]),
        (Any, [None, object]),
        (np.ndarray, [np.zeros(2)]),
    ],
)
def test_values_that_are_accepted(hint, values):
    for value in values:
        assert kind_of(hint).accepts(value)
        assert kind_of(hint).problems("x", value) == []


@pytest.mark.parametrize(
    ("hint", "value", "problems"),
    [
        (Size, 0, [f"x=0: expected {SIZE}"]),
        (Size, True, [f"x=True: expected {SIZE}"]),
        (Size, 2.0, [f"x=2.0: expected {SIZE}"]),
        (Size, np.float32(2), [f"x={np.float32(2)!r}: expected {SIZE}"]),
        (Size, 10**5000, [f"x=<an integer of 16610 bits>: expected {SIZE}"]),
        (int, 2**31, ["x=2147483648: expected an integer of 32 bits"]),
        (Rate, NAN, ["x=nan: expected a number from 0 to 1"]),
        (Rate, False, ["x=False: expected a number from 0 to 1"]),
        (Epsilon, 0.0, ["x=0.0: expected a number above 0 and at most 1"]),
        (Scale, INF, ["x=inf: expected a number of at least 0"]),
        (Scale, 10**400, ["x=<an integer of 1329 bits>: expected a number of at least 0"]),
        (float, -INF, ["x=-inf: expected a finite number"]),
        (float, 1e39, ["x=1e+39: expected a finite number"]),
        (bool, 1, ["x=1: expected True or False"]),
        (str, b"a", ["x=b'a': expected a string"]),
        (Size | None, "a", ["x='a': expected None or an integer from 1 to 1048576"]),
        (list[Size], "12", ["x='12': expected a list, each item an integer from 1 to 1048576"]),
        (list[Size], np.array(1), ["x=array(1): expected a list, each item an integer from 1 to 1048576"]),
        (list[Size] | None, [1, 0, "a"], [f"x[1]=0: expected {SIZE}", f"x[2]='a': expected {SIZE}"]),
        (list[bool], [0] * 20, [*(f"x[{n}]=0: expected True or False" for n in range(8)), MORE]),
        (list[list[Size]], [[1], [2, [3]]], [f"x[1][1]=[3]: expected {SIZE}"]),
        (tuple[int, str], [1], ["x=[1]: expected a list of 2 items, each an integer of 32 bits and a string"]),
        (tuple[int, str], [1, 2], ["x[1]=2: expected a string"]),
        (Annotated[list[str], Len(1, 2)], [], ["x=[]: expected a list of 1 to 2 items, each item a string"]),
        (ImageSize, [1], [f"x=[1]: expected {PIXELS} or a list of 2 items, each {PIXELS}"]),
        (dict[str, bool], [], ["x=[]: expected a dict from a string to True or False"]),
        (dict[str, Any], [], ["x=[]: expected a dict"]),
        (
            dict[str, bool],
            {1: True, "a": 2},
            ["a key of x=1: expected a string", "x['a']=2: expected True or False"],
        ),
        (LayerType, "x", ["x='x': expected one of full_attention, sliding_attention"]),
        (LayerType, ["full_attention"], ["x=['full_attention']: expected one of full_attention, sliding_attention"]),
        (Literal["a"], "b", ["x='b': expected a, the only one that is implemented"]),
        (Literal["", "a"] | None, "b", ["x='b': expected None or one of '', a"]),
        (EVEN, 7, ["x=7: expected an even digit"]),
        (EVEN, [7], ["x=[7]: expected an even digit"]),
        (np.ndarray, 1, ["x=1: expected a ndarray"]),
    ],
    ids=lambda value: value[0][:60] if isinstance(value, list) and value and isinstance(value[0], str) else "",
)
def test_values_that_are_refused(hint, value, problems):
    assert kind_of(hint).problems("x", value) == problems


def test_an_annotation_that_is_no_type_of_a_field():
    with pytest.raises(TypeError, match=r"cannot be the type of a field$"):
        kind_of(Callable[..., int])


class Base:
    shared: int = 1
    replaced: int = 2
    table: dict[str, int] = {}


class Derived(Base):
    shared: Size = 3
    seldom: Rate | None = ABSENT

    @property
    def replaced(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]  # as in ALBERT
        return 4


def test_fields_are_those_of_all_bases_but_for_properties():
    fields = fields_of(Derived)
    assert {name: field.default for name, field in fields.items()} == {"shared": 3, "table": {}, "seldom": ABSENT}
    assert fields["shared"].kind.expected == "an integer from 1 to 1048576"
    assert fields_of(Derived) is fields
    assert not hasattr(Derived, "seldom")
    assert not hasattr(Derived(), "seldom")


def test_the_names_of_activations_are_those_that_exist():
    assert sorted(get_args(Activation)) == sorted(ACTIVATIONS)


@pytest.mark.parametrize("value", ["x" * 10**6, list(range(10**6)), {n: n for n in range(10**5)}, 10**10**4], ids=type)
def test_what_is_shown_fits_a_message(value):
    assert len(brief(value)) < 200


def test_names_that_were_probably_meant():
    assert unknown_names("Thing", "part", ["weels", "wheels", "\x1b[1m"], ["wheels", "doors"]) == [
        "Thing has no part 'weels': did you mean 'wheels'?",
        "Thing has no part '\\x1b[1m': check the spelling",
    ]

"""Rules and plans: names matched with what a checkpoint has, and everything that does not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from interop.ops import Concat, Split, Transpose
from interop.plan import CheckpointSpec, Mismatch, make_plan
from interop.rules import Mapped, Rule, check_bijection
from interop.source import Header

FLOAT = np.dtype(np.float32)
FUSED = (Transpose((1, 0)), Concat(1, (2, 3)))


class Arrays:
    """A source over a dict that remembers which boxes were read."""

    def __init__(self, **arrays: np.ndarray):
        self.arrays = arrays
        self.headers = headers_of(**{name: array.shape for name, array in arrays.items()})
        self.read_boxes: list[tuple] = []

    def read(self, name, index=None):
        self.read_boxes.append((name, index))
        return self.arrays[name] if index is None else self.arrays[name][(*index, ...)]


def headers_of(**shapes: tuple[int, ...]) -> dict[str, Header]:
    return {name: Header(shape, FLOAT) for name, shape in shapes.items()}


def names(mapping: dict[str, tuple[int, ...]]) -> dict[str, Header]:
    return {name: Header(shape, FLOAT) for name, shape in mapping.items()}


WANTED = CheckpointSpec(
    rules=(
        Rule(("base.q", "base.k"), ("base/qk",), FUSED),
        Rule(("base.norm.weight",), ("base/norm/scale",)),
        Rule(("head.weight",), ("head/kernel",), (Transpose((1, 0)),)),
    ),
    leaves=names({"base/qk": (4, 5), "base/norm/scale": (4,), "head/kernel": (4, 7)}),
    alternatives={"base.norm.weight": ("base.norm.gamma",), "head.weight": ("base.embed.weight",)},
    base_prefix="base",
    ignored=(r"\.position_ids$",),
)
COMPLETE = {"base.q": (2, 4), "base.k": (3, 4), "base.norm.weight": (4,), "head.weight": (7, 4)}
IN_ORDER = tuple(rule.targets[0] for rule in WANTED.rules)


def targets(plan) -> tuple[str, ...]:
    return tuple(name for rule in plan.rules for name in rule.targets)


def test_a_checkpoint_that_fits():
    plan = make_plan(WANTED, names(COMPLETE))
    assert (targets(plan), plan.missing, plan.unexpected, plan.mismatched) == (IN_ORDER, {}, (), ())


def test_everything_that_does_not_fit_is_in_the_plan():
    found = {"base.q": (2, 4), "base.norm.weight": (5,), "head.weight": (8, 4), "extra": (1,), "x.position_ids": (1,)}
    plan = make_plan(WANTED, names(found))
    assert plan.rules == ()
    assert plan.missing == {"base.k": "base/qk"}
    assert plan.unexpected == ("base.q", "extra")
    assert plan.mismatched == (
        Mismatch("base.norm.weight", (5,), (4,)),
        Mismatch("head.weight", (8, 4), (7, 4)),
    )


def test_shapes_are_compared_in_the_layout_of_the_checkpoint():
    plan = make_plan(WANTED, names(COMPLETE | {"base.k": (3, 5)}))
    assert plan.mismatched == (Mismatch("base.k", (3, 5), (3, 4)),)
    assert targets(plan) == ("base/norm/scale", "head/kernel")
    assert plan.unexpected == ("base.q",)


def test_other_names_serve_where_the_first_is_absent():
    others = {"base.norm.gamma": (4,), "base.embed.weight": (7, 4)}
    both = make_plan(WANTED, names(COMPLETE | others))
    assert [rule.sources for rule in both.rules] == [rule.sources for rule in WANTED.rules]
    assert both.unexpected == ()
    kept = {name: shape for name, shape in COMPLETE.items() if name not in WANTED.alternatives}
    plan = make_plan(WANTED, names(kept | others))
    assert [rule.sources for rule in plan.rules] == [
        ("base.q", "base.k"),
        ("base.norm.gamma",),
        ("base.embed.weight",),
    ]
    assert (plan.missing, plan.unexpected) == ({}, ())


def test_a_base_checkpoint_for_a_model_with_a_head():
    plan = make_plan(WANTED, names({"q": (2, 4), "k": (3, 4), "norm.gamma": (4,), "pooler.weight": (1,)}))
    assert [rule.sources for rule in plan.rules] == [("q", "k"), ("norm.gamma",)]
    assert (plan.missing, plan.unexpected) == ({"head.weight": "head/kernel"}, ("pooler.weight",))


def test_a_checkpoint_with_a_head_for_the_base_model():
    base = replace(
        WANTED,
        rules=(Rule(("q", "k"), ("qk",), FUSED), Rule(("norm.weight",), ("norm/scale",))),
        leaves=names({"qk": (4, 5), "norm/scale": (4,)}),
        alternatives={"norm.weight": ("norm.gamma",)},
        is_base=True,
    )
    plan = make_plan(base, names(COMPLETE))
    assert [rule.sources for rule in plan.rules] == [("base.q", "base.k"), ("base.norm.weight",)]
    assert (plan.missing, plan.unexpected) == ({}, ("head.weight",))
    own = make_plan(base, names({"q": (2, 4), "k": (3, 4), "norm.gamma": (4,)}))
    assert [rule.sources for rule in own.rules] == [("q", "k"), ("norm.gamma",)]


def test_a_plan_reads_only_what_is_asked_for():
    q, k = np.arange(8.0, dtype="f4").reshape(2, 4), np.arange(12.0, dtype="f4").reshape(3, 4)
    source = Arrays(**{"base.q": q, "base.k": k, "base.norm.weight": np.ones(4, "f4"), "unread": np.ones(1, "f4")})
    mapped = make_plan(WANTED, source.headers).read_from(source)
    assert mapped.headers == names({"base/qk": (4, 5), "base/norm/scale": (4,)})
    assert source.read_boxes == []
    whole = np.concatenate([q.T, k.T], 1)
    np.testing.assert_array_equal(mapped.read("base/qk"), whole)
    source.read_boxes.clear()
    box = (slice(1, 3), slice(3, 5))
    np.testing.assert_array_equal(mapped.read("base/qk", box), whole[box])
    assert source.read_boxes == [("base.k", (slice(1, 3), slice(1, 3)))]


def test_a_rule_and_its_inverse():
    rule = WANTED.rules[0]
    assert rule.headers(headers_of(**{"base.q": (2, 4), "base.k": (3, 4)})) == names({"base/qk": (4, 5)})
    assert rule.inverse == Rule(("base/qk",), ("base.q", "base.k"), (Split(1, (2, 3)), Transpose((1, 0))))
    assert rule.inverse.inverse == rule
    source = Arrays(**{"base.q": np.ones((2, 4), "f4"), "base.k": np.zeros((3, 4), "f4")})
    back = Mapped(Mapped(source, [rule]), [rule.inverse])
    assert back.headers == source.headers
    for name, array in source.arrays.items():
        np.testing.assert_array_equal(back.read(name), array)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        rule.headers(headers_of(**{"base.q": (2, 4), "base.k": (4, 4)}))
    assert str(error.value) == "Concat(axis=1, sizes=(2, 3)) does not fit tensors of shape (4, 2), (4, 4)"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            [Rule(("a", "b"), ("x",)), Rule(("b", "a", "c"), ("y",))],
            "a mapping must be a bijection, but these sources occur twice: a, b",
        ),
        (
            [Rule(("a",), ("x", "y")), Rule(("b",), ("y",))],
            "a mapping must be a bijection, but these targets occur twice: y",
        ),
    ],
)
def test_a_mapping_that_is_no_bijection(rules, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        check_bijection(rules)
    assert str(error.value) == message
    check_bijection(WANTED.rules)

"""The table of architectures. A further one is a further row in `families`: every parametrised test then runs on it.

Sizes are awkward on purpose: odd, unequal, grouped heads, `head_dim` apart from `hidden_size / num_attention_heads`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from models.families import (
    audio,
    convolutional,
    decoders,
    encoder_decoders,
    encoders,
    experts,
    llama_like,
    t5_like,
    two_towers,
    vision,
)
from models.family import Case

FAMILIES = {
    **encoders.FAMILIES,
    **llama_like.FAMILIES,
    **decoders.FAMILIES,
    **encoder_decoders.FAMILIES,
    **convolutional.FAMILIES,
    **t5_like.FAMILIES,
    **experts.FAMILIES,
    **vision.FAMILIES,
    **two_towers.FAMILIES,
    **audio.FAMILIES,
}
"""Every architecture, by model type."""

HEADS = [
    Case(head, family, head, {**family.config, **extra})
    for family in FAMILIES.values()
    for head, extra in family.heads.items()
]
"""Every model class with the configuration of its family."""

CASES = HEADS + [
    Case(f"{head}-{name}", family, head, {**family.config, **changes})
    for family in FAMILIES.values()
    for name, (head, changes) in family.variants.items()
]
"""Every model class, and every variant."""


FIRSTS = [next(case for case in HEADS if case.family is family) for family in FAMILIES.values()]
"""One class of each family: for tests of what is the same for all."""

LAYERS = FIRSTS + [case for case in CASES if case not in HEADS]
"""One class of each family and every variant: for tests of layers, whatever head is on them."""


def _pages(case: Case) -> set[str]:
    """The modules that define its class and what that inherits from."""
    return {cls.__module__ for cls in case.ours.__mro__ if cls.__module__.startswith("flaxmodels.models.")}


_OTHER_LAYERS = ("AlbertModel", "BeitModel", "RobertaPreLayerNormModel")
"""What inherits from another architecture, and has layers of its own all the same."""

OWN = [
    case
    for number, case in enumerate(FIRSTS)
    if case.head in _OTHER_LAYERS or not _pages(case) & {other.family.module for other in FIRSTS[:number]}
]
"""One class of each family but those whose layers are inherited from another one, or are in a model that is listed."""


def _one_with_each(*names: str) -> list[Case]:
    """One class with each combination of these attributes, be they its own or inherited; none is a first one."""

    def described(case: Case) -> str:
        return repr([getattr(case.ours, name, None) for name in names])

    return list({described(case): case for case in reversed(HEADS) if case not in FIRSTS}.values())[::-1]


WITH_EACH_HEAD = _one_with_each("head")
"""One class with each function that makes outputs of those of the base model."""

_PARTS = (
    *("setup", "head", "forward", "base_forward", "logits", "predict", "pool", "summarise", "classify", "first_patch"),
    *("make_projection", "lm_head_activation", "classifier_activation", "add_pooling_layer", "config_changes"),
)
_DISTINCT = FIRSTS + WITH_EACH_HEAD + _one_with_each(*_PARTS)
REPEATED = [case for case in HEADS if case not in _DISTINCT]
"""Classes whose heads are made and computed by the same functions as those of another class."""

PREDICTING = [
    next((case for case in HEADS if case.family is first.family and "LM" in case.head), first) for first in FIRSTS
]
"""Of each family one that predicts tokens, if one does, else the first."""


def some_cases(cases: Iterable[Case], exhaustive: Iterable[Case] = ()) -> list[Any]:
    """Parameters: these cases, and those of `exhaustive` beside them, which run only where such tests are asked for."""
    cases = list(cases)
    others = [case for case in exhaustive if case not in cases]
    return [pytest.param(case, id=str(case)) for case in cases] + [
        pytest.param(case, id=str(case), marks=pytest.mark.exhaustive) for case in others
    ]


def for_cases(cases: Iterable[Case], exhaustive: Iterable[Case] = ()) -> Any:
    """Run a test with each of these cases; with those of `exhaustive` only where such tests are asked for."""
    return pytest.mark.parametrize("case", some_cases(cases, exhaustive), indirect=True)

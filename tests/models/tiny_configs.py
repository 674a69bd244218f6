"""The table of architectures. A further one is a further row in `families`: every parametrised test then runs on it.

Sizes are awkward on purpose: odd, unequal, grouped heads, `head_dim` apart from `hidden_size / num_attention_heads`.
"""

from __future__ import annotations

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


def _is_inherited(case: Case) -> bool:
    """Whether the head is that of another family, where it is tested; those of language models count as own."""
    if case not in HEADS or "LM" in case.head:
        return False
    head = next((vars(cls)["head"] for cls in case.ours.__mro__ if "head" in vars(cls)), None)
    return head is not None and head.__module__ not in (case.family.module, "flaxmodels.model")


DISTINCT = [case for case in CASES if not _is_inherited(case)]
"""All but heads of another family on the layers of this one: for tests that compile much."""

FIRSTS = [next(case for case in HEADS if case.family is family) for family in FAMILIES.values()]
"""One class of each family: for tests of what is the same for all."""

LAYERS = FIRSTS + [case for case in CASES if case not in HEADS]
"""One class of each family and every variant: for tests of layers, whatever head is on them."""

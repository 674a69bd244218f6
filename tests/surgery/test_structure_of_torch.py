"""What every model says of its structure, by the names of torch: what is tied, and where encoder and decoder are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.tiny_configs import FIRSTS, HEADS, WITH_EACH_HEAD, some_cases

from flaxmodels.surgery.modules import iter_modules

MODALITIES = (None, "image", "video", "audio")
RENAMED = ("ViT", "DeiT", "Beit")
"""transformers 5 has no `encoder` in these, as files and older versions do."""


@pytest.fixture(scope="module", params=some_cases([*FIRSTS, *WITH_EACH_HEAD], HEADS))
def pair(request) -> tuple[Any, Any]:
    """Our model and torch's, both without values."""
    case = request.param
    with torch.device("meta"):
        return case.ours.abstract(dict(case.values)), case.theirs(case.theirs.config_class(**case.values))


def test_what_the_configuration_ties(pair):
    ours, theirs = pair
    every = theirs.get_expanded_tied_weights_keys(all_submodels=True)
    assert ours.get_expanded_tied_weights_keys(all_submodels=True) == ours.all_tied_weights_keys == every
    if type(ours).__name__ != "MarianMTModel":  # which repeats those of the model in it
        assert ours.get_expanded_tied_weights_keys() == theirs.get_expanded_tied_weights_keys()


def parts(model: Any, names: dict[int, str]) -> dict[str, str | None]:
    """The names of what the methods give."""
    found = {f"encoder {modality}": model.get_encoder(modality) for modality in MODALITIES}
    return {what: names.get(id(part)) for what, part in {**found, "decoder": model.get_decoder()}.items()}


def test_encoders_and_decoders(pair):
    ours, theirs = pair
    if type(ours).__name__.startswith(RENAMED):
        base = ours.base_model
        assert ours.get_encoder() is base.encoder
    else:
        own = {id(module): ".".join(path) for path, module in reversed(list(iter_modules(ours)))}
        assert parts(ours, own) == parts(theirs, {id(module): name for name, module in theirs.named_modules()})

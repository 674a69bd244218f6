"""Well-known checkpoints by their configurations: every name and shape that torch has, and how many parameters.

In the files `num_labels` stands for the names of a thousand labels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models.family import Case
from models.tiny_configs import FAMILIES
from models.torch_reference import untied

from flaxmodels.checkpoint.mapping import torch_headers
from interop.torch_bridge import as_saved

CONFIGS = Path(__file__).parents[1] / "fixtures" / "configs"


def published_config(name: str) -> dict[str, Any]:
    """The values of a `config.json`. Ours have the number of labels in the place of their names."""
    values = json.loads((CONFIGS / f"{name}.json").read_text())
    if labels := values.pop("num_labels", None):
        values["id2label"] = {str(number): f"LABEL_{number}" for number in range(labels)}
    return values


PUBLISHED = {
    name: (Case(name, family, head, published_config(name)), count)
    for family in FAMILIES.values()
    for name, (head, count) in family.published.items()
}


def stored(reference):
    """The distinct parameters of a torch model, and the buffers that are stored, by name."""
    yield from reference.named_parameters()
    state = reference.state_dict()
    yield from ((name, buffer) for name, buffer in reference.named_buffers() if name in state)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_shapes_and_number_of_parameters(name):
    case, count = PUBLISHED[name]
    model = case.ours.abstract(dict(case.values))
    with torch.device("meta"):
        reference = untied(case, case.theirs(case.theirs.config_class.from_dict(dict(case.values))))
        tensors = as_saved(reference, dict(stored(reference)))
    assert {name: header.shape for name, header in torch_headers(model).items()} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    assert model.num_parameters() == count


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_config_file_comes_back(name, tmp_path):
    case, _ = PUBLISHED[name]
    config = case.ours.config_class.from_dict(dict(case.values))
    config.save_pretrained(tmp_path)
    # That of umt5-small does not say of which type it is.
    expected = {"model_type": config.model_type} | dict(case.values)
    assert json.loads((tmp_path / "config.json").read_text()) == expected

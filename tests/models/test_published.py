"""Well-known checkpoints by their configurations: every name and shape that torch has, and how many parameters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models.family import Case
from models.tiny_configs import FAMILIES
from models.torch_reference import as_saved

from flaxmodels.checkpoint.mapping import torch_headers

CONFIGS = Path(__file__).parents[1] / "fixtures" / "configs"
PUBLISHED = {
    name: (Case(name, family, head, json.loads((CONFIGS / f"{name}.json").read_text())), count)
    for family in FAMILIES.values()
    for name, (head, count) in family.published.items()
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_shapes_and_number_of_parameters(name):
    case, count = PUBLISHED[name]
    model = case.ours.abstract(dict(case.values))
    with torch.device("meta"):
        reference = case.theirs(case.theirs.config_class.from_dict(dict(case.values)))
    assert {name: header.shape for name, header in torch_headers(model).items()} == {
        name: tuple(parameter.shape)
        for name, parameter in as_saved(reference, dict(reference.named_parameters())).items()
    }
    assert model.num_parameters() == count


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_config_file_comes_back(name, tmp_path):
    case, _ = PUBLISHED[name]
    config = case.ours.config_class.from_dict(dict(case.values))
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == case.values

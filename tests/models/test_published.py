"""Well-known checkpoints by their configurations, and every class: names, shapes and numbers of parameters of torch.

In the files `num_labels` stands for the names of a thousand labels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models.family import Case
from models.tiny_configs import FAMILIES, HEADS, for_cases
from models.torch_reference import untied

from flaxmodels.checkpoint.mapping import torch_headers
from interop.torch_bridge import as_saved

CONFIGS = Path(__file__).parents[1] / "fixtures" / "configs"


def published_config(name: str) -> dict[str, Any]:
    """The values of a `config.json`. Ours have the number of labels in place of their names."""
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


@for_cases(HEADS)
def test_counts_are_those_of_torch(case, model, reference):
    named = dict(reference.named_parameters())
    stored = {name for name, _ in reference.named_parameters(remove_duplicate=False)}
    # Ours are trained where transformers has buffers, but for running statistics.
    others = {name: tensor for name, tensor in reference.state_dict().items() if name not in stored}
    buffers = sum(tensor.numel() for name, tensor in others.items() if "running" not in name and "num_b" not in name)
    # transformers finds an embedding by the name under which a tied parameter comes first.
    try:
        table = reference.get_input_embeddings().weight
    except (NotImplementedError, AttributeError):  # models of audio and images have none
        table = None
    found = any(value is table and not name.startswith("lm_head") for name, value in named.items())
    for exclude in (False, True) if found else (False,):
        for trainable in (False, True):
            # Positions that torch does not train are embeddings.
            frozen = sum(each.numel() for each in named.values() if not each.requires_grad and not exclude)
            expected = reference.num_parameters(trainable, exclude) + buffers + frozen * trainable
            assert model.num_parameters(trainable, exclude) == expected
    size = model.get_memory_footprint(return_buffers=False)
    assert size == reference.get_memory_footprint(return_buffers=False) + 4 * buffers
    half = case.ours.abstract(dict(case.values), param_dtype="float16")
    assert half.get_memory_footprint(return_buffers=False) == size // 2

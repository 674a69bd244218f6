"""What the README says of the models is what the registry has."""

from __future__ import annotations

import re
from pathlib import Path

from model_table import classes, current

from flaxmodels.arguments import REFUSED
from flaxmodels.registry import ARCHITECTURES


def test_the_table_of_models_is_that_of_the_registry():
    """Its numbers are measured by `model_table.py`; parity, bytes and scans are tested model by model."""
    lines = [line.split(" | ") for line in current().splitlines()[2:]]
    listed = {line[0].strip("| `"): re.findall(r"`(\w+)`", line[1]) for line in lines}
    assert listed == {model_type: classes(model_type) for model_type in ARCHITECTURES}
    assert all(float(line[2]) <= 1e-5 for line in lines)
    assert all(line[3:5] == ["yes", "yes"] for line in lines)


def test_every_argument_that_is_refused_is_listed():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    assert [name for name in REFUSED if f"`{name}=" not in text] == []

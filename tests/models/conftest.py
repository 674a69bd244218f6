"""A model of the table and its torch counterpart with the same random parameters. Tests define `case`."""

from __future__ import annotations

import pytest
from models.torch_reference import torch_model


@pytest.fixture(scope="module")
def reference(case):
    """The torch model."""
    return torch_model(case)


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    """The checkpoint that it saved."""
    folder = tmp_path_factory.mktemp("torch")
    reference.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(case, folder):
    """That checkpoint in the model under test."""
    return case.ours.from_pretrained(folder)

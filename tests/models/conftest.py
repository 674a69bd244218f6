"""A model of the table and its torch counterpart with the same random parameters, for tests of a `case`."""

from __future__ import annotations

import pytest
from models.torch_reference import torch_model


@pytest.fixture(scope="session")
def case(request):
    """What `for_cases` gives. What is made of it is shared by all tests of the case, which follow one another."""
    return request.param


@pytest.fixture(scope="session")
def reference(case):
    """The torch model."""
    return torch_model(case)


@pytest.fixture(scope="session")
def folder(case, reference, tmp_path_factory):
    """The checkpoint that it saved."""
    folder = tmp_path_factory.mktemp("torch")
    reference.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(case, folder):
    """That checkpoint in the model under test."""
    return case.ours.from_pretrained(folder)

"""State dicts: parameters under the names and in the layout of torch's files."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flaxmodels import parameters
from flaxmodels.checkpoint.mapping import torch_view
from flaxmodels.checkpoint.params import ParamsSource
from flaxmodels.files.weights import Weights
from flaxmodels.nn.leaves import split_shared
from flaxmodels.nn.module import Module
from flaxmodels.parameters import Kind, Params
from interop import torch_bridge


def named_as_torch(model: Module, params: Params | None, source: type[ParamsSource]) -> dict[str, Any]:
    """The parameters, or `params` in their place, as that kind of source gives them; a tied one under each name.

    Raises:
        FlaxModelsError: `params` do not fit the model.
    """
    view = torch_view(model, source(parameters.values_with(model, params)))
    state = {name: view.read(name) for name in view.headers}
    aliases = {alias: state[first] for alias, first in split_shared(model)[1].items()}
    return state | aliases


def named_tensors(model: Module, kind: Kind) -> Iterator[tuple[str, np.ndarray]]:
    """Parameters of one kind under the names and in the layout of torch, one after another; each once.

    Raises:
        FlaxModelsError: the module is described but not filled.
    """
    values = parameters.values(model, kind)
    view = torch_view(model, ParamsSource(values))
    yield from ((name, view.read(name)) for name in view.headers)


def tensor_of(model: Module, target: str) -> np.ndarray:
    """The parameter or running statistic of that name in torch, in torch's layout.

    Raises:
        AttributeError: there is none.
    """
    view = torch_view(model, ParamsSource(parameters.values(model)))
    name = split_shared(model)[1].get(target, target)
    if name not in view.headers:
        close = difflib.get_close_matches(target, view.headers, n=1)
        hint = f", but {close[0]}" if close else ""
        raise AttributeError(f"{type(model).__name__} has neither a parameter nor a buffer {target!r}{hint}")
    return view.read(name)


def state_dict_weights(state_dict: Mapping[str, Any]) -> Weights:
    """A state dict of numpy, jax or torch tensors as an opened checkpoint."""
    arrays = {
        name: torch_bridge.to_numpy(value) if torch_bridge.is_tensor(value) else np.asarray(value)
        for name, value in state_dict.items()
    }
    return Weights.of_state(ParamsSource(arrays))

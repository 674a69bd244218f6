"""State dicts: parameters under the names and in the layout of torch's files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flaxmodels import parameters
from flaxmodels.checkpoint.mapping import torch_view
from flaxmodels.checkpoint.params import ParamsSource
from flaxmodels.files.weights import Weights
from flaxmodels.nn.leaves import split_shared
from flaxmodels.nn.module import Module
from flaxmodels.parameters import Params
from interop import torch_bridge


def named_as_torch(model: Module, params: Params | None, source: type[ParamsSource]) -> dict[str, Any]:
    """The parameters, or `params` in their place, as that kind of source gives them; a tied one under each name.

    Raises:
        FlaxModelsError: `params` do not fit the model.
    """
    view = torch_view(model, source(parameters.values_with(model, params)))
    state = {name: view.read(name) for name in view.headers}
    aliases = {alias: state[leaf.torch_names[0]] for alias, leaf in split_shared(model)[1].items()}
    return state | aliases


def state_dict_weights(state_dict: Mapping[str, Any]) -> Weights:
    """A state dict of numpy, jax or torch tensors as an opened checkpoint."""
    arrays = {
        name: torch_bridge.to_numpy(value) if torch_bridge.is_tensor(value) else np.asarray(value)
        for name, value in state_dict.items()
    }
    return Weights.of_state(ParamsSource(arrays))

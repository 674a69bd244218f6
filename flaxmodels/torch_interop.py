"""Live torch modules to Flax models and back, and the converters of the retired `modeling_flax_pytorch_utils`.

Also reachable as `interop.from_torch` and so on. Nothing here imports torch but `interop.torch_bridge`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx, traverse_util

from flaxmodels import parameters
from flaxmodels.checkpoint import load
from flaxmodels.checkpoint.mapping import torch_view
from flaxmodels.checkpoint.params import DeviceSource, ParamsSource
from flaxmodels.checkpoint.pretrained import describe
from flaxmodels.checkpoint.state_dict import named_as_torch
from flaxmodels.errors import ConfigError
from flaxmodels.files.weights import Weights, open_weights
from flaxmodels.model import PreTrainedModel
from flaxmodels.parameters import Params, flatten
from flaxmodels.policy import Policy, to_dtype
from flaxmodels.registry import find_class
from interop import torch_bridge


def from_torch(module: Any, *, dtype: Any = None, param_dtype: Any = None, **options: Any) -> PreTrainedModel:
    """The Flax model with the weights of a live torch module of transformers.

    Tensors whose layout is the same are shared, not copied, where both libraries use one device: a later change of
    the module in place shows. On a GPU they pass through DLPack and never through the host.

    Args:
        module: of a class that exists here under the same name, such as `BertForMaskedLM`.
        dtype: of the computation; that of the module's first parameter by default.
        param_dtype: of the stored parameters; each keeps its own by default.
        options: for the model's `Policy`.

    Raises:
        ConfigError: there is no such class here, or its configuration cannot be computed.
        CheckpointMismatch: the module lacks parameters of the model, or has others.
    """
    cls = find_class(type(module).__name__)
    if cls is None:
        raise ConfigError(f"there is no Flax class for {type(module).__name__}: see flaxmodels.architectures")
    state = _arrays(torch_bridge.as_saved(module, module.state_dict()))
    stored = next(value.dtype for value in state.values() if not np.issubdtype(value.dtype, np.integer))
    policy = Policy(to_dtype(dtype or stored), to_dtype(param_dtype or stored), **options)
    weights = Weights.of_state(DeviceSource(state))
    model = describe(cls, cls.config_class.from_any(module.config), policy, weights)
    if param_dtype is None:
        load.adopt_dtypes(model, load.plan_loading(model, weights).read_from(weights.source))
    parameters.set_values(model, flatten(convert_pytorch_state_dict_to_flax(state, model)), complete=nnx.Variable)
    return model


def to_torch(model: PreTrainedModel, module: Any = None, params: Params | None = None) -> Any:
    """The parameters as a torch state dict, or `module` filled with them.

    Tensors share memory with the parameters where torch can; `module` gets copies.

    Raises:
        FlaxModelsError: `params`, used in place of the model's own, do not fit the model.
        InteropError: the parameters do not fit `module`, or torch is not installed.
    """
    source = DeviceSource if shares_device(jax.default_backend()) else ParamsSource
    state = {name: _tensor(value) for name, value in named_as_torch(model, params, source).items()}
    if module is None:
        return state
    torch_bridge.fill(module, state)
    return module


def convert_pytorch_state_dict_to_flax(pt_state_dict: Mapping[str, Any], flax_model: PreTrainedModel) -> Params:
    """A torch state dict as a parameter tree for `flax_model`, whose own parameters are not needed.

    Raises:
        CheckpointMismatch: tensors of another shape, missing or unexpected ones; all are listed.
    """
    return _converted(Weights.of_state(DeviceSource(_arrays(pt_state_dict))), flax_model, True)


def load_pytorch_checkpoint_in_flax_state_dict(
    flax_model: PreTrainedModel,
    pytorch_checkpoint_path: str | Path,
    is_sharded: bool = False,
    allow_missing_keys: bool = False,
) -> Params:
    """A torch checkpoint file (or the index of its shards) as a parameter tree for `flax_model`.

    Raises:
        CheckpointError: the file cannot be read.
        CheckpointMismatch: tensors of another shape or, unless `allow_missing_keys`, missing or unexpected ones.
    """
    return _converted(open_weights(Path(pytorch_checkpoint_path)), flax_model, not allow_missing_keys)


def load_flax_checkpoint_in_pytorch_model(model: Any, flax_checkpoint_path: str | Path) -> Any:
    """Fill a live torch module of transformers from a file of Flax, and return it.

    Raises:
        CheckpointError: the file cannot be read.
        CheckpointMismatch: arrays of another shape, missing or unexpected ones; all are listed.
        ConfigError: there is no Flax class for the module.
    """
    return _fill_from_flax(model, open_weights(Path(flax_checkpoint_path)))


def load_flax_weights_in_pytorch_model(pt_model: Any, flax_state: Mapping[str, Any]) -> Any:
    """Fill a live torch module of transformers from a Flax parameter tree, and return it.

    Raises:
        CheckpointMismatch: arrays of another shape, missing or unexpected ones; all are listed.
        ConfigError: there is no Flax class for the module.
    """
    flat = {name: np.asarray(value) for name, value in traverse_util.flatten_dict(flax_state, sep="/").items()}
    return _fill_from_flax(pt_model, Weights.of_state(ParamsSource(flat), "flax"))


def _fill_from_flax(module: Any, weights: Weights) -> Any:
    cls = find_class(type(module).__name__)
    if cls is None:
        raise ConfigError(f"there is no Flax class for {type(module).__name__}: see flaxmodels.architectures")
    described = cls.as_submodule(module.config, Policy())
    plan = load.plan_loading(described, weights)
    load.check(plan, weights, strict=True)
    view = torch_view(described, plan.read_from(weights.source))
    torch_bridge.fill(module, {name: torch_bridge.from_numpy(view.read(name)) for name in view.headers})
    return module


def _converted(weights: Weights, model: PreTrainedModel, strict: bool) -> Params:
    plan = load.plan_loading(model, weights)
    load.check(plan, weights, strict=strict, ignore_missing=not strict)
    return traverse_util.unflatten_dict(
        load.read_leaves(plan.read_from(weights.source), parameters.shapes(model)), sep="/"
    )


def _arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray | jax.Array]:
    return {name: _array(value) for name, value in state.items()}


def _array(value: Any) -> np.ndarray | jax.Array:
    if not torch_bridge.is_tensor(value):
        return value if isinstance(value, jax.Array) else np.asarray(value)
    if shares_device(value.device.type):
        return jax.dlpack.from_dlpack(value.detach().contiguous())
    return torch_bridge.to_numpy(value)


def _tensor(array: Any) -> Any:
    if isinstance(array, jax.Array) and len(array.devices()) == 1:
        return torch_bridge.from_dlpack(array)
    return torch_bridge.from_numpy(np.asarray(array))


def shares_device(kind: str) -> bool:
    """Whether arrays on devices of that kind pass through DLPack: on a GPU, if both libraries use it.

    JAX's default backend says whether it does; nothing that is compiled depends on it.
    """
    return kind in ("cuda", "gpu") and jax.default_backend() == "gpu" and torch_bridge.has_accelerator()

"""The steps of loading and saving whole models, which join configurations, files and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from flaxmodels import parameters
from flaxmodels.checkpoint import load, save
from flaxmodels.checkpoint.hosts import process_group_of
from flaxmodels.checkpoint.mapping import optional
from flaxmodels.checkpoint.params import DeviceSource, ParamsSource
from flaxmodels.config import ModelTypeError, PreTrainedConfig, as_json
from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.files.formats import written_format
from flaxmodels.files.location import CONFIG_NAME, NOWHERE, Location, resolve
from flaxmodels.files.unsupported import without_dequantised
from flaxmodels.files.weights import Weights
from flaxmodels.parameters import Params
from flaxmodels.policy import FLOAT32, FLOAT_DTYPES, Policy
from interop.source import Source

Model = TypeVar("Model", bound=Any)


def locate(
    name_or_path: str | Path | Location | None, hub: dict[str, Any], gguf_file: str | None, has_values: bool
) -> Location:
    """Where the files of a model are; nowhere if all that is in them is given.

    Raises:
        FlaxModelsError: neither a path nor all values are given.
    """
    if isinstance(name_or_path, Location):
        return name_or_path
    if name_or_path is not None:
        return resolve(name_or_path, **hub).named(gguf_file)
    if not has_values:
        raise FlaxModelsError("from_pretrained(None) needs config= and state_dict=")
    return NOWHERE


def read_config(cls: Any, location: Location, config: Any, overrides: dict[str, Any]) -> PreTrainedConfig:
    """The configuration of a model, `config` in place of that of its files, with `overrides`.

    Raises:
        ConfigError: it is of another model, or cannot be computed.
    """
    kind = cls.config_class
    values = location.config() if config is None else config
    if not isinstance(values, dict):
        values = kind.from_any(values).to_dict()
    try:
        return kind.from_dict(without_dequantised(values), **overrides)
    except ModelTypeError as error:
        raise ConfigError(
            f"{location.root} is a model of type {error.found!r}, but {cls.__name__} loads {kind.model_type!r}: "
            "use the class of its type, or AutoModel"
        ) from None


def describe(cls: type[Model], config: PreTrainedConfig, policy: Policy, weights: Weights, *args: Any) -> Model:
    """The model without parameters, for these weights.

    transformers 5 writes `tie_word_embeddings: true` for every T5, and takes weights that differ in the file as what
    they are: not tied. So does this, and says so in `config`.
    """
    model = cls.as_submodule(config, policy, *args)
    if config.tie_word_embeddings and (untied := load.untied(model, weights)):
        load.logger.warning(
            "The configuration ties %s to another weight, but %s holds other values for it: it is not tied",
            ", ".join(untied),
            weights.path,
        )
        config.tie_word_embeddings = False
        model = cls.as_submodule(config, policy, *args)
    return model


def first_float_dtype(source: Source) -> np.dtype:
    """The first dtype in a checkpoint in which models compute; float32 if there is none."""
    return next((header.dtype for header in source.headers.values() if header.dtype.name in FLOAT_DTYPES), FLOAT32)


def read_parameters(
    model: Any,
    leaves: Source,
    shardings: Mapping[str, NamedSharding] | None,
    *,
    complete: bool,
    copy: bool,
) -> dict[str, jax.Array]:
    """The parameters by name; those that the checkpoint should have and lacks are initialised if `complete`."""
    shapes = parameters.shapes(model)
    params = load.read_leaves(leaves, shapes, shardings, copy=copy)
    if absent := (shapes.keys() if complete else optional(model)) - params.keys():
        initial = parameters.init_values(model, jax.random.key(model.seed), absent)
        params |= initial if shardings is None else {k: jax.device_put(v, shardings[k]) for k, v in initial.items()}
    return params


def save_model(
    model: Any,
    folder: Path,
    params: Mapping[str, Any] | None,
    *,
    format: str,
    max_shard_size: int | str,
    variant: str | None,
) -> None:
    """What `save_pretrained` does in a process that writes.

    Raises:
        CheckpointError, FlaxModelsError: as `save_pretrained`.
    """
    chosen = written_format(format)
    values = parameters.values_with(model, None if params is None else _as_dicts(params))
    group = process_group_of(values.values())
    leaves = DeviceSource(values) if chosen.is_tree else ParamsSource(values, before_gather=group.agree)
    stored = {"dtype" if "dtype" in vars(model.config) else "torch_dtype": _widest_dtype(values)}
    config = without_dequantised(model.config.to_dict()) | {"architectures": [type(model).__name__], **stored}
    texts = {CONFIG_NAME: as_json(config)}
    texts |= model.companion_files()
    save.save_checkpoint(
        folder, save.view_of(model, leaves, chosen), texts, chosen, max_shard_size, variant, group=group
    )


def second_argument(
    second: Any, params: Mapping[str, Any] | None, is_main_process: bool | None
) -> tuple[Mapping[str, Any] | None, bool]:
    """The parameters and whether this is the main process, from the arguments of `save_pretrained`.

    Raises:
        TypeError: `second` is neither, or given by keyword too.
    """
    if isinstance(second, Mapping):
        name, given, params = "params", params, second
    elif isinstance(second, bool):
        name, given, is_main_process = "is_main_process", is_main_process, second
    elif second is None:
        name, given = "", None
    else:
        raise TypeError(
            "save_pretrained() takes params (a mapping) or is_main_process (a bool) as its second argument, got "
            f"{type(second).__name__}: pass the others by keyword"
        )
    if given is not None:
        raise TypeError(f"save_pretrained() got {name} twice: as its second argument and by keyword")
    return params, is_main_process is None or is_main_process


def _as_dicts(params: Mapping[str, Any]) -> Params:
    """The same tree in plain dicts, which Flax takes apart; it would take other mappings for leaves."""
    return {name: _as_dicts(value) if isinstance(value, Mapping) else value for name, value in params.items()}


def _widest_dtype(values: Mapping[str, Any]) -> str:
    """Name of the dtype that holds all parameters in whose dtype models compute; float32 if there are none."""
    dtypes = {value.dtype for value in values.values() if value.dtype.name in FLOAT_DTYPES}
    return np.dtype(jnp.result_type(*dtypes or {FLOAT32})).name

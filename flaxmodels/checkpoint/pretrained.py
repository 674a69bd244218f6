"""The steps of loading and saving whole models, which join configurations, files and parameters."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
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
from flaxmodels.checkpoint.saved_model import files as saved_model_files
from flaxmodels.checkpoint.state_dict import state_dict_weights
from flaxmodels.config import ModelTypeError, PreTrainedConfig, as_json
from flaxmodels.errors import CheckpointMismatch, ConfigError, FlaxModelsError
from flaxmodels.fields import fields_of
from flaxmodels.files import remote_code
from flaxmodels.files.formats import written_format
from flaxmodels.files.location import CONFIG_NAME, NOWHERE, Location, resolve
from flaxmodels.files.process_group import ProcessGroup
from flaxmodels.files.unsupported import without_dequantised
from flaxmodels.files.weights import Weights
from flaxmodels.parameters import Params
from flaxmodels.policy import FLOAT32, FLOAT_DTYPES, Policy
from interop.errors import listed
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


def read_config(
    cls: Any, location: Location, config: Any, hub: dict[str, Any], overrides: dict[str, Any]
) -> PreTrainedConfig:
    """The configuration of a model, `config` in place of that of its files, with `overrides`.

    Raises:
        CheckpointError: `config` is a path or an id that has none.
        ConfigError: it is of another model, or cannot be computed.
    """
    kind = cls.config_class
    values = location.config() if config is None else config_values(config, hub)
    if not isinstance(values, dict):
        values = kind.from_any(values).to_dict()
    try:
        return kind.from_dict(without_dequantised(values), **overrides)
    except ModelTypeError as error:
        raise ConfigError(
            f"{location.root} is a model of type {error.found!r}, but {cls.__name__} loads {kind.model_type!r}: "
            "use the class of its type, or AutoModel"
        ) from None


def config_values(config: Any, hub: dict[str, Any]) -> Any:
    """`config` itself, or the values of the file that it is a path or an id of; `hub` are keywords for the Hub."""
    if not isinstance(config, str | os.PathLike):
        return config
    return resolve(os.fspath(config), **hub).config()


def split_options(cls: Any, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keywords that are for the constructor of a class, as no field of its configuration has their name."""
    own = inspect.signature(cls.setup).parameters.values()
    names = {parameter.name for parameter in own if parameter.kind is parameter.KEYWORD_ONLY} | {"input_shape"}
    names -= fields_of(cls.config_class).keys()
    chosen = {name: value for name, value in arguments.items() if name in names}
    return chosen, {name: value for name, value in arguments.items() if name not in names}


def name_arguments(args: tuple[Any, ...], given: Iterable[str]) -> dict[str, Any]:
    """Positional arguments after the place of a model by their names.

    These are `dtype`, if the first is one, as in the retired Flax classes; then those of the constructor after the
    configuration: `input_shape`, `seed` and `dtype`.

    Raises:
        TypeError: there are more, or one is given by keyword too.
    """
    names = ["input_shape", "seed", "dtype"]
    if args and not isinstance(args[0], tuple | list):
        names = ["dtype", "input_shape", "seed"]
    if len(args) > len(names):
        raise TypeError(f"from_pretrained() takes {', '.join(names)} by position, got {len(args)}: name the others")
    found = dict(zip(names, args, strict=False))
    if twice := found.keys() & set(given):
        raise TypeError(f"from_pretrained() got {' and '.join(sorted(twice))} twice: by position and by keyword")
    return found


def describe(cls: type[Model], config: PreTrainedConfig, policy: Policy, weights: Weights, **options: Any) -> Model:
    """The model without parameters, for these weights; `options` are those of its constructor.

    transformers 5 writes `tie_word_embeddings: true` for every T5, and takes weights that differ in the file as what
    they are: not tied. So does this, and says so in `config`.
    """
    model = cls.as_submodule(config, policy, **options)
    if config.tie_word_embeddings and (untied := load.untied(model, weights)):
        load.logger.warning(
            "The configuration ties %s to another weight, but %s holds other values for it: it is not tied",
            ", ".join(untied),
            weights.path,
        )
        config.tie_word_embeddings = False
        model = cls.as_submodule(config, policy, **options)
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
    state_dict: Mapping[str, Any] | None = None,
    save_function: Callable[[dict[str, np.ndarray], Path], object] | None = None,
    saved_model: bool = False,
    signatures: Mapping[str, Any] | None = None,
    version: int = 1,
) -> None:
    """What `save_pretrained` does in a process that writes.

    Raises:
        CheckpointError, FlaxModelsError: as `save_pretrained`.
    """
    chosen = written_format(format)
    if state_dict is None:
        values = parameters.values_with(model, None if params is None else _as_dicts(params))
        group = process_group_of(values.values())
        leaves = DeviceSource(values) if chosen.is_tree else ParamsSource(values, before_gather=group.agree)
    else:
        leaves, group = _leaves_of_state(model, state_dict), ProcessGroup()
        values = {name: leaves.read(name) for name in leaves.headers} if saved_model else {}
    written = save.view_of(model, leaves, chosen)
    texts: dict[str, str | bytes] = {CONFIG_NAME: _config_text(model, leaves)}
    texts |= remote_code.sources([type(model), type(model.config)]) | model.companion_files()
    if saved_model:
        names = save.file_names(written.headers, chosen, max_shard_size, variant)
        texts |= saved_model_files(model, values, written, chosen, names, signatures, version)
    if save_function is not None:
        chosen = save.written_by(chosen, save_function)
    save.save_checkpoint(folder, written, texts, chosen, max_shard_size, variant, group=group)


def _leaves_of_state(model: Any, state_dict: Mapping[str, Any]) -> Source:
    """The parameters in a state dict, which may lack some.

    Raises:
        CheckpointMismatch: tensors that the model does not have, or of another shape.
    """
    weights = state_dict_weights(state_dict)
    plan = load.plan_loading(model, weights)
    load.check(plan, weights, ignore_missing=True, remedy="Give tensors of the model's shapes.")
    if plan.unexpected:
        raise CheckpointMismatch(
            f"state_dict has tensors that {type(model).__name__} does not have: {listed(plan.unexpected)}. "
            "Take them out of it."
        )
    return plan.read_from(weights.source)


def _config_text(model: Any, leaves: Source) -> str:
    """The `config.json` beside these parameters."""
    stored = {dtype_key(model.config): _widest_dtype(header.dtype for header in leaves.headers.values())}
    config = without_dequantised(model.config.to_dict()) | {"architectures": [type(model).__name__], **stored}
    if own := remote_code.auto_map([type(model)]):
        config[remote_code.AUTO_MAP] = {**config.get(remote_code.AUTO_MAP, {}), **own}
    return as_json(config)


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


def record_dtype(config: PreTrainedConfig, dtype: Any) -> None:
    """Let a configuration say in what dtype parameters are stored."""
    setattr(config, dtype_key(config), np.dtype(dtype).name)


def dtype_key(config: PreTrainedConfig) -> str:
    """What a configuration calls the dtype of stored parameters: `torch_dtype` until transformers 4.56."""
    return "dtype" if "dtype" in vars(config) else "torch_dtype"


def _widest_dtype(dtypes: Iterable[np.dtype]) -> str:
    """Name of the dtype that holds all of those in which models compute; float32 if there are none."""
    floating = {dtype for dtype in dtypes if dtype.name in FLOAT_DTYPES}
    return np.dtype(jnp.result_type(*floating or {FLOAT32})).name

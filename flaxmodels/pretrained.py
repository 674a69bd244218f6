"""Loading and saving whole models: the methods of `PreTrainedModel` that join configurations, files and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from flaxmodels.arguments import check_arguments
from flaxmodels.checkpoint import load, save
from flaxmodels.checkpoint.hosts import process_group_of
from flaxmodels.checkpoint.into import load_into
from flaxmodels.checkpoint.mapping import optional, torch_view
from flaxmodels.checkpoint.params import DeviceSource, ParamsSource
from flaxmodels.config import PreTrainedConfig, as_json
from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.files.mxfp4 import plain_config
from flaxmodels.files.reading import read_json
from flaxmodels.files.resolve import CONFIG_NAME, NOWHERE, Location, Weights, renamed, resolve, split_hub_kwargs
from flaxmodels.generation.config import GENERATION_CONFIG_NAME, GenerationConfig
from flaxmodels.nn.functional import Params, functional, nest
from flaxmodels.nn.module import split_shared
from flaxmodels.nn.policy import FLOAT32, FLOAT_DTYPES, Policy, rematerialisation, to_dtype
from flaxmodels.sharding.rules import Rules, shardings
from interop import torch_bridge
from interop.source import Source


def from_pretrained(
    cls: Any,
    pretrained_model_name_or_path: str | Path | None,
    *model_args: Any,
    config: Any = None,
    state_dict: Mapping[str, Any] | None = None,
    dtype: Any = None,
    param_dtype: Any = None,
    torch_dtype: Any = None,
    attn_implementation: str = "sdpa",
    experts_implementation: str | None = None,
    scan_layers: bool = False,
    remat: str | None = None,
    gradient_checkpointing: bool | None = None,
    device_mesh: Mesh | None = None,
    sharding_rules: Rules | str = "fsdp",
    seed: int = 0,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    gguf_file: str | None = None,
    from_pt: bool = False,
    from_flax: bool = False,
    from_tf: bool = False,
    key_mapping: Mapping[str, str] | None = None,
    ignore_mismatched_sizes: bool = False,
    ignore_missing: bool = False,
    mmap: bool = True,
    output_loading_info: bool = False,
    _do_init: bool = True,
    **kwargs: Any,
) -> Any:
    """Load a model from a folder, a file of weights, or the Hub.

    The weights are read through a plan made of the file's headers and the model's description: nothing is
    initialised that the checkpoint provides, and no tensor is held twice. Nothing is written.

    On a CPU, parameters may be the file itself, mapped into memory: it must not be truncated or written to in place
    while the model is in use. Files that are replaced by others of the same name, as every save of this library does,
    are safe; for any other, pass `mmap=False`.

    Args:
        pretrained_model_name_or_path: a folder, a `.safetensors`, `.msgpack`, `.bin` or `.gguf` file, or a Hub
            id; `None` with `config` and `state_dict`. In a folder, torch-layout safetensors come first, then
            Flax safetensors, msgpack and Orbax, then `.bin`.
        config: used in place of the checkpoint's.
        state_dict: tensors in torch names and layout, used in place of the checkpoint's.
        dtype: of the computation; float32 by default, "auto" for that of the checkpoint.
        param_dtype: of the stored parameters; "auto" by default, which leaves each as the checkpoint has it.
        torch_dtype: both at once, where neither is given by itself.
        attn_implementation, experts_implementation, scan_layers, remat: as in `Policy`. The same files serve stacked
            and unrolled layers.
        gradient_checkpointing: `remat="full"` if true; what the configuration says by default.
        device_mesh: parameters are divided over its devices, and only the bytes that these hold are read.
        sharding_rules: how: "tp", "fsdp", or a table of rules as in `flaxmodels.sharding.rules.shardings`.
        seed: of parameters that the checkpoint does not have.
        variant: loads `model.{variant}.safetensors` and the like.
        use_safetensors: only safetensors if true, none if false.
        gguf_file: name of a GGUF file in the folder.
        from_pt, from_flax, from_tf: only files of that framework.
        key_mapping: from regular expressions to what replaces them in the names of the checkpoint; the first one
            that is found in a name counts.
        ignore_mismatched_sizes: re-initialise parameters whose shapes differ, instead of raising.
        ignore_missing: initialise parameters of the backbone that the checkpoint lacks, instead of raising. Those of
            heads and poolers are initialised in any case.
        mmap: if false, files are read into memory of their own.
        output_loading_info: also return missing, unexpected and mismatched keys.
        _do_init: if false, return the model without parameters, and the parameters that the checkpoint has.
        kwargs: for the Hub (`revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`, ...); then
            fields of the configuration, which override it; others are refused by name.

    Raises:
        CheckpointError: files that are absent, damaged, of an unknown kind, or not read, such as quantised ones.
        CheckpointMismatch: tensors of another shape, or of another model; all are listed.
        ConfigError: a configuration that cannot be computed, or unknown keywords.
        FlaxModelsError: arguments that exclude each other, or ask for what is not done here.
    """
    hub, overrides = split_hub_kwargs(check_arguments(kwargs))
    location = _location(pretrained_model_name_or_path, hub, gguf_file, config, state_dict)
    found = _config(cls, location, config, overrides)
    if state_dict is None:
        weights = location.weights(
            variant=variant,
            use_safetensors=use_safetensors,
            from_pt=from_pt,
            from_flax=from_flax,
            from_tf=from_tf,
            mmap=mmap,
        )
    else:
        weights = _state_dict_weights(state_dict)
    weights = renamed(weights, key_mapping or {})
    compute, stored = _dtypes(found, weights.source, dtype, param_dtype, torch_dtype)
    keeps_dtypes = (param_dtype or torch_dtype or "auto") == "auto"
    remat = rematerialisation(remat, gradient_checkpointing, found)
    policy = Policy(compute, stored, attn_implementation, scan_layers, remat, experts_implementation)
    model = describe(cls, found, policy, weights, *model_args)
    model.seed = seed
    if cls.can_generate() and (path := location.find(GENERATION_CONFIG_NAME)):
        model.generation_config = GenerationConfig.from_dict(read_json(path))
    plan = load.plan_loading(model, weights)
    load.check(plan, weights, ignore_mismatched_sizes=ignore_mismatched_sizes, ignore_missing=ignore_missing)
    leaves = plan.read_from(weights.source)
    if keeps_dtypes:
        load.adopt_dtypes(model, leaves)
    placed = None if device_mesh is None else shardings(model, device_mesh, sharding_rules)
    params = _load(model, leaves, placed, complete=_do_init, copy=state_dict is not None)
    load.report(cls.__name__, str(weights.path), plan)
    if keeps_dtypes:
        load.report_half(cls.__name__, params)
    if _do_init:
        model._fill(params, complete=nnx.Variable)
    result = (model,) if _do_init else (model, nest(params))
    result += (load.LoadingInfo.of(plan),) if output_loading_info else ()
    return result if len(result) > 1 else model


def _location(
    name_or_path: str | Path | None, hub: dict[str, Any], gguf_file: str | None, config: Any, state_dict: Any
) -> Location:
    if name_or_path is not None:
        return resolve(name_or_path, **hub).named(gguf_file)
    if config is None or state_dict is None:
        raise FlaxModelsError("from_pretrained(None) needs config= and state_dict=")
    return NOWHERE


def _dtypes(
    config: PreTrainedConfig, source: Source, dtype: Any, param_dtype: Any, torch_dtype: Any
) -> tuple[np.dtype, np.dtype]:
    """Of the computation, and of the parameters that the checkpoint does not have.

    "auto" is what the configuration names for the computation, and what the checkpoint has for the parameters.
    """
    compute, stored = dtype or torch_dtype or FLOAT32, param_dtype or torch_dtype or "auto"
    found = (header.dtype for header in source.headers.values() if header.dtype.name in FLOAT_DTYPES)
    first = next(found, FLOAT32)
    if compute == "auto":
        compute = next(filter(None, map(vars(config).get, ("dtype", "torch_dtype"))), first)
    return to_dtype(compute), first if stored == "auto" else to_dtype(stored)


def describe(cls: Any, config: PreTrainedConfig, policy: Policy, weights: Weights, *args: Any) -> Any:
    """The model without parameters, for these weights.

    transformers 5 writes `tie_word_embeddings: true` for every T5, and takes weights that differ in the file as what
    they are: not tied. So does this, and says so in `config`.
    """
    model = cls.part(config, policy, *args)
    if config.tie_word_embeddings and (apart := load.untied(model, weights)):
        load.logger.warning(
            "The configuration ties %s to another weight, but %s holds other values for it: it is not tied",
            ", ".join(apart),
            weights.path,
        )
        config.tie_word_embeddings = False
        model = cls.part(config, policy, *args)
    return model


def _config(cls: Any, location: Location, config: Any, overrides: dict[str, Any]) -> PreTrainedConfig:
    values = location.config() if config is None else config
    if not isinstance(values, dict):
        values = cls.config_class.from_any(values).to_dict()
    values = plain_config(values)
    values = cls.config_class.own_part(values)
    if (found := values.get("model_type", cls.config_class.model_type)) != cls.config_class.model_type:
        raise ConfigError(
            f"{location.root} is a model of type {found!r}, but {cls.__name__} loads "
            f"{cls.config_class.model_type!r}: use the class of its type, or AutoModel"
        )
    return cls.config_class.from_dict(values, **overrides)


def _load(
    model: Any,
    leaves: Source,
    placed: Mapping[str, NamedSharding] | None,
    *,
    complete: bool,
    copy: bool,
) -> dict[str, jax.Array]:
    """The parameters by name; those that the checkpoint should have and lacks are initialised if `complete`."""
    params = load.read_leaves(leaves, model._shapes(), placed, copy=copy)
    if absent := (set(model._shapes()) if complete else optional(model)) - set(params):
        drawn = model._draw(jax.random.key(model.seed), absent)
        params |= drawn if placed is None else {k: jax.device_put(v, placed[k]) for k, v in drawn.items()}
    return params


def save_pretrained(
    model: Any,
    save_directory: str | Path,
    params_or_is_main_process: Mapping[str, Any] | bool | None = None,
    *,
    params: Mapping[str, Any] | None = None,
    is_main_process: bool | None = None,
    max_shard_size: int | str = "5GB",
    safe_serialization: bool = True,
    variant: str | None = None,
    format: str | None = None,
) -> None:
    """Save the weights and the configuration into a folder, all at once or not at all.

    Parameters that several processes share are saved by all of them together: each calls this with the same
    arguments, and a folder that all see. If one fails, all do. A process that is killed is noticed by the others, but
    not that of number 0: without it JAX ends them.

    Of the weights of this variant that are in the folder, those go that an earlier save has written, in whatever
    format, and those that would be loaded in place of the new ones. Each is logged; other files stay. `config.json`
    records what was written.

    Args:
        save_directory: made if absent.
        params_or_is_main_process: a mapping is `params`, as in the retired Flax classes; a bool is `is_main_process`,
            as in the torch classes.
        params: saved in place of the model's own.
        is_main_process: nothing is written if false; true by default.
        max_shard_size: bytes, or "5GB", "200MB" and the like; more than that is split, with an index.
        safe_serialization: `format="torch"` if true, else `format="flax"`.
        variant: saves as `model.{variant}.safetensors` and the like.
        format: "torch", `model.safetensors` in torch names and layout, which torch tools load as it is; "flax",
            `flax_model.msgpack`; "flax-safetensors"; "orbax", the folder `flax_model.orbax`.

    Raises:
        CheckpointError: the disk is full or the folder is not writable, or another process has failed; what was there
            is unchanged. Or the folder holds what looks like an interrupted save and is none.
        FlaxModelsError: parameters that do not fit the model, an unknown format, or not a size.
        TypeError: a second argument that is neither a mapping nor a bool, or is given by keyword too.
    """
    params, is_main_process = _second_argument(params_or_is_main_process, params, is_main_process)
    if not is_main_process:
        return
    found = functional(model)
    values = dict(zip(found.paths, found.values(params), strict=True))
    model._check_shapes(values)
    chosen = save.format_named(format or ("torch" if safe_serialization else "flax"))
    group = process_group_of(values.values())
    leaves = DeviceSource(values) if chosen.is_tree else ParamsSource(values, before_gather=group.agree)
    source = chosen.view(model, leaves)
    stored = {"dtype" if "dtype" in vars(model.config) else "torch_dtype": _widest_dtype(values)}
    config = plain_config(model.config.to_dict()) | {"architectures": [type(model).__name__], **stored}
    texts = {CONFIG_NAME: as_json(config)}
    if model.generation_config.to_dict() != GenerationConfig.from_model_config(model.config).to_dict():
        texts[GENERATION_CONFIG_NAME] = model.generation_config.to_json_string()
    save.save_checkpoint(Path(save_directory), source, texts, chosen, max_shard_size, variant, group=group)


def _second_argument(
    second: Any, params: Mapping[str, Any] | None, is_main_process: bool | None
) -> tuple[Params | None, bool]:
    """The parameters and whether this is the main process, from the arguments of `save_pretrained`."""
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
    return None if params is None else _as_dicts(params), is_main_process is None or is_main_process


def _as_dicts(params: Mapping[str, Any]) -> Params:
    """The same tree in plain dicts, which JAX takes apart; it would take other mappings for leaves."""
    return {name: _as_dicts(value) if isinstance(value, Mapping) else value for name, value in params.items()}


def state_dict(model: Any, params: Params | None = None) -> dict[str, np.ndarray]:
    """The parameters under the names and in the layout of torch's files; a tied one under each of its names."""
    return named_as_torch(model, params, ParamsSource)


def named_as_torch(model: Any, params: Params | None, source: type[ParamsSource]) -> dict[str, Any]:
    """`state_dict`, of arrays as that kind of source gives them."""
    found = functional(model)
    view = torch_view(model, source(dict(zip(found.paths, found.values(params), strict=True))))
    state = {name: view.read(name) for name in view.headers}
    aliases = {alias: state[leaf.torch_names[0]] for alias, leaf in split_shared(model)[1].items()}
    return state | aliases


def load_state_dict(model: Any, state_dict: Mapping[str, Any], strict: bool = True) -> load.LoadingInfo:
    """Set parameters from the names and layout of torch's files (numpy, jax or torch tensors).

    Raises:
        CheckpointMismatch: tensors of another shape, or, if `strict`, missing or unexpected ones.
    """
    return load_into(model, _state_dict_weights(state_dict), strict)


def _widest_dtype(values: Mapping[str, Any]) -> str:
    """Of the parameters that have one in which models compute; float32 if none has."""
    dtypes = {value.dtype for value in values.values() if value.dtype.name in FLOAT_DTYPES}
    return np.dtype(jnp.result_type(*dtypes or {FLOAT32})).name


def _state_dict_weights(state_dict: Mapping[str, Any]) -> Weights:
    arrays = {
        name: torch_bridge.to_numpy(value) if torch_bridge.is_tensor(value) else np.asarray(value)
        for name, value in state_dict.items()
    }
    return Weights.of_state(ParamsSource(arrays))

"""Loading and saving of whole models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from flaxmodels import parameters
from flaxmodels.arguments import check_arguments
from flaxmodels.capability import Capability
from flaxmodels.checkpoint import load
from flaxmodels.checkpoint.load_into import load_flax_sharded_weights, load_flax_weights, load_into
from flaxmodels.checkpoint.params import ParamsSource
from flaxmodels.checkpoint.pretrained import (
    describe,
    first_float_dtype,
    locate,
    read_config,
    read_parameters,
    save_model,
    second_argument,
)
from flaxmodels.checkpoint.state_dict import named_as_torch, state_dict_weights
from flaxmodels.files.location import Location, split_hub_kwargs
from flaxmodels.files.weights import find_weights, renamed
from flaxmodels.parameters import Params, nest
from flaxmodels.policy import Policy, keeps_dtypes, split_policy_arguments
from flaxmodels.sharding.rules import Rules, shardings


class CheckpointMixin(Capability):
    """Loads a model from a checkpoint and saves it as one."""

    seed: int

    # The last one takes any keywords, for dicts of them that are unpacked; the others are for keywords as written.
    @overload
    @classmethod
    def from_pretrained(  # pyright: ignore[reportOverlappingOverload]
        cls,
        pretrained_model_name_or_path: str | Path | Location | None,
        *model_args: Any,
        output_loading_info: Literal[True],
        _do_init: Literal[False],
        **kwargs: Any,
    ) -> tuple[Self, Params, load.LoadingInfo]: ...

    @overload
    @classmethod
    def from_pretrained(  # pyright: ignore[reportOverlappingOverload]
        cls,
        pretrained_model_name_or_path: str | Path | Location | None,
        *model_args: Any,
        output_loading_info: Literal[True],
        _do_init: Literal[True] = True,
        **kwargs: Any,
    ) -> tuple[Self, load.LoadingInfo]: ...

    @overload
    @classmethod
    def from_pretrained(  # pyright: ignore[reportOverlappingOverload]
        cls,
        pretrained_model_name_or_path: str | Path | Location | None,
        *model_args: Any,
        _do_init: Literal[False],
        output_loading_info: Literal[False] = False,
        **kwargs: Any,
    ) -> tuple[Self, Params]: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | Location | None,
        *model_args: Any,
        **kwargs: Any,
    ) -> Self: ...

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | Location | None,
        *model_args: Any,
        config: Any = None,
        state_dict: Mapping[str, Any] | None = None,
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
        while the model is in use. Files that are replaced by others of the same name, as every save of this library
        does, are safe; for any other, pass `mmap=False`.

        Args:
            pretrained_model_name_or_path: a folder, a `.safetensors`, `.msgpack`, `.bin` or `.gguf` file, or a Hub
                id; `None` with `config` and `state_dict`. In a folder, torch-layout safetensors come first, then
                Flax safetensors, msgpack and Orbax, then `.bin`.
            config: used in place of the checkpoint's.
            state_dict: tensors in torch names and layout, used in place of the checkpoint's.
            device_mesh: parameters are sharded over its devices, and only the bytes that these hold are read.
            sharding_rules: how: "tp", "fsdp", or a table of rules as in `flaxmodels.sharding.rules.shardings`.
            seed: of parameters that the checkpoint does not have.
            variant: loads `model.{variant}.safetensors` and the like.
            use_safetensors: only safetensors if true, none if false.
            gguf_file: name of a GGUF file in the folder.
            from_pt, from_flax, from_tf: only files of that framework.
            key_mapping: from regular expressions to what replaces them in the names of the checkpoint; the first one
                that is found in a name counts.
            ignore_mismatched_sizes: re-initialise parameters whose shapes differ, instead of raising.
            ignore_missing: initialise parameters of the backbone that the checkpoint lacks, instead of raising. Those
                of heads and poolers are initialised in any case.
            mmap: if false, files are read into memory of their own.
            output_loading_info: also return missing, unexpected and mismatched keys.
            _do_init: if false, return the model without parameters, and the parameters that the checkpoint has.
            kwargs: `dtype`, `param_dtype`, `torch_dtype`, `attn_implementation`, `experts_implementation`,
                `scan_layers`, `remat` and `gradient_checkpointing`, as in `flaxmodels.policy.Policy.from_arguments`;
                the same files serve stacked and unrolled layers. Then keywords of the Hub (`revision`, `token`,
                `cache_dir`, `local_files_only`, `subfolder`, ...), and fields of the configuration, which override
                it; others are refused by name.

        Returns:
            The model; in a tuple with what `_do_init=False` and `output_loading_info=True` add.

        Raises:
            CheckpointError: files that are absent, damaged, of an unknown kind, or not read, such as quantised ones.
            CheckpointMismatch: tensors of another shape, or of another model; all are listed.
            ConfigError: a configuration that cannot be computed, or unknown keywords.
            FlaxModelsError: arguments that exclude each other, or ask for what is not done here.
        """
        choices, others = split_policy_arguments(kwargs)
        hub, overrides = split_hub_kwargs(check_arguments(others))
        has_values = config is not None and state_dict is not None
        location = locate(pretrained_model_name_or_path, hub, gguf_file, has_values)
        found = read_config(cls, location, config, overrides)
        if state_dict is None:
            weights = find_weights(
                location,
                variant=variant,
                use_safetensors=use_safetensors,
                from_pt=from_pt,
                from_flax=from_flax,
                from_tf=from_tf,
                mmap=mmap,
            )
        else:
            weights = state_dict_weights(state_dict)
        weights = renamed(weights, key_mapping or {})
        policy = Policy.from_arguments(found, first_float_dtype(weights.source), **choices)
        model = describe(cls, found, policy, weights, *model_args)
        model.seed = seed
        model.read_companion_files(location.find)
        plan = load.plan_loading(model, weights)
        load.check(plan, weights, ignore_mismatched_sizes=ignore_mismatched_sizes, ignore_missing=ignore_missing)
        leaves = plan.read_from(weights.source)
        if keeps_dtypes(choices):
            load.adopt_dtypes(model, leaves)
        placement = None if device_mesh is None else shardings(model, device_mesh, sharding_rules)
        params = read_parameters(model, leaves, placement, complete=_do_init, copy=state_dict is not None)
        load.report(cls.__name__, str(weights.path), plan)
        if keeps_dtypes(choices):
            load.report_half(cls.__name__, params)
        if _do_init:
            parameters.set_values(model, params, complete=nnx.Variable)
        result = (model,) if _do_init else (model, nest(params))
        result += (load.LoadingInfo.of(plan),) if output_loading_info else ()
        return result if len(result) > 1 else model

    def save_pretrained(
        self,
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
        arguments, and a folder that all see. If one fails, all do. A process that is killed is noticed by the others,
        but not that of number 0: without it JAX ends them.

        Of the weights of this variant that are in the folder, those go that an earlier save has written, in whatever
        format, and those that would be loaded in place of the new ones. Each is logged; other files stay. `config.json`
        records what was written.

        Args:
            save_directory: made if absent.
            params_or_is_main_process: a mapping is `params`, as in the retired Flax classes; a bool is
                `is_main_process`, as in the torch classes.
            params: saved in place of the model's own.
            is_main_process: nothing is written if false; true by default.
            max_shard_size: bytes, or "5GB", "200MB" and the like; more than that is split, with an index.
            safe_serialization: `format="torch"` if true, else `format="flax"`.
            variant: saves as `model.{variant}.safetensors` and the like.
            format: "torch", `model.safetensors` in torch names and layout, which torch tools load as it is; "flax",
                `flax_model.msgpack`; "flax-safetensors"; "orbax", the folder `flax_model.orbax`.

        Raises:
            CheckpointError: the disk is full or the folder is not writable, or another process has failed; what was
                there is unchanged. Or the folder holds what looks like an interrupted save and is none.
            FlaxModelsError: parameters that do not fit the model, an unknown format, or not a size.
            TypeError: a second argument that is neither a mapping nor a bool, or is given by keyword too.
        """
        params, is_main_process = second_argument(params_or_is_main_process, params, is_main_process)
        if is_main_process:
            save_model(
                self,
                Path(save_directory),
                params,
                format=format or ("torch" if safe_serialization else "flax"),
                max_shard_size=max_shard_size,
                variant=variant,
            )

    def state_dict(self, params: Params | None = None) -> dict[str, np.ndarray]:
        """The parameters under the names and in the layout of torch's files; a tied one under each of its names.

        Raises:
            FlaxModelsError: `params`, used in place of the model's own, do not fit the model.
        """
        return named_as_torch(self, params, ParamsSource)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> load.LoadingInfo:
        """Set parameters from the names and layout of torch's files (numpy, jax or torch tensors).

        Raises:
            CheckpointMismatch: tensors of another shape, or, if `strict`, missing or unexpected ones.
        """
        return load_into(self, state_dict_weights(state_dict), strict)

    load_flax_weights = staticmethod(load_flax_weights)
    load_flax_sharded_weights = staticmethod(load_flax_sharded_weights)

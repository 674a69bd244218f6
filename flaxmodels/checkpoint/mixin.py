"""Loading and saving of whole models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, overload

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from flaxmodels import parameters
from flaxmodels.arguments import check_arguments
from flaxmodels.capability import Capability
from flaxmodels.checkpoint import load
from flaxmodels.checkpoint.load_into import load_flax_sharded_weights, load_flax_weights, load_into, load_tf_weights
from flaxmodels.checkpoint.params import ParamsSource
from flaxmodels.checkpoint.pretrained import (
    describe,
    first_float_dtype,
    locate,
    name_arguments,
    read_config,
    read_parameters,
    record_dtype,
    save_model,
    second_argument,
    split_options,
)
from flaxmodels.checkpoint.saved_model import plain
from flaxmodels.checkpoint.state_dict import named_as_torch, named_tensors, state_dict_weights, tensor_of
from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution.implementations import set_parts
from flaxmodels.files import remote_code
from flaxmodels.files.location import Location
from flaxmodels.files.repository import split_hub_kwargs
from flaxmodels.files.weights import find_weights, renamed
from flaxmodels.parameters import Params, nest
from flaxmodels.policy import Policy, keeps_dtypes, split_policy_arguments
from flaxmodels.sharding.rules import Rules, shardings
from flaxmodels.tasks import TASKS


class CheckpointMixin(Capability):
    """Loads a model from a checkpoint and saves it as one.

    Attributes:
        _supports_assign_param_buffer: whether parameters may be the arrays that were read, which on a CPU may be the
            mapped file. A model class that changes values in place on the host sets it to false, and has copies.
    """

    _supports_assign_param_buffer: ClassVar[bool] = True
    seed: int
    loaded_from: str | None
    _auto_class: ClassVar[str | None] = None
    """The `Auto...` class that a class of a user's own is registered for."""

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
            model_args: `dtype`, if the first is one, then `input_shape` and `seed`, as in the retired Flax classes.
            config: used in place of the checkpoint's: a configuration, a mapping, or the path or id of one.
            state_dict: tensors in torch names and layout, used in place of the checkpoint's.
            device_mesh: parameters are sharded over its devices, and only the bytes that these hold are read.
            sharding_rules: how: "tp", "fsdp", or a table of rules as in `flaxmodels.sharding.rules.shardings`.
            seed: of parameters that the checkpoint does not have.
            variant: loads `model.{variant}.safetensors` and the like; with `from_flax` and `from_tf` also files that
                have none.
            use_safetensors: only safetensors if true, none if false.
            gguf_file: name of a GGUF file in the folder.
            from_pt, from_flax, from_tf: only files of that framework.
            key_mapping: from regular expressions to what replaces them in the names of the checkpoint; the first one
                that is found in a name counts.
            ignore_mismatched_sizes: re-initialise parameters whose shapes differ, instead of raising.
            ignore_missing: initialise parameters of the backbone that the checkpoint lacks, instead of raising. Those
                of heads and poolers are initialised in any case.
            mmap: if false, files are read into memory of their own.
            output_loading_info: also return missing, unexpected and mismatched keys, as a `LoadingInfo`.
            _do_init: if false, return the model without parameters, and the parameters that the checkpoint has.
            kwargs: `dtype`, `param_dtype`, `torch_dtype`, `attn_implementation`, `experts_implementation`,
                `scan_layers`, `remat` and `gradient_checkpointing`, as in `flaxmodels.policy.Policy.from_arguments`;
                the same files serve stacked and unrolled layers. Then keywords of the Hub (`revision`, `token`,
                `cache_dir`, `local_files_only`, `subfolder`, ...), fields of the configuration, which override it, and
                arguments of the constructor, such as `add_pooling_layer`; others are refused by name. `torch_dtype`
                is recorded in the configuration.

        Returns:
            The model; in a tuple with what `_do_init=False` and `output_loading_info=True` add.

        Raises:
            CheckpointNotFound: a path, a repository, a revision or files that are not there; also an `OSError`.
            HubError: a repository that the user may not see, or a download that fails; also an `OSError`.
            CheckpointError: files that are damaged, of an unknown kind, or not read, such as quantised ones.
            CheckpointMismatch: tensors of another shape, or of another model; all are listed.
            ConfigError: a configuration that cannot be computed, or unknown keywords.
            FlaxModelsError: arguments that exclude each other, or ask for what is not done here.
            TypeError: a positional argument too many, or one that is given by keyword too.
        """
        kwargs = name_arguments(model_args, kwargs) | kwargs
        seed = kwargs.pop("seed", seed)
        choices, others = split_policy_arguments(kwargs)
        options, others = split_options(cls, others)
        hub, overrides = split_hub_kwargs(check_arguments(others))
        has_values = config is not None and state_dict is not None
        location = locate(pretrained_model_name_or_path, hub, gguf_file, has_values)
        found = read_config(cls, location, config, hub, overrides)
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
        if choices.get("torch_dtype") is not None:
            record_dtype(found, policy.param_dtype)
        model = describe(cls, found, policy, weights, **options)
        set_parts(model, choices)
        model.seed, model.loaded_from = seed, location.repository and location.root
        model.read_companion_files(location.find)
        plan = load.plan_loading(model, weights)
        load.check(plan, weights, ignore_mismatched_sizes=ignore_mismatched_sizes, ignore_missing=ignore_missing)
        leaves = plan.read_from(weights.source)
        if keeps_dtypes(choices):
            load.adopt_dtypes(model, leaves)
        placement = None if device_mesh is None else shardings(model, device_mesh, sharding_rules)
        copy = state_dict is not None or not cls._supports_assign_param_buffer
        params = read_parameters(model, leaves, placement, complete=_do_init, copy=copy)
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
        state_dict: Mapping[str, Any] | None = None,
        save_function: Callable[[dict[str, np.ndarray], Path], object] | None = None,
        save_peft_format: bool = True,
        save_original_format: bool = True,
        saved_model: bool = False,
        signatures: Mapping[str, Any] | None = None,
        version: int = 1,
        push_to_hub: bool = False,
        token: bool | str | None = None,
        **kwargs: Any,
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
            state_dict: tensors in torch names and layout, saved in place of the model's own, in their dtypes; it may
                lack some.
            save_function: writes each file of weights in place of the format's own writer. It is given tensors by name,
                as numpy arrays, and the path.
            save_peft_format: how names of adapters are written, which no model has.
            save_original_format: must be true: tensors have the names that files of the architecture always had.
            saved_model: also export the forward pass: `saved_model-1-serving_default.stablehlo` and the like, which
                `load_saved_model.py` beside them runs on a CPU, a GPU or a TPU without the code of the model.
            signatures: what is exported: by name a dict of the inputs, each a `jax.ShapeDtypeStruct`, or its shape and
                dtype, or a boolean that is compiled into the program; sizes may be names. One such dict is
                "serving_default". By default the main input, its mask and that of a decoder, of any batch and length.
            version: the number in the names of what is exported.
            push_to_hub: also push what was written to the Hub, into the repository `repo_id` or one named like the
                folder.
            token: for the Hub; by default that of `hf auth login`.
            kwargs: further arguments of `push_to_hub`.

        Raises:
            CheckpointMismatch: a `state_dict` with tensors that the model does not have, or of another shape.
            CheckpointError: the disk is full or the folder is not writable, or another process has failed; what was
                there is unchanged. Or the folder holds what looks like an interrupted save and is none.
            HubError: the Hub refuses the push or cannot be reached; the folder is saved nevertheless, unless the
                repository cannot be made.
            FlaxModelsError: parameters that do not fit the model, an unknown format, or not a size.
            TypeError: a second argument that is neither a mapping nor a bool, or is given by keyword too; or an unknown
                argument.
        """
        params, is_main_process = second_argument(params_or_is_main_process, params, is_main_process)
        if params is not None and state_dict is not None:
            raise TypeError("save_pretrained() got params and state_dict, which both are what is saved: give one")
        if not save_original_format:
            raise FlaxModelsError(
                "save_original_format=False is not done: files have the names that all versions of torch's classes read"
            )
        folder = Path(save_directory)
        if is_main_process:
            with self.pushing(folder, push_to_hub, {**kwargs, "token": token}):
                save_model(
                    self,
                    folder,
                    params,
                    format=format or ("torch" if safe_serialization else "flax"),
                    max_shard_size=max_shard_size,
                    variant=variant,
                    state_dict=state_dict,
                    save_function=save_function,
                    saved_model=saved_model,
                    signatures=signatures,
                    version=version,
                )

    def serving_output(self, output: Any) -> Any:
        """What the exported program returns of an output of `forward`: dicts of arrays, and tuples of these.

        It may be overridden.
        """
        return plain(output)

    @classmethod
    def register_for_auto_class(cls, auto_class: str | type = "AutoModel") -> None:
        """Save the source of this class, which is of a user's own, with each of its models.

        `from_pretrained` of the `Auto...` class then finds it there with `trust_remote_code=True`, which runs it. The
        configuration's class is registered by itself.

        Args:
            auto_class: the class or its name; those with "Flax" or "TF" before it are the same.

        Raises:
            FlaxModelsError: it is none, or this class is of the library.
        """
        expected = ["AutoModel", *(f"AutoModelFor{task}" for task in TASKS)]
        cls._auto_class = remote_code.registered(cls, auto_class, expected)

    def state_dict(self, params: Params | None = None) -> dict[str, np.ndarray]:
        """The parameters under the names and in the layout of torch's files; a tied one under each of its names.

        Raises:
            FlaxModelsError: `params`, used in place of the model's own, do not fit the model.
        """
        return named_as_torch(self, params, ParamsSource)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> load.IncompatibleKeys:
        """Set parameters from the names and layout of torch's files (numpy, jax or torch tensors).

        Raises:
            CheckpointMismatch: tensors of another shape, or, if `strict`, missing or unexpected ones.
        """
        return load_into(self, state_dict_weights(state_dict), strict)

    def get_parameter_or_buffer(self, target: str) -> np.ndarray:
        """The parameter or running statistic that torch calls `target`, in torch's layout; a tied one by each name.

        Raises:
            AttributeError: there is none of that name.
            FlaxModelsError: the model is described but not filled.
        """
        return tensor_of(self, target)

    def named_parameters(self) -> Iterator[tuple[str, np.ndarray]]:
        """The parameters under the names and in the layout of torch, one after another; each once.

        Raises:
            FlaxModelsError: the model is described but not filled.
        """
        return named_tensors(self, nnx.Param)

    def parameters(self) -> Iterator[np.ndarray]:
        """The arrays of `named_parameters`."""
        return (array for _, array in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, np.ndarray]]:
        """The running statistics of batch norms under the names of torch; they are saved. There are no other buffers:
        positions, rotations and masks are computed.
        """
        return named_tensors(self, nnx.BatchStat)

    def buffers(self) -> Iterator[np.ndarray]:
        """The arrays of `named_buffers`."""
        return (array for _, array in self.named_buffers())

    def named_non_persistent_buffers(
        self, recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Buffers that are not saved: there are none. What torch keeps in them, such as `inv_freq` and `position_ids`,
        is computed from the configuration in each call, so that nothing has to be moved, cast or initialised.
        """
        return iter(())

    load_tf_weights = staticmethod(load_tf_weights)
    load_flax_weights = staticmethod(load_flax_weights)
    load_flax_sharded_weights = staticmethod(load_flax_sharded_weights)

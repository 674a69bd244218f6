"""`PreTrainedModel`: what every model can do. Each method hands its work to the package that it belongs to."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding

from flaxmodels.checkpoint import load, save
from flaxmodels.checkpoint.hosts import crew_of
from flaxmodels.checkpoint.into import load_flax_sharded_weights, load_flax_weights, load_into
from flaxmodels.checkpoint.mapping import torch_view
from flaxmodels.checkpoint.params import DeviceSource, ParamsSource
from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.files.reading import read_json
from flaxmodels.files.resolve import CONFIG_NAME, Location, Weights, renamed, resolve, split_hub_kwargs
from flaxmodels.generation.call import can_generate, generate
from flaxmodels.generation.config import GENERATION_CONFIG_NAME, GenerationConfig
from flaxmodels.nn.call import call
from flaxmodels.nn.dropout import split_key
from flaxmodels.nn.functional import check_keys, functional
from flaxmodels.nn.linear import Embedding
from flaxmodels.nn.module import Module, initial_value, split_shared
from flaxmodels.nn.policy import Policy, to_dtype
from flaxmodels.outputs import ModelOutput
from flaxmodels.sharding.rules import Rules, shardings
from interop import torch_bridge
from interop.source import Source

Params = dict[str, Any]
"""Nested dict with string keys and arrays as leaves."""


class PreTrainedModel(Module):
    """Base of all models: an NNX module that holds its parameters, and can be called as a function of any others.

    A subclass sets the class attributes and defines `build`; a base model also defines `forward`, a model with a
    task head defines `head`.

    Attributes:
        config_class: its configuration class.
        base_model_prefix: name of the base model inside a model with a head, and in checkpoints of such models.
        main_input_name: name of the first input.
        tp_plan: how tensor parallelism divides the layers, as `flaxmodels.sharding.rules.tensor_parallel` reads it.
        ignored_names: regular expressions for tensors that torch checkpoints have and that are not parameters.
        config, policy: what is computed, and how.
        generation_config: settings of `generate` where a call gives none.
    """

    config_class: ClassVar[type[PreTrainedConfig]] = PreTrainedConfig
    base_model_prefix: ClassVar[str] = ""
    tp_plan: ClassVar[Mapping[str, str]] = {}
    main_input_name: ClassVar[str] = "input_ids"
    ignored_names: ClassVar[tuple[str, ...]] = ()
    framework: ClassVar[str] = "flax"

    config: PreTrainedConfig
    policy: Policy

    def __init__(
        self,
        config: Any,
        input_shape: tuple[int, ...] = (1, 1),
        seed: int = 0,
        dtype: Any = "float32",
        _do_init: bool = True,
        *,
        param_dtype: Any = "float32",
        attn_implementation: str = "sdpa",
        scan_layers: bool = False,
        remat: str | None = None,
        policy: Policy | None = None,
        **options: Any,
    ):
        """Build the model, and draw its parameters from `seed` unless `_do_init=False`.

        Args:
            config: of this model's `config_class`, a mapping, or a transformers configuration object.
            input_shape: accepted for scripts written for the retired Flax classes; no input is needed here.
            seed: of the initialisation.
            dtype: of the computation, as a string or a jnp, numpy or torch dtype.
            param_dtype: of the stored parameters.
            attn_implementation, scan_layers, remat: as in `Policy`.
            policy: the last five in one object, in their place.
            options: for `build`.
        """
        self.config = self.config_class.from_any(config)
        self.generation_config = GenerationConfig.from_model_config(self.config)
        self.policy = policy or Policy(to_dtype(dtype), to_dtype(param_dtype), attn_implementation, scan_layers, remat)
        self.seed = seed
        self.build(self.config, self.policy, **options)
        if _do_init:
            self._fill(self._draw(jax.random.key(seed), self._shapes()), complete=True)

    @classmethod
    def part(cls, config: Any, policy: Policy, **options: Any) -> Self:
        """This model as a part of a larger one: described, not initialised."""
        return cls(config, _do_init=False, policy=policy, **options)

    @classmethod
    def abstract(cls, config: Any, **kwargs: Any) -> Self:
        """The model with the shapes and dtypes of its parameters in place of values. Takes no memory."""
        return cls(config, _do_init=False, **kwargs)

    def build(self, config: Any, policy: Policy) -> None:
        """Make the submodules."""
        raise NotImplementedError(f"{type(self).__name__} does not define build()")

    # ---- calling

    def __call__(
        self,
        *args: Any,
        params: Params | None = None,
        dropout_rng: jax.Array | None = None,
        train: bool = False,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the forward pass: compiled once a signature, or as a part of the computation that is being traced.

        Args:
            args, kwargs: the inputs of `forward`. Arrays may be numpy, jax or nested lists.
            params: used in place of the model's own.
            dropout_rng: key for dropout, which takes place only with `train=True`.
            train: whether dropout takes place.
            return_dict: a tuple is returned if false.

        Returns:
            The output of `forward`, a pytree that is read by attribute, by key, or like a tuple.
        """
        if train and dropout_rng is None:
            raise FlaxModelsError("train=True needs dropout_rng=, a key such as jax.random.key(0)")
        inputs = self._inputs(args, kwargs)
        outputs = call(self, inputs, params, dropout_rng if train else None)
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return outputs if wants_dict else outputs.to_tuple()

    def forward(self, *, dropout_rng: jax.Array | None = None, **inputs: Any) -> Any:
        """Run the base model, then the head. Takes the inputs of the base model's `forward`."""
        base_key, head_key = split_key(dropout_rng, 2)
        outputs = self.base_model.forward(dropout_rng=base_key, **inputs)
        return self.head(outputs, inputs, head_key)

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> ModelOutput:
        """The task's output from the base model's."""
        raise NotImplementedError(f"{type(self).__name__} defines neither forward() nor head()")

    def _inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        signature = inspect.signature(self.base_model.forward)
        try:
            inputs = signature.bind_partial(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}; it takes {', '.join(signature.parameters)}") from None
        for name in ("output_attentions", "output_hidden_states"):
            if inputs.get(name) is None and name in signature.parameters:
                inputs[name] = bool(getattr(self.config, name))
        return {name: value for name, value in inputs.items() if value is not None}

    @property
    def base_model(self) -> PreTrainedModel:
        """The model without its head; itself if it has none."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def module(self) -> Self:
        """The model itself, which is the Flax module."""
        return self

    # ---- generation

    can_generate = classmethod(can_generate)
    generate = generate

    # ---- parameters

    @property
    def params(self) -> Params:
        """The parameters as a nested dict with string keys: for `jax.grad`, optax and `TrainState`."""
        found = functional(self)
        return _nest(dict(zip(found.paths, found.values(), strict=True)))

    @params.setter
    def params(self, params: Mapping[str, Any]) -> None:
        """Set all parameters; keys and shapes must be the model's own."""
        self._fill(_flatten(params), complete=True)

    @property
    def params_shape_tree(self) -> Params:
        """The parameters' shapes and dtypes, as a nested dict of `jax.ShapeDtypeStruct`."""
        return _nest(self._shapes())

    @property
    def required_params(self) -> set[tuple[str, ...]]:
        """The paths of all parameters."""
        return {tuple(name.split("/")) for name in self._shapes()}

    def _shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        leaves, _ = split_shared(self)
        values = ((leaf.name, leaf.variable.get_raw_value()) for leaf in leaves)
        return {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in values}

    def _fill(self, values: Mapping[str, Any], *, complete: bool) -> None:
        if complete:
            check_keys(values, self._shapes())
        self._check_shapes(values)
        for leaf in split_shared(self)[0]:
            if leaf.name in values:
                value = values[leaf.name]
                leaf.variable.set_value(value if isinstance(value, jax.Array) else jnp.asarray(value))

    def _check_shapes(self, values: Mapping[str, Any]) -> None:
        shapes = self._shapes()
        wrong = [
            f"  ! {name}: given {np.shape(value)}, model {shapes[name].shape}"
            for name, value in values.items()
            if np.shape(value) != shapes[name].shape
        ]
        if wrong:
            raise FlaxModelsError("the parameters do not fit the model:\n" + "\n".join(wrong))

    def init_weights(
        self, rng: jax.Array, input_shape: tuple[int, ...] = (1, 1), params: Mapping[str, Any] | None = None
    ) -> Params:
        """Fill the parameters, drawing from `rng` those that `params` does not give, and return them all.

        Each value depends on the key and on the parameter's path in the base model alone, so that the same key gives
        the same encoder with and without a head. `input_shape` is accepted for older scripts.
        """
        given = _flatten(params or {})
        check_keys({**self._shapes(), **given}, self._shapes())
        self._fill(given | self._draw(rng, set(self._shapes()) - set(given)), complete=True)
        return self.params

    def _draw(self, rng: jax.Array, names: Iterable[str]) -> dict[str, jax.Array]:
        wanted = set(names)
        own = self.base_model_prefix
        return {
            leaf.name: initial_value(leaf, rng, [path[path[0] == own :] for path in leaf.paths])
            for leaf in split_shared(self)[0]
            if leaf.name in wanted
        }

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of parameters, without those of `Embedding`s on request; shared ones count once. All are trainable."""
        return sum(
            int(np.prod(leaf.variable.get_raw_value().shape))
            for leaf in split_shared(self)[0]
            if not (exclude_embeddings and isinstance(leaf.owner, Embedding))
        )

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes that the parameters take. There are no buffers, so `return_buffers` changes nothing."""
        return sum(int(np.prod(s.shape)) * s.dtype.itemsize for s in self._shapes().values())

    def get_input_embeddings(self) -> Any:
        """The module that embeds the input."""
        return self.base_model.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        """Put another module in the place of the one that embeds the input."""
        self.base_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> Any:
        """The module that projects to the vocabulary, or `None`."""
        return None

    # ---- precision

    def to_bf16(self, params: Params | None = None, mask: Any = None) -> Params:
        """`params` (the model's own by default) with floating leaves in bfloat16, where `mask` is true if given."""
        return self._cast(params, mask, jnp.bfloat16)

    def to_fp16(self, params: Params | None = None, mask: Any = None) -> Params:
        """`params` (the model's own by default) with floating leaves in float16, where `mask` is true if given."""
        return self._cast(params, mask, jnp.float16)

    def to_fp32(self, params: Params | None = None, mask: Any = None) -> Params:
        """`params` (the model's own by default) with floating leaves in float32, where `mask` is true if given."""
        return self._cast(params, mask, jnp.float32)

    def _cast(self, params: Params | None, mask: Any, dtype: Any) -> Params:
        values = _flatten(self.params if params is None else params)
        chosen = dict.fromkeys(values, True) if mask is None else _flatten(mask)
        check_keys(chosen, values)
        return _nest(
            {
                name: jnp.asarray(value, dtype) if chosen[name] and jnp.issubdtype(value.dtype, jnp.floating) else value
                for name, value in values.items()
            }
        )

    # ---- loading

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None,
        *model_args: Any,
        config: Any = None,
        state_dict: Mapping[str, Any] | None = None,
        dtype: Any = None,
        param_dtype: Any = None,
        torch_dtype: Any = None,
        attn_implementation: str = "sdpa",
        scan_layers: bool = False,
        remat: str | None = None,
        device_mesh: Mesh | None = None,
        sharding_rules: Rules | str = "fsdp",
        seed: int = 0,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        gguf_file: str | None = None,
        from_pt: bool = False,
        from_flax: bool = False,
        key_mapping: Mapping[str, str] | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        _do_init: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Load a model from a folder, a file of weights, or the Hub.

        The weights are read through a plan made of the file's headers and the model's description: nothing is
        initialised that the checkpoint provides, and no tensor is held twice.

        Args:
            pretrained_model_name_or_path: a folder, a `.safetensors`, `.msgpack`, `.bin` or `.gguf` file, or a Hub
                id; `None` with `config` and `state_dict`. In a folder, torch-layout safetensors come first, then
                Flax safetensors, msgpack and Orbax, then `.bin`.
            config: used in place of the checkpoint's.
            state_dict: tensors in torch names and layout, used in place of the checkpoint's.
            dtype: of the computation; float32 by default, "auto" for that of the checkpoint.
            param_dtype: of the stored parameters, likewise.
            torch_dtype: both at once.
            attn_implementation, scan_layers, remat: as in `Policy`. The same files serve stacked and unrolled layers.
            device_mesh: parameters are divided over its devices, and only the bytes that these hold are read.
            sharding_rules: how: "tp", "fsdp", or a table of rules as in `flaxmodels.sharding.rules.shardings`.
            seed: of parameters that the checkpoint does not have.
            variant: loads `model.{variant}.safetensors` and the like.
            use_safetensors: only safetensors if true, none if false.
            gguf_file: name of a GGUF file in the folder.
            from_pt: accepted for older scripts; the layout of a file is recognised.
            from_flax: reads only files of Flax.
            key_mapping: from regular expressions to what replaces them in the names of the checkpoint; the first one
                that is found in a name counts.
            ignore_mismatched_sizes: re-initialise parameters whose shapes differ, instead of raising.
            output_loading_info: also return missing, unexpected and mismatched keys.
            _do_init: if false, return the model without parameters, and the parameters that the checkpoint has.
            kwargs: for the Hub (`revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`, ...); then
                fields of the configuration, which override it; others are refused by name.

        Raises:
            CheckpointError: files that are absent, damaged or of an unknown kind.
            CheckpointMismatch: tensors of another shape, or of another model; all are listed.
            ConfigError: a configuration that cannot be computed, or unknown keywords.
        """
        hub, overrides = split_hub_kwargs(kwargs)
        if pretrained_model_name_or_path is None:
            if config is None or state_dict is None:
                raise FlaxModelsError("from_pretrained(None) needs config= and state_dict=")
            location = Location(".", True)
        else:
            location = resolve(pretrained_model_name_or_path, **hub).named(gguf_file)
        found = cls._config(location, config, overrides)
        if state_dict is None:
            weights = location.weights(variant=variant, use_safetensors=use_safetensors, from_flax=from_flax)
        else:
            weights = _state_dict_weights(state_dict)
        if key_mapping is not None:
            weights = renamed(weights, key_mapping)
        wishes = [torch_dtype or dtype or "float32", torch_dtype or param_dtype or "float32"]
        dtypes = [_auto_dtype(found, weights.source) if wish == "auto" else wish for wish in wishes]
        policy = Policy(to_dtype(dtypes[0]), to_dtype(dtypes[1]), attn_implementation, scan_layers, remat)
        model = cls.part(found, policy, *model_args)
        model.seed = seed
        if cls.can_generate() and (path := location.find(GENERATION_CONFIG_NAME)):
            model.generation_config = GenerationConfig(**read_json(path))
        placed = None if device_mesh is None else shardings(model, device_mesh, sharding_rules)
        given = state_dict is not None
        params, info = model._load(weights, ignore_mismatched_sizes, placed, complete=_do_init, copy=given)
        if wishes[1] == "auto":
            load.report_half(cls.__name__, params)
        if _do_init:
            model._fill(params, complete=True)
        result = (model,) if _do_init else (model, _nest(params))
        result += (info,) if output_loading_info else ()
        return result if len(result) > 1 else model

    @classmethod
    def _config(cls, location: Location, config: Any, overrides: dict[str, Any]) -> PreTrainedConfig:
        values = location.config() if config is None else config
        if not isinstance(values, dict):
            values = cls.config_class.from_any(values).to_dict()
        if (found := values.get("model_type", cls.config_class.model_type)) != cls.config_class.model_type:
            raise ConfigError(
                f"{location.root} is a model of type {found!r}, but {cls.__name__} loads "
                f"{cls.config_class.model_type!r}: use the class of its type, or AutoModel"
            )
        return cls.config_class.from_dict(values, **overrides)

    def _load(
        self,
        weights: Weights,
        ignore_mismatched_sizes: bool,
        placed: Mapping[str, NamedSharding] | None,
        *,
        complete: bool,
        copy: bool,
    ) -> tuple[dict[str, jax.Array], load.LoadingInfo]:
        """The parameters by name; those that are not in the checkpoint are drawn if `complete`."""
        plan = load.plan_loading(self, weights)
        load.check(plan, weights, ignore_mismatched_sizes=ignore_mismatched_sizes)
        params = load.read_leaves(plan, weights.source, self._shapes(), placed, copy=copy)
        if complete and (absent := set(self._shapes()) - set(params)):
            drawn = self._draw(jax.random.key(self.seed), absent)
            params |= drawn if placed is None else {k: jax.device_put(v, placed[k]) for k, v in drawn.items()}
        load.report(type(self).__name__, str(weights.path), plan)
        return params, load.LoadingInfo.of(plan)

    load_flax_weights = staticmethod(load_flax_weights)
    load_flax_sharded_weights = staticmethod(load_flax_sharded_weights)

    # ---- saving

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        params: Params | None = None,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
        variant: str | None = None,
        format: str | None = None,
    ) -> None:
        """Save the weights and the configuration into a folder, all at once or not at all.

        Parameters that several processes share are saved by all of them together: each calls this with the same
        arguments, and a folder that all see.

        Args:
            save_directory: made if absent. Weights that an earlier save of this variant left there, in whatever
                format, go.
            is_main_process: nothing is written if false.
            params: saved in place of the model's own.
            max_shard_size: bytes, or "5GB", "200MB" and the like; more than that is split, with an index.
            safe_serialization: `format="torch"` if true, else `format="flax"`.
            variant: saves as `model.{variant}.safetensors` and the like.
            format: "torch", `model.safetensors` in torch names and layout, which torch tools load as it is; "flax",
                `flax_model.msgpack`; "flax-safetensors"; "orbax", the folder `flax_model.orbax`.

        Raises:
            CheckpointError: the disk is full or the folder is not writable; what was there is unchanged.
        """
        if not is_main_process:
            return
        found = functional(self)
        values = dict(zip(found.paths, found.values(params), strict=True))
        self._check_shapes(values)
        chosen = save.format_named(format or ("torch" if safe_serialization else "flax"))
        leaves = DeviceSource(values) if chosen.is_tree else ParamsSource(values)
        source = chosen.view(self, leaves)
        stored = {"dtype" if "dtype" in vars(self.config) else "torch_dtype": _widest_dtype(values)}
        texts = {CONFIG_NAME: self.config.to_json_string(architectures=[type(self).__name__], **stored)}
        if self.generation_config.to_dict() != GenerationConfig.from_model_config(self.config).to_dict():
            texts[GENERATION_CONFIG_NAME] = self.generation_config.to_json_string()
        crew = crew_of(values.values())
        save.save_checkpoint(Path(save_directory), source, texts, chosen, max_shard_size, variant, crew=crew)

    def state_dict(self, params: Params | None = None) -> dict[str, np.ndarray]:
        """The parameters under torch names and in torch layout; a tied one under each of its names."""
        found = functional(self)
        view = torch_view(self, ParamsSource(dict(zip(found.paths, found.values(params), strict=True))))
        state = {name: view.read(name) for name in view.headers}
        aliases = {alias: state[leaf.torch_names[0]] for alias, leaf in split_shared(self)[1].items()}
        return state | aliases

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> load.LoadingInfo:
        """Set parameters from torch names and layout (numpy, jax or torch tensors).

        Raises:
            CheckpointMismatch: tensors of another shape, or, if `strict`, missing or unexpected ones.
        """
        return load_into(self, _state_dict_weights(state_dict), strict)


def _nest(values: Mapping[str, Any]) -> Params:
    return traverse_util.unflatten_dict(dict(values), sep="/")


def _flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    return traverse_util.flatten_dict(params, sep="/")


def _auto_dtype(config: PreTrainedConfig, source: Source) -> Any:
    """The dtype that the configuration names, else that of the checkpoint's first floating tensor."""
    for name in ("dtype", "torch_dtype"):
        if named := vars(config).get(name):
            return named
    floating = (header.dtype for header in source.headers.values() if jnp.issubdtype(header.dtype, jnp.floating))
    return next(floating, "float32")


def _widest_dtype(values: Mapping[str, Any]) -> str:
    return np.dtype(jnp.result_type(*(value.dtype for value in values.values()))).name


def _state_dict_weights(state_dict: Mapping[str, Any]) -> Weights:
    arrays = {
        name: torch_bridge.to_numpy(value) if torch_bridge.is_tensor(value) else np.asarray(value)
        for name, value in state_dict.items()
    }
    return Weights(Path("state_dict"), ParamsSource(arrays), "torch")

"""`PreTrainedModel`: what a class of models says of itself, how a model is made, and how it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from types import MethodType
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar, overload

import jax

from flaxmodels.analysis.memory import call_measured
from flaxmodels.analysis.mixin import AnalysisMixin
from flaxmodels.arguments import check_arguments
from flaxmodels.checkpoint.mixin import CheckpointMixin
from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution.call import call, call_by_shapes, compile_call, compiler_options_of
from flaxmodels.execution.implementations import check_remat, set_parts
from flaxmodels.execution.mixin import InputChecksMixin
from flaxmodels.execution.structure import structure_of
from flaxmodels.execution.switches import SwitchesMixin
from flaxmodels.files.unsupported import check_quantization
from flaxmodels.generation.config import GenerationConfig
from flaxmodels.generation.mixin import GenerationMixin
from flaxmodels.hub.mixin import ModelCardMixin
from flaxmodels.module_utils import ModuleUtilsMixin
from flaxmodels.nn.dropout import split_key
from flaxmodels.nn.module import Module
from flaxmodels.parameters import Params
from flaxmodels.policy import Policy, split_policy_arguments, to_dtype
from flaxmodels.surgery.mixin import SurgeryMixin


def called_like_forward(method: Callable[..., Any]) -> Callable[..., Any]:
    """A further method that is run as the forward pass is: compiled once a signature when called outside a trace.

    It takes `params`, `dropout_rng` and `train` as `PreTrainedModel.__call__` does, and must take `dropout_rng` itself.
    """

    @wraps(method)
    def run(
        self: PreTrainedModel,
        *args: Any,
        params: Params | None = None,
        dropout_rng: jax.Array | None = None,
        train: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        inputs = self.bind_inputs(MethodType(method, self), args, kwargs)
        return self._run(method, inputs, params, dropout_rng, self.training if train is None else train)

    return run


Output_co = TypeVar("Output_co", covariant=True)


class ComputesOutput(Protocol[Output_co]):
    """A model of which is known what `forward` returns."""

    def forward(self, *args: Any, **inputs: Any) -> Output_co: ...


class HasHead(Protocol[Output_co]):
    """A model of which is known what its head returns."""

    @property
    def base_forward(self) -> Any: ...

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> Output_co: ...

    def bind_inputs(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]: ...


OF_THE_ARCHITECTURE = {
    "config_class",
    "base_model_prefix",
    "flax_prefix",
    "tp_plan",
    "main_input_name",
    "keys_to_ignore_on_load",
    "key_aliases",
    "keys_to_ignore_on_save",
    "padding_takes_positions",
}
"""Class attributes that a head has from its `base_class`, unless it or the head that it is made of sets its own."""


# `train()` and `eval()` return the model, as torch's do; NNX's return nothing.
class PreTrainedModel(  # pyright: ignore[reportIncompatibleMethodOverride]
    ModelCardMixin,
    GenerationMixin,
    CheckpointMixin,
    SurgeryMixin,
    ModuleUtilsMixin,
    AnalysisMixin,
    SwitchesMixin,
    InputChecksMixin,
):
    """Base of all models: an NNX module that holds its parameters, and can be called as a function of any others.

    A subclass sets the class attributes and defines `setup`; a base model also defines `forward`, a model with a
    task head defines `head`. What else a model can do is in the mixins, whose attributes they describe.

    Attributes:
        base_class: base model that a model with a head is built on. What the head does not set itself follows from it:
            `config_class` and the other attributes that describe an architecture.
        config_class: its configuration class.
        flax_prefix: name of the only module that the retired Flax class of transformers had, with all else in it.
        main_input_name: name of the first input.
        tp_plan: how tensor parallelism shards the layers, as `flaxmodels.sharding.rules.tensor_parallel` reads it.
        keys_to_ignore_on_load: regular expressions for tensors that torch checkpoints have and that are not parameters.
        key_aliases: from regular expressions to what replaces them, one after another, in the torch name of a
            parameter: what other classes, or another version of transformers, call it. Both names are read.
        keys_to_ignore_on_save: regular expressions for parameters that files of the torch class do not have.
        seed: seed of the initialisation.
        input_shape: that of the constructor, on which nothing depends.
    """

    base_class: ClassVar[Any] = None
    config_class: ClassVar[type[PreTrainedConfig]] = PreTrainedConfig
    flax_prefix: ClassVar[str] = ""
    tp_plan: ClassVar[Mapping[str, str]] = {}
    main_input_name: ClassVar[str] = "input_ids"
    keys_to_ignore_on_load: ClassVar[tuple[str, ...]] = ()
    key_aliases: ClassVar[Mapping[str, str]] = {}
    keys_to_ignore_on_save: ClassVar[tuple[str, ...]] = ()
    framework: ClassVar[str] = "flax"
    not_compiled = Module.not_compiled | {
        *("deterministic", "generation_config", "has_memory_hooks", "input_shape", "seed", "_unfused"),
        *("model_tags", "loaded_from"),
    }

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        parent = next(base for base in cls.__mro__[1:] if hasattr(base, "base_class"))
        if (base := vars(cls).get("base_class")) is not None:
            for name in OF_THE_ARCHITECTURE - vars(cls).keys():
                if getattr(parent, name) == getattr(parent.base_class or PreTrainedModel, name):
                    setattr(cls, name, getattr(base, name))

    def __init__(
        self,
        config: Any,
        input_shape: tuple[int, ...] = (1, 1),
        seed: int = 0,
        dtype: Any = "float32",
        _do_init: bool = True,
        *,
        policy: Policy | None = None,
        **options: Any,
    ):
        """Set up the model, and initialise its parameters unless `_do_init=False`.

        Args:
            config: configuration of this model's `config_class`, a mapping, or a transformers configuration object.
            input_shape: kept for scripts written for the retired Flax classes; no input is needed here.
            seed: seed of the initialisation.
            dtype: dtype of the computation, as a string or a jnp, numpy or torch dtype.
            policy: all choices of how to compute in one object, in place of `dtype` and of those in `options`.
            options: `param_dtype`, `attn_implementation`, `experts_implementation`, `scan_layers`, `remat` and
                `gradient_checkpointing`, as in `flaxmodels.policy.Policy.from_arguments`; others are for `setup`.

        Raises:
            ConfigError: a configuration that cannot be computed, a dtype that is none, or a choice that is not known.
            FlaxModelsError: `remat` of a model without a stack of blocks.
        """
        self.config = self.config_class.from_any(config)
        check_quantization(vars(self.config), type(self).__name__)
        self.generation_config = GenerationConfig.from_model_config(self.config)
        choices, options = split_policy_arguments(check_arguments(options))
        self.policy = policy or Policy.from_arguments(self.config, dtype=to_dtype(dtype), **choices)
        self.seed, self.input_shape, self.deterministic = seed, input_shape, True
        self.setup(self.config, self.policy, **options)
        self.finish_setup()
        set_parts(self, choices)
        check_remat(self, self.policy.remat)
        if _do_init:
            self.post_init()

    @property
    def key(self) -> jax.Array:
        """The key of `seed`, of which parameters are initialised."""
        return jax.random.key(self.seed)

    @classmethod
    def as_submodule(cls, config: Any, policy: Policy, **options: Any) -> Self:
        """This model as a part of a larger one: described, not initialised."""
        return cls(config, _do_init=False, policy=policy, **options)

    @classmethod
    def abstract(cls, config: Any, **kwargs: Any) -> Self:
        """The model with the shapes and dtypes of its parameters in place of values. Takes no memory."""
        return cls(config, _do_init=False, **kwargs)

    def setup(self, config: Any, policy: Policy) -> None:
        """Make the submodules.

        Raises:
            NotImplementedError: the class does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define setup()")

    # ---- calling

    # The keywords are those of the definition, and not told apart from inputs, of which a dict may be unpacked.
    @overload
    def __call__(self, *args: Any, return_dict: Literal[False], **kwargs: Any) -> tuple[Any, ...]: ...

    @overload
    def __call__(self: ComputesOutput[Output_co], *args: Any, **kwargs: Any) -> Output_co: ...

    def __call__(
        self,
        *args: Any,
        params: Params | None = None,
        batch_stats: Params | None = None,
        dropout_rng: jax.Array | None = None,
        train: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the forward pass: compiled once a signature, or as a part of the computation that is being traced.

        Args:
            args, kwargs: the inputs of `forward`. Arrays may be numpy, jax or nested lists.
            params, batch_stats: used in place of the model's own.
            dropout_rng: key for dropout, which takes place only with `train=True`.
            train: whether dropout takes place; `training` by default. Models with batch statistics then normalise by
                those of the batch, and return the running ones after it as `batch_stats`.
            return_dict: a tuple is returned if false.

        Returns:
            The output of `forward`, a pytree that is read by attribute, by key, or like a tuple.

        Raises:
            FlaxModelsError: inputs of another shape or dtype than `forward` says, and of those that are on the host
                masks that are not binary, and ids, token types and positions beyond their tables; all are listed. See
                `flaxmodels.debug_checks` for arrays on a device and inside a trace. Parameters that do not fit.
                `dropout_rng` without `train`, or `train` without it.
            TypeError: an argument that `forward` does not have.
        """
        train = self.training if train is None else train
        if train and structure_of(self).has_statistics:
            kwargs["train"] = True
        inputs = self.bind_inputs(self.base_forward, args, kwargs)
        outputs = self._run(type(self).forward, inputs, params, dropout_rng, train, batch_stats)
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return outputs if wants_dict else outputs.to_tuple()

    def get_compiled_call(self, compile_config: Any = None, **inputs: Any) -> Callable[..., Any]:
        """The forward pass compiled ahead of time, now or when it is called.

        Args:
            compile_config: options for XLA by name, for example `{"xla_cpu_enable_fast_math": False}`. Of a
                `CompileConfig` of transformers, what says how torch compiles means nothing here.
            inputs: arrays or `jax.ShapeDtypeStruct` by name, for whose shapes the pass is compiled now; booleans such
                as `output_hidden_states` are compiled into it. The parameters need not be there yet.

        Returns:
            With `inputs` what takes the same ones by name, and `params`. Without, what takes the inputs of `forward`,
            and `params`, and compiles once for each of their shapes. There is no dropout in it, whatever the mode.

        Raises:
            FlaxModelsError, TypeError: as `__call__`, of inputs that `forward` does not take; a `compile_config` that
                is neither, or asks torch for another backend.
        """
        options = compiler_options_of(compile_config)
        if inputs:
            inputs = self.bind_inputs(self.base_forward, (), inputs)
            return compile_call(structure_of(self), type(self).forward, inputs, self.input_checks, options)

        def run(*args: Any, params: Params | None = None, **given: Any) -> Any:
            bound = self.bind_inputs(self.base_forward, args, given)
            return call_by_shapes(structure_of(self), type(self).forward, bound, params, self.input_checks, options)

        return run

    def forward(self: HasHead[Output_co], *args: Any, dropout_rng: jax.Array | None = None, **inputs: Any) -> Output_co:
        """Run the base model, then the head. Takes the inputs of the base model's `forward`."""
        if args:
            inputs = self.bind_inputs(self.base_forward, args, inputs)
        base_key, head_key = split_key(dropout_rng, 2)
        outputs = self.base_forward(dropout_rng=base_key, **inputs)
        return type(self).head(self, outputs, inputs, head_key)  # checkpoints may have a module called "head"

    @property
    def base_forward(self) -> Any:
        """What `forward` runs before the head: `forward` of the base model."""
        return self.base_model.forward

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> Any:
        """The task's output from the base model's.

        Raises:
            NotImplementedError: the class does not define it, nor `forward`.
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither forward() nor head()")

    def _run(
        self,
        method: Callable[..., Any],
        inputs: dict[str, Any],
        params: Params | None,
        dropout_rng: jax.Array | None,
        train: bool,
        batch_stats: Params | None = None,
    ) -> Any:
        if train and dropout_rng is None and not inputs.get("train"):
            raise FlaxModelsError(
                "train=True needs dropout_rng=, a key such as jax.random.key(0); without dropout, call eval() or pass "
                "train=False"
            )
        if dropout_rng is not None and not train:
            raise FlaxModelsError("dropout_rng has no effect without train=True: pass that too, or leave both out")
        inputs = self.input_checks(inputs)
        if self.has_memory_hooks:
            return call_measured(self, method, inputs, params, batch_stats, dropout_rng)
        return call(structure_of(self), method, inputs, params, batch_stats, dropout_rng)

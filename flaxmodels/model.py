"""`PreTrainedModel`: what every model can do. Each method hands its work to the package that it belongs to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache, wraps
from operator import attrgetter
from types import MethodType
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxmodels.checkpoint.into import load_flax_sharded_weights, load_flax_weights
from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import FlaxModelsError
from flaxmodels.files.foreign import check_quantization
from flaxmodels.generation.call import generate, stream, warmup
from flaxmodels.generation.config import GenerationConfig
from flaxmodels.nn.cache import Cache, empty_cache
from flaxmodels.nn.call import call, compile_call
from flaxmodels.nn.dropout import split_key
from flaxmodels.nn.functional import Params, check_keys, flatten, functional, nest
from flaxmodels.nn.inputs import EXPECTED, DefaultPositions, Input, InputChecks, Sizes
from flaxmodels.nn.linear import Embedding, embedding_sizes
from flaxmodels.nn.module import Module, initial_value, split_shared
from flaxmodels.nn.policy import Policy, rematerialisation, to_dtype
from flaxmodels.outputs import ModelOutput
from flaxmodels.pretrained import from_pretrained, load_state_dict, save_pretrained, state_dict


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
        return self._run(method, self._inputs(MethodType(method, self), args, kwargs), params, dropout_rng, train)

    return run


@cache
def _signature(method: Callable[..., Any]) -> inspect.Signature:
    """Of a method that is called on an object."""
    signature = inspect.signature(method)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


class PreTrainedModel(Module):
    """Base of all models: an NNX module that holds its parameters, and can be called as a function of any others.

    A subclass sets the class attributes and defines `build`; a base model also defines `forward`, a model with a
    task head defines `head`.

    Attributes:
        config_class: its configuration class.
        base_model_prefix: name of the base model inside a model with a head, and in checkpoints of such models.
        flax_prefix: name of the only module that the retired Flax class of transformers had, with all else in it.
        main_input_name: name of the first input.
        input_embeddings: where a base model has the module that embeds the input, its attributes joined by ".".
        position_embeddings: likewise its table of positions; "" if they are computed, or there are none.
        expected_inputs: what inputs are where they are not as in `flaxmodels.nn.inputs.EXPECTED`.
        tp_plan: how tensor parallelism divides the layers, as `flaxmodels.sharding.rules.tensor_parallel` reads it.
        padding_takes_positions: whether `prepare_inputs_for_generation` counts padding.
        predicts_next_token: whether `generate` works; set by models with a head for causal language modelling.
        ignored_names: regular expressions for tensors that torch checkpoints have and that are not parameters.
        other_names: from regular expressions to what replaces them, one after another, in the torch name of a
            parameter: what other classes, or another version of transformers, call it. Both names are read.
        unsaved_names: regular expressions for parameters that files of the torch class do not have.
        config, policy: what is computed, and how.
        generation_config: settings of `generate` where a call gives none.
        deterministic: that the model is not `training`, under the name that NNX has for it.
    """

    config_class: ClassVar[type[PreTrainedConfig]] = PreTrainedConfig
    base_model_prefix: ClassVar[str] = ""
    flax_prefix: ClassVar[str] = ""
    tp_plan: ClassVar[Mapping[str, str]] = {}
    main_input_name: ClassVar[str] = "input_ids"
    input_embeddings: ClassVar[str] = ""
    position_embeddings: ClassVar[str] = ""
    expected_inputs: ClassVar[Mapping[str, Input]] = {}
    ignored_names: ClassVar[tuple[str, ...]] = ()
    other_names: ClassVar[Mapping[str, str]] = {}
    unsaved_names: ClassVar[tuple[str, ...]] = ()
    framework: ClassVar[str] = "flax"
    predicts_next_token: ClassVar[bool] = False
    padding_takes_positions: ClassVar[bool] = False

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
        experts_implementation: str | None = None,
        scan_layers: bool = False,
        remat: str | None = None,
        gradient_checkpointing: bool | None = None,
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
            attn_implementation, experts_implementation, scan_layers, remat: as in `Policy`.
            gradient_checkpointing: `remat="full"` if true; what the configuration says by default.
            policy: all of these in one object, in their place.
            options: for `build`.
        """
        self.config = self.config_class.from_any(config)
        check_quantization(vars(self.config), type(self).__name__)
        self.generation_config = GenerationConfig.from_model_config(self.config)
        remat = rematerialisation(remat, gradient_checkpointing, self.config)
        self.policy = policy or Policy(
            to_dtype(dtype), to_dtype(param_dtype), attn_implementation, scan_layers, remat, experts_implementation
        )
        self.seed, self.deterministic = seed, True
        self.build(self.config, self.policy, **options)
        if _do_init:
            self._fill(self._draw(jax.random.key(seed), self._shapes()), complete=nnx.Variable)

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
            train: whether dropout takes place; `training` by default. Models with batch statistics then norm by those
                of the batch, and return the running ones after it as `batch_stats`.
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
        if train and self._has_batch_stats():
            kwargs["train"] = True
        inputs = self._inputs(self.features, args, kwargs)
        outputs = self._run(type(self).forward, inputs, params, dropout_rng, train, batch_stats)
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return outputs if wants_dict else outputs.to_tuple()

    def get_compiled_call(self, **inputs: Any) -> Callable[..., Any]:
        """The forward pass compiled ahead of time for inputs of these shapes, arrays or `jax.ShapeDtypeStruct` by name.

        Booleans such as `output_hidden_states` are compiled into it. The parameters need not be there yet. The result
        takes the same inputs by name, and `params`. There is no dropout in it, whatever the mode.
        """
        return compile_call(self, self._inputs(self.features, (), inputs), self.input_checks)

    def forward(self, *, dropout_rng: jax.Array | None = None, **inputs: Any) -> Any:
        """Run the base model, then the head. Takes the inputs of the base model's `forward`."""
        base_key, head_key = split_key(dropout_rng, 2)
        outputs = self.features(dropout_rng=base_key, **inputs)
        return self.head(outputs, inputs, head_key)

    @property
    def features(self) -> Any:
        """What `forward` runs before the head: `forward` of the base model."""
        return self.base_model.forward

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> ModelOutput:
        """The task's output from the base model's."""
        raise NotImplementedError(f"{type(self).__name__} defines neither forward() nor head()")

    def _run(
        self,
        method: Callable[..., Any],
        inputs: dict[str, Any],
        params: Params | None,
        dropout_rng: jax.Array | None,
        train: bool | None,
        batch_stats: Params | None = None,
    ) -> Any:
        train = self.training if train is None else train
        if train and dropout_rng is None and not inputs.get("train"):
            raise FlaxModelsError(
                "train=True needs dropout_rng=, a key such as jax.random.key(0); without dropout, call eval() or pass "
                "train=False"
            )
        if dropout_rng is not None and not train:
            raise FlaxModelsError("dropout_rng has no effect without train=True: pass that too, or leave both out")
        return call(self, method, self.input_checks(inputs), params, batch_stats, dropout_rng)

    def _inputs(self, function: MethodType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        signature = _signature(function.__func__)
        try:
            inputs = signature.bind_partial(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}; it takes {', '.join(signature.parameters)}") from None
        for name in ("output_attentions", "output_hidden_states", "output_router_logits"):
            if inputs.get(name) is None and name in signature.parameters:
                inputs[name] = bool(getattr(self.config, name))
        return {name: value for name, value in inputs.items() if value is not None}

    # ---- inputs

    @property
    def input_checks(self) -> InputChecks:
        """What calls check of their inputs before they compute."""
        derived = functional(self).derived
        if "input_checks" not in derived:
            base = self.base_model
            expected = {**EXPECTED, **base.expected_inputs, **self.expected_inputs}
            sizes: Sizes = {name: (size, "the model") for name, size in self.input_sizes().items()}
            caches = "decoder_" if "decoder_vocab" in sizes else ""
            derived["input_checks"] = InputChecks(expected, sizes, base.default_positions, caches)
        return derived["input_checks"]

    def input_sizes(self) -> dict[str, int]:
        """Of the axes and tables that `flaxmodels.nn.inputs.EXPECTED` names, those that the model fixes."""
        config = self.config
        fields = {"hidden": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
        sizes = {axis: getattr(config, field) for axis, field in fields.items() if hasattr(config, field)}
        if hasattr(config, "attention_windows"):
            sizes["cache_layers"] = len(config.attention_windows)
        return sizes | self.table_sizes()

    def table_sizes(self) -> dict[str, int]:
        """How many words, token types and positions there are."""
        base, words = self.base_model, None
        with suppress(NotImplementedError):
            words = base.get_input_embeddings()
        sizes = embedding_sizes(words, base.position_embeddings and attrgetter(base.position_embeddings)(base))
        if "vocab" in sizes:  # where token types have no table of their own, they are looked up among the words
            sizes["token_types"] = getattr(self.config, "type_vocab_size", None) or sizes["vocab"]
        return sizes

    @property
    def default_positions(self) -> DefaultPositions:
        """Which positions tokens have where a call gives none."""
        return DefaultPositions()

    # ---- train and eval mode

    @property
    def training(self) -> bool:
        """Whether calls train where they do not say `train=`; false at first."""
        return not self.deterministic

    def train(self, mode: bool = True, **attributes: Any) -> Self:
        """Let `train=` be true by default, in the parts of the model too, or false if not `mode`. Returns the model.

        `generate` never trains. `attributes` are those of `nnx.Module.train`, whose mode of other modules is set too.
        """
        super().train(**attributes) if mode else super().eval(**attributes)
        return self

    def eval(self, **attributes: Any) -> Self:
        """Let `train=` be false by default again. Returns the model."""
        return self.train(False, **attributes)

    def set_view(self, deterministic: bool | None = None, **attributes: Any) -> dict[str, Any]:
        """For `nnx.view`: the mode of a copy that shares the parameters."""
        if deterministic is not None:
            self.deterministic = deterministic
        return attributes

    @property
    def base_model(self) -> PreTrainedModel:
        """The model without its head; itself if it has none."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def module(self) -> Self:
        """The model itself, which is the Flax module."""
        return self

    # ---- generation

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the model predicts the next token."""
        return cls.predicts_next_token

    def init_cache(self, batch_size: int, max_length: int, dtype: Any = None) -> Cache:
        """An empty cache with room for `max_length` tokens of `batch_size` sequences, by default in `policy.dtype`."""
        config, stored = self.config, to_dtype(dtype or self.policy.dtype)
        windows = config.attention_windows
        if self.policy.scan_layers and len(set(windows)) > 1:  # layers are stacked, and so must be of one shape
            windows = (None,) * len(windows)
        return tuple(
            empty_cache(batch_size, max_length, config.kv_heads, config.features_per_head, stored, window)
            for window in windows
        )

    def empty_prompt(self, batch_size: int, prompt_len: int) -> dict[str, np.ndarray]:
        """Arguments of `generate` that stand for any of this size."""
        ids = np.zeros((batch_size, prompt_len), np.int32)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def prepare_inputs_for_generation(
        self, input_ids: jax.Array, attention_mask: jax.Array, position_ids: jax.Array, cache: Cache
    ) -> dict[str, Any]:
        """The inputs of `forward` for the next tokens `[batch, q_len]` of a text; the mask is of the whole text."""
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": cache,
        }

    generate = generate
    stream = stream
    warmup = warmup

    # ---- parameters

    @property
    def params(self) -> Params:
        """The parameters as a nested dict with string keys: for `jax.grad`, optax and `TrainState`."""
        return self._nested(nnx.Param)

    @params.setter
    def params(self, params: Mapping[str, Any]) -> None:
        """Set all parameters; keys and shapes must be the model's own."""
        self._fill(flatten(params), complete=nnx.Param)

    @property
    def batch_stats(self) -> Params:
        """The running statistics of batch norms, which are no parameters, as a nested dict; mostly empty."""
        return self._nested(nnx.BatchStat)

    @batch_stats.setter
    def batch_stats(self, batch_stats: Mapping[str, Any]) -> None:
        """Set all of them; keys and shapes must be the model's own."""
        self._fill(flatten(batch_stats), complete=nnx.BatchStat)

    def _has_batch_stats(self) -> bool:
        return any(isinstance(variable, nnx.BatchStat) for variable in functional(self).variables)

    def _nested(self, kind: type[nnx.Variable]) -> Params:
        found = functional(self)
        values = zip(found.paths, found.variables, found.values(), strict=True)
        return nest({path: value for path, variable, value in values if isinstance(variable, kind)})

    @property
    def params_shape_tree(self) -> Params:
        """The parameters' shapes and dtypes, as a nested dict of `jax.ShapeDtypeStruct`."""
        return nest(self._shapes(nnx.Param))

    @property
    def required_params(self) -> set[tuple[str, ...]]:
        """The paths of all parameters."""
        return {tuple(name.split("/")) for name in self._shapes(nnx.Param)}

    def _shapes(self, kind: type[nnx.Variable] = nnx.Variable) -> dict[str, jax.ShapeDtypeStruct]:
        """Of parameters, of statistics, or of both."""
        leaves = (leaf for leaf in split_shared(self)[0] if isinstance(leaf.variable, kind))
        values = ((leaf.name, leaf.variable.get_raw_value()) for leaf in leaves)
        return {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in values}

    def _fill(self, values: Mapping[str, Any], *, complete: type[nnx.Variable] | None) -> None:
        """Set values by name; they must be all of the kind that `complete` names."""
        if complete:
            check_keys(values, self._shapes(complete))
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
        given = flatten(params or {})
        check_keys({**self._shapes(), **given}, self._shapes())
        self._fill(given | self._draw(rng, set(self._shapes()) - set(given)), complete=nnx.Variable)
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
            if isinstance(leaf.variable, nnx.Param) and not (exclude_embeddings and isinstance(leaf.owner, Embedding))
        )

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes that the parameters take, and with `return_buffers` the batch statistics too."""
        counted = self._shapes(nnx.Variable if return_buffers else nnx.Param)
        return sum(int(np.prod(shape.shape)) * shape.dtype.itemsize for shape in counted.values())

    def get_input_embeddings(self) -> Any:
        """The module that embeds the input; `NotImplementedError` if none does."""
        owner, name = self._input_embeddings()
        return getattr(owner, name)

    def set_input_embeddings(self, value: Any) -> None:
        """Put another module in the place of the one that embeds the input."""
        owner, name = self._input_embeddings()
        setattr(owner, name, value)

    def _input_embeddings(self) -> tuple[Any, str]:
        """The module that holds them, and their name in it."""
        owner: Any = self.base_model
        *path, name = owner.input_embeddings.split(".")
        if not name:
            raise NotImplementedError(f"{type(self).__name__} has no input embeddings")
        for part in path:
            owner = getattr(owner, part)
        return owner, name

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
        values = flatten(self.params if params is None else params)
        chosen = dict.fromkeys(values, True) if mask is None else flatten(mask)
        check_keys(chosen, values)
        return nest(
            {
                name: jnp.asarray(value, dtype) if chosen[name] and jnp.issubdtype(value.dtype, jnp.floating) else value
                for name, value in values.items()
            }
        )

    # ---- loading and saving

    from_pretrained = classmethod(from_pretrained)
    save_pretrained = save_pretrained
    state_dict = state_dict
    load_state_dict = load_state_dict
    load_flax_weights = staticmethod(load_flax_weights)
    load_flax_sharded_weights = staticmethod(load_flax_sharded_weights)

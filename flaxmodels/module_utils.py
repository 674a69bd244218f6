"""The parameters of a model as nested dicts, their initialisation, counts and casts; and its mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmodels import parameters
from flaxmodels.capability import Capability
from flaxmodels.parameters import Params, check_keys, flatten, nest


class ModuleUtilsMixin(Capability):
    """A model as the holder of its parameters, and as what trains or does not.

    Attributes:
        deterministic: that the model is not `training`, under the name that NNX has for it.
    """

    deterministic: bool
    seed: int

    @property
    def module(self) -> Self:
        """The model itself, which is the Flax module."""
        return self

    @property
    def params(self) -> Params:
        """The parameters as a nested dict with string keys: for `jax.grad`, optax and `TrainState`.

        Raises:
            FlaxModelsError: the model holds none; or, when they are set, names or shapes are not the model's own.
        """
        return nest(parameters.values(self, nnx.Param))

    @params.setter
    def params(self, params: Mapping[str, Any]) -> None:
        """Set all parameters; keys and shapes must be the model's own."""
        parameters.set_values(self, flatten(params), complete=nnx.Param)

    @property
    def batch_stats(self) -> Params:
        """The running statistics of batch norms, which are no parameters, as a nested dict; mostly empty."""
        return nest(parameters.values(self, nnx.BatchStat))

    @batch_stats.setter
    def batch_stats(self, batch_stats: Mapping[str, Any]) -> None:
        """Set all of them; keys and shapes must be the model's own."""
        parameters.set_values(self, flatten(batch_stats), complete=nnx.BatchStat)

    @property
    def params_shape_tree(self) -> Params:
        """The parameters' shapes and dtypes, as a nested dict of `jax.ShapeDtypeStruct`."""
        return nest(parameters.shapes(self, nnx.Param))

    @property
    def required_params(self) -> set[tuple[str, ...]]:
        """The paths of all parameters."""
        return {tuple(name.split("/")) for name in parameters.shapes(self, nnx.Param)}

    # ---- initialisation

    def init_weights(
        self,
        rng: jax.Array | None = None,
        input_shape: tuple[int, ...] = (1, 1),
        params: Mapping[str, Any] | None = None,
    ) -> Params:
        """Fill the parameters, initialising those that `params` does not give, and return them all.

        With `rng` all of them are initialised from it; without, those that are described but not filled yet, from
        `seed`. Each value depends on the key and on the parameter's path in the base model alone, so that the same key
        gives the same encoder with and without a head. `input_shape` is accepted for older scripts.

        Raises:
            FlaxModelsError: `params` has names or shapes that are not the model's.
        """
        given, every = flatten(params or {}), set(parameters.shapes(self))
        check_keys(every | given.keys(), every)
        wanted = parameters.abstract_names(self) if rng is None else every
        rng = jax.random.key(self.seed) if rng is None else rng
        parameters.set_values(self, parameters.init_values(self, rng, wanted - given.keys()) | given)
        return self.params

    def initialize_weights(self) -> None:
        """Initialise the parameters that are described but not filled yet, from `seed`; those of parts too."""
        self.init_weights()

    def post_init(self) -> None:
        """What constructors end with: `init_weights()`."""
        self.init_weights()

    _init_weights = parameters.init_own
    """Called as `_init_weights(module)`: initialises the parameters that `module`, a part of the model, owns itself.

    A class may define its own, which is then called for each module whose parameters are initialised, by the
    constructor, `init_weights` and `from_pretrained`, with the usual initial values in it. It sets others, as in
    `module.kernel[...] = value`. Of models in models the innermost counts.
    """

    # ---- counts and casts

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of parameters, shared ones once.

        Args:
            only_trainable: without those that `freeze` was asked for.
            exclude_embeddings: without those of `Embedding`s.
        """
        return parameters.count(self, only_trainable=only_trainable, exclude_embeddings=exclude_embeddings)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes that the parameters take, and with `return_buffers` the batch statistics too."""
        return parameters.num_bytes(self, nnx.Variable if return_buffers else nnx.Param)

    def to_bf16(self, params: Params | None = None, mask: Any = None) -> Params:
        """`params` (the model's own by default) with floating leaves in bfloat16, where `mask` is true if given.

        Raises:
            FlaxModelsError: `mask` is of another structure.
        """
        return parameters.cast(self.params if params is None else params, jnp.bfloat16, mask)

    def to_fp16(self, params: Params | None = None, mask: Any = None) -> Params:
        """`params` (the model's own by default) with floating leaves in float16, where `mask` is true if given.

        Raises:
            FlaxModelsError: `mask` is of another structure.
        """
        return parameters.cast(self.params if params is None else params, jnp.float16, mask)

    def to_fp32(self, params: Params | None = None, mask: Any = None) -> Params:
        """`params` (the model's own by default) with floating leaves in float32, where `mask` is true if given.

        Raises:
            FlaxModelsError: `mask` is of another structure.
        """
        return parameters.cast(self.params if params is None else params, jnp.float32, mask)

    # ---- train and eval mode: methods that return the model, as torch's do, where NNX's return nothing

    @property
    def training(self) -> bool:
        """Whether calls train where they do not say `train=`; false at first."""
        return not self.deterministic

    def train(self, mode: bool = True, **attributes: Any) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Let `train=` be true by default, in the parts of the model too, or false if not `mode`. Returns the model.

        `generate` never trains. `attributes` are those of `nnx.Module.train`, whose mode of other modules is set too.
        """
        super().train(**attributes) if mode else super().eval(**attributes)
        return self

    def eval(self, **attributes: Any) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Let `train=` be false by default again. Returns the model."""
        return self.train(False, **attributes)

    def set_view(self, deterministic: bool | None = None, **attributes: Any) -> dict[str, Any]:
        """For `nnx.view`: the mode of a copy that shares the parameters."""
        if deterministic is not None:
            self.deterministic = deterministic
        return attributes

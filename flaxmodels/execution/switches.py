"""What of a model's computation can be chosen after it was made, and where and in what dtype it takes place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from jax.sharding import NamedSharding

from flaxmodels import parameters
from flaxmodels.capability import Capability
from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution.implementations import change_policy, has_stack, modules, set_implementation
from flaxmodels.nn.moe import Experts, Router
from flaxmodels.nn.stack import Stack
from flaxmodels.policy import Policy

TENSOR_AXES = ("tp", "tensor", "model")
"""What the axis of a mesh is called over which layers are sharded for tensor parallelism."""


class SwitchesMixin(Capability):
    """Chooses among equal computations: implementations of attention and experts, gradient checkpointing.

    What was compiled for other choices is not used again, but for the results of `get_compiled_call`, which stay what
    they are.

    Attributes:
        is_parallelizable: whether parameters can be sharded over several devices, as `device_mesh=` asks for.
        supports_pp_plan: whether layers can be divided among devices, one after another.
    """

    is_parallelizable: ClassVar[bool] = True
    supports_pp_plan: ClassVar[bool] = False
    tp_plan: ClassVar[Mapping[str, str]]
    _policy: Policy
    _unfused: str | None = None

    # ---- the policy and what follows from it

    @property
    def policy(self) -> Policy:
        """How the model is computed. A new one takes effect with the next call, in all parts of the model."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        """Compute by another policy.

        Raises:
            FlaxModelsError: it differs in `param_dtype` or `scan_layers`, by which parameters are stored, or asks for
                `remat` of a model without a stack of blocks.
        """
        if "_policy" in vars(self):
            change_policy(self, self._policy, policy)
        self._policy = policy

    def adopt(self, choices: Mapping[str, Any]) -> None:
        super().adopt(choices)
        self._policy = replace(self._policy, **choices)

    @property
    def dtype(self) -> np.dtype:
        """dtype of the computation, `policy.dtype`; parameters may have others."""
        return self.policy.dtype

    @property
    def device(self) -> Any:
        """The `jax.Device` of the parameters; of several, over which they are sharded, the first.

        Raises:
            FlaxModelsError: the model is described but not filled.
        """
        first = next(iter(parameters.values(self).values()))
        return min(first.devices(), key=lambda device: device.id)

    @property
    def tp_size(self) -> int | None:
        """How many devices share each layer: the size of the mesh's axis "tp", "tensor" or "model".

        `None` if the parameters are not on a mesh with such an axis.
        """
        found = (getattr(leaf.variable.get_raw_value(), "sharding", None) for leaf in parameters.leaves(self))
        meshes = (sharding.mesh for sharding in found if isinstance(sharding, NamedSharding))
        return next((mesh.shape[axis] for mesh in meshes for axis in TENSOR_AXES if axis in mesh.shape), None)

    @property
    def supports_tp_plan(self) -> bool:
        """Whether the architecture says how tensor parallelism shards its layers."""
        return bool(self.tp_plan)

    @classmethod
    def is_backend_compatible(cls) -> bool:
        """Whether all implementations of attention can be chosen; true for every model."""
        return True

    @property
    def can_record_outputs(self) -> dict[str, tuple[type, ...]]:
        """What a call returns on request, and the classes of the modules that make it.

        "hidden_states" by `output_hidden_states=True`, "attentions" by `output_attentions=True`, and "router_logits" by
        `output_router_logits=True`.
        """
        every = list(modules(self))
        makers = {
            "hidden_states": {type(block) for each in every if isinstance(each, Stack) for block in each.blocks()},
            "attentions": {
                type(each) for each in every if "implementation" in vars(each) and not isinstance(each, Experts)
            },
            "router_logits": {type(each) for each in every if isinstance(each, Router)},
        }
        return {name: tuple(sorted(found, key=lambda kind: kind.__name__)) for name, found in makers.items() if found}

    # ---- gradient checkpointing

    @property
    def supports_gradient_checkpointing(self) -> bool:
        """Whether there is a stack of blocks, whose activations can be computed again in the backward pass."""
        return has_stack(self)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether activations are computed again in the backward pass."""
        return self.policy.remat is not None

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """Forget the activations inside each block, and compute them again in the backward pass.

        Args:
            gradient_checkpointing_kwargs: "policy", the name of one of `jax.checkpoint_policies`, says what is kept;
                nothing is by default. "use_reentrant" and "preserve_rng_state", which torch takes, mean nothing here,
                as there is one way to do it and no state of random numbers.

        Raises:
            FlaxModelsError: another keyword, or a model without a stack of blocks.
            ConfigError: a policy that is not known.
        """
        given = dict(gradient_checkpointing_kwargs or {})
        remat = given.pop("policy", "full")
        if odd := sorted(given.keys() - {"use_reentrant", "preserve_rng_state"}):
            raise FlaxModelsError(
                f"gradient_checkpointing_kwargs has {', '.join(map(repr, odd))}, which jax.checkpoint does not know: "
                "'policy', the name of one of jax.checkpoint_policies, says what is kept"
            )
        self.policy = replace(self.policy, remat=remat)

    def gradient_checkpointing_disable(self) -> None:
        """Keep the activations for the backward pass."""
        self.policy = replace(self.policy, remat=None)  # pyright: ignore[reportIncompatibleVariableOverride]

    def enable_gradient_checkpointing(self) -> None:
        """`gradient_checkpointing_enable`, as the retired Flax classes call it."""
        self.gradient_checkpointing_enable()

    # ---- implementations

    def set_attn_implementation(
        self, attn_implementation: str | Mapping[str, str | None] | None, allow_all_kernels: bool = False
    ) -> None:
        """Choose how attention is computed, as `attn_implementation` of `flaxmodels.policy.Policy` says.

        Args:
            attn_implementation: for all parts; or a dict by the names of sub-configurations, "" for the rest, in which
                what it does not name keeps its own.
            allow_all_kernels: kernels of the Hub are refused in any case.

        Raises:
            ConfigError: an implementation or a sub-configuration that is not known.
        """
        set_implementation(self, "attn_implementation", attn_implementation)

    def set_experts_implementation(self, experts_implementation: str | Mapping[str, str | None] | None) -> None:
        """Choose how mixtures of experts are computed: "eager", "batched_mm" or "grouped_mm".

        Args:
            experts_implementation: as `set_attn_implementation` takes it; `None` for what is fast on the platform.

        Raises:
            ConfigError: an implementation or a sub-configuration that is not known.
        """
        set_implementation(self, "experts_implementation", experts_implementation)

    @property
    def use_kernels(self) -> bool:
        """Whether attention is computed by the best kernel that the platform has, `attn_implementation="flash"`."""
        return self.policy.attn_implementation == "flash"

    @use_kernels.setter
    def use_kernels(self, use_kernels: bool) -> None:
        self.set_use_kernels(use_kernels)

    def set_use_kernels(self, use_kernels: bool, kernel_config: None = None) -> None:
        """Compute attention by the best kernel that the platform has, or by the default implementation again.

        Args:
            use_kernels: whether to.
            kernel_config: of the package `kernels`, whose kernels are for torch; must be `None`.

        Raises:
            FlaxModelsError: a `kernel_config`.
        """
        if kernel_config is not None:
            raise FlaxModelsError(
                "kernel_config chooses kernels for torch, which are not run here: leave it out, or choose by "
                "set_attn_implementation() and set_experts_implementation()"
            )
        if use_kernels != self.use_kernels:
            self.set_attn_implementation("flash" if use_kernels else None)

    def kernelize(self) -> None:
        """`set_use_kernels(True)`."""
        self.set_use_kernels(True)

    def to_bettertransformer(self) -> Self:
        """Compute attention by `jax.nn.dot_product_attention`, which is fused; the default. Returns the model.

        Raises:
            FlaxModelsError: this was done before, and not reverted.
        """
        if self._unfused is not None:
            raise FlaxModelsError("to_bettertransformer() was called before: call reverse_bettertransformer() first")
        self._unfused = self.policy.attn_implementation
        self.set_attn_implementation("sdpa")
        return self

    def reverse_bettertransformer(self) -> Self:
        """Compute attention as before `to_bettertransformer`. Returns the model.

        Raises:
            FlaxModelsError: that was not called before.
        """
        if self._unfused is None:
            raise FlaxModelsError("reverse_bettertransformer() reverts to_bettertransformer(), which was not called")
        self.set_attn_implementation(self._unfused)
        self._unfused = None
        return self

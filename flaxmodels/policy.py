"""How a model is computed, as opposed to what it computes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.errors import ConfigError, FlaxModelsError

ATTENTION_IMPLEMENTATIONS = ("eager", "sdpa", "flash")
EXPERTS_IMPLEMENTATIONS = ("eager", "batched", "grouped")
ALIASES = {
    "attn_implementation": dict.fromkeys(("flash_attention_2", "flash_attention_3", "flash_attention_4"), "flash"),
    "experts_implementation": {"batched_mm": "batched", "grouped_mm": "grouped"},
}
"""Names that transformers has for the same choices."""
FLOAT32 = np.dtype("float32")
FLOAT_DTYPES = ("float32", "bfloat16", "float16", "float64")


def to_dtype(dtype: Any) -> np.dtype:
    """A floating dtype given as a string, a jnp, numpy or torch dtype.

    Raises:
        ConfigError: it is anything else.
    """
    name = str(dtype).removeprefix("torch.") if not isinstance(dtype, str) else dtype
    try:
        found = jnp.dtype(name) if isinstance(dtype, str) or name != str(dtype) else jnp.dtype(dtype)
    except TypeError:
        found = None
    if dtype is None or found is None or found.name not in FLOAT_DTYPES:
        raise ConfigError(f"{dtype!r} is not a dtype for models: expected one of {', '.join(FLOAT_DTYPES)}")
    return found


@dataclass(frozen=True)
class Policy:
    """The choices that leave a model's mathematics alone.

    Attributes:
        dtype: dtype of the computation. Softmax, norms and logits accumulate in float32 all the same.
        param_dtype: dtype of the stored parameters; of those that a checkpoint does not have, where each keeps the
            checkpoint's own.
        attn_implementation: "sdpa" (`jax.nn.dot_product_attention`, or on a CPU what is faster), "eager", or "flash",
            whose memory does not grow with the square of the length, by the best kernel that the platform has. That is
            also what "flash_attention_2", "flash_attention_3" and "flash_attention_4" stand for. `None` is "sdpa".
        scan_layers: whether the parameters of equal blocks are stacked and the blocks run by `lax.scan`, so that
            compile time does not grow with depth. Unrolled blocks decode faster.
        remat: whether activations inside each block are forgotten and computed again in the backward pass: "full", or
            the name of a policy of `jax.checkpoint_policies`.
        experts_implementation: implementation of a mixture of experts, as in `flaxmodels.nn.moe.mix_experts`;
            "batched_mm" and "grouped_mm" are other names of "batched" and "grouped". By default that which is fast on
            the backend that computes.
    """

    dtype: np.dtype = FLOAT32
    param_dtype: np.dtype = FLOAT32
    attn_implementation: str = "sdpa"
    scan_layers: bool = False
    remat: str | None = None
    experts_implementation: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "dtype", to_dtype(self.dtype))
        object.__setattr__(self, "param_dtype", to_dtype(self.param_dtype))
        attention = _implementation("attn_implementation", self.attn_implementation, ATTENTION_IMPLEMENTATIONS)
        experts = _implementation("experts_implementation", self.experts_implementation, EXPERTS_IMPLEMENTATIONS)
        object.__setattr__(self, "attn_implementation", attention or "sdpa")
        object.__setattr__(self, "experts_implementation", experts)
        if self.remat not in (None, "full") and not hasattr(jax.checkpoint_policies, self.remat):
            raise ConfigError(f"remat={self.remat!r} is neither 'full' nor one of jax.checkpoint_policies")

    @classmethod
    def from_arguments(
        cls,
        config: Any,
        checkpoint_dtype: np.dtype | None = None,
        *,
        dtype: Any = None,
        param_dtype: Any = None,
        torch_dtype: Any = None,
        gradient_checkpointing: bool | None = None,
        remat: str | None = None,
        use_kernels: bool = False,
        attn_implementation: Any = None,
        experts_implementation: Any = None,
        **choices: Any,
    ) -> Self:
        """The policy that the arguments of a constructor or of `from_pretrained` ask for.

        Args:
            config: configuration of the model, which may ask for `gradient_checkpointing` or an `attn_implementation`,
                or name a dtype for "auto".
            checkpoint_dtype: dtype of the first tensor of the checkpoint; `None` if there is none.
            dtype: dtype of the computation; float32 by default, "auto" for what the configuration or else the
                checkpoint says.
            param_dtype: dtype of the stored parameters; with a checkpoint "auto" by default, else float32.
            torch_dtype: both at once, where neither is given by itself.
            gradient_checkpointing: `remat="full"` if true; what the configuration says by default.
            remat: as the attribute.
            use_kernels: `attn_implementation="flash"` if true.
            attn_implementation, experts_implementation: as the attributes; of a dict by sub-configuration the value
                of "", which is for the rest of the model.
            choices: the other attributes.

        Raises:
            ConfigError: a dtype that is none, or a choice that is not known.
            FlaxModelsError: `remat` and `gradient_checkpointing`, or `use_kernels` and `attn_implementation`,
                contradict each other.
        """
        compute = dtype or torch_dtype or FLOAT32
        stored = param_dtype or torch_dtype or (FLOAT32 if checkpoint_dtype is None else "auto")
        if checkpoint_dtype is not None and compute == "auto":
            compute = next(filter(None, map(vars(config).get, ("dtype", "torch_dtype"))), checkpoint_dtype)
        if checkpoint_dtype is not None and stored == "auto":
            stored = checkpoint_dtype
        return cls(
            to_dtype(compute),
            to_dtype(stored),
            remat=_rematerialisation(remat, gradient_checkpointing, config),
            attn_implementation=_attention(_of_the_rest(attn_implementation), use_kernels, config),
            experts_implementation=_of_the_rest(experts_implementation),
            **choices,
        )


def _implementation(name: str, chosen: Any, known: tuple[str, ...]) -> str | None:
    """The implementation under our name.

    Raises:
        ConfigError: it is not known, or a kernel of the Hub.
    """
    own = ALIASES[name].get(chosen, chosen) if isinstance(chosen, str) else chosen
    if own is None or own in known:
        return own
    if isinstance(chosen, str) and "/" in chosen:
        raise ConfigError(
            f"{name}={chosen!r} names a kernel of the Hub, which is code for torch and is not run here: expected one "
            f"of {', '.join(known)}"
        )
    raise ConfigError(f"{name}={chosen!r} is not known: expected one of {', '.join(known)}")


_ARGUMENTS = frozenset(inspect.signature(Policy).parameters) | {"torch_dtype", "gradient_checkpointing", "use_kernels"}


def split_policy_arguments(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keywords that are for `Policy.from_arguments`, and the others."""
    chosen = {name: value for name, value in arguments.items() if name in _ARGUMENTS}
    return chosen, {name: value for name, value in arguments.items() if name not in _ARGUMENTS}


def keeps_dtypes(arguments: Mapping[str, Any]) -> bool:
    """Whether these arguments of `Policy.from_arguments` leave each parameter in the dtype of the checkpoint."""
    return (arguments.get("param_dtype") or arguments.get("torch_dtype") or "auto") == "auto"


def _rematerialisation(remat: str | None, gradient_checkpointing: bool | None, config: Any) -> str | None:
    """`Policy.remat`, from it, the argument that torch has for it, and the key of old configurations."""
    if gradient_checkpointing is None:
        gradient_checkpointing = remat is not None or bool(vars(config).get("gradient_checkpointing"))
    if remat is not None and not gradient_checkpointing:
        raise FlaxModelsError(f"remat={remat!r} and gradient_checkpointing=False contradict each other: give one")
    return remat or ("full" if gradient_checkpointing else None)


def _of_the_rest(implementation: Any) -> Any:
    """Of a dict by sub-configuration what is not for one of them."""
    return implementation.get("") if isinstance(implementation, Mapping) else implementation


def _attention(chosen: Any, use_kernels: bool, config: Any) -> Any:
    """`Policy.attn_implementation`, from it, `use_kernels`, and what a configuration was made with."""
    if not use_kernels:
        return vars(config).get("attn_implementation") if chosen is None else chosen
    if chosen is not None and _implementation("attn_implementation", chosen, ATTENTION_IMPLEMENTATIONS) != "flash":
        raise FlaxModelsError(
            f"use_kernels=True and attn_implementation={chosen!r} contradict each other: the kernels are those of "
            "'flash'; give one"
        )
    return "flash"

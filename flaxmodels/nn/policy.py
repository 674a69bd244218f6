"""How a model is computed, as opposed to what it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.errors import ConfigError, FlaxModelsError

ATTENTION_IMPLEMENTATIONS = ("eager", "sdpa", "flash")
EXPERTS_IMPLEMENTATIONS = ("eager", "batched", "grouped")
FLOAT32 = np.dtype("float32")
FLOAT_DTYPES = ("float32", "bfloat16", "float16", "float64")


def to_dtype(dtype: Any) -> np.dtype:
    """A floating dtype given as a string, a jnp, numpy or torch dtype; `ConfigError` for anything else."""
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
        dtype: of the computation. Softmax, norms and logits accumulate in float32 all the same.
        param_dtype: of the stored parameters.
        attn_implementation: "sdpa" (`jax.nn.dot_product_attention`, or on a CPU what is faster), "eager", or "flash",
            whose memory does not grow with the square of the length.
        scan_layers: keep the parameters of equal blocks stacked and run the blocks by `lax.scan`, so that compile
            time does not grow with depth. Unrolled blocks decode faster.
        remat: forget activations inside each block and compute them again in the backward pass: "full", or the name
            of a policy of `jax.checkpoint_policies`.
        experts_implementation: of a mixture of experts, as in `flaxmodels.nn.moe.mix_experts`. By default that which
            is fast on the backend that computes.
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
        choices = {
            "attn_implementation": ATTENTION_IMPLEMENTATIONS,
            "experts_implementation": EXPERTS_IMPLEMENTATIONS,
        }
        for name, known in choices.items():
            chosen = getattr(self, name)
            if chosen not in known and (chosen, name) != (None, "experts_implementation"):
                raise ConfigError(f"{name}={chosen!r} is not known: expected one of {', '.join(known)}")
        if self.remat not in (None, "full") and not hasattr(jax.checkpoint_policies, self.remat):
            raise ConfigError(f"remat={self.remat!r} is neither 'full' nor one of jax.checkpoint_policies")


def rematerialisation(remat: str | None, gradient_checkpointing: bool | None, config: Any) -> str | None:
    """`Policy.remat`, from it, the argument that torch has for it, and the key of old configurations.

    Raises:
        FlaxModelsError: one asks for it and the other against it.
    """
    if gradient_checkpointing is None:
        gradient_checkpointing = remat is not None or bool(vars(config).get("gradient_checkpointing"))
    if remat is not None and not gradient_checkpointing:
        raise FlaxModelsError(f"remat={remat!r} and gradient_checkpointing=False contradict each other: give one")
    return remat or ("full" if gradient_checkpointing else None)

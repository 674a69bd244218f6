"""Between the weights of other worlds and ours: reversible ops, rules, plans, and foreign conventions.

The functions that need models are those of `flaxmodels.torch_interop`, imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WITH_MODELS = (
    "from_torch",
    "to_torch",
    "convert_pytorch_state_dict_to_flax",
    "load_pytorch_checkpoint_in_flax_state_dict",
    "load_flax_checkpoint_in_pytorch_model",
    "load_flax_weights_in_pytorch_model",
)


def __getattr__(name: str) -> Any:
    if name not in _WITH_MODELS:
        raise AttributeError(f"module 'interop' has no attribute {name!r}")
    return getattr(import_module("flaxmodels.torch_interop"), name)


def __dir__() -> list[str]:
    return [*globals(), *_WITH_MODELS]

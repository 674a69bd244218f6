"""The model and the tokenizer that an argument names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flaxmodels.cli.options import Dtype


def described(location: Any, weights: Any, architecture: str | None = None, param_dtype: str = "float32") -> Any:
    """The model for weights at a location, of the class named or of the one its configuration names.

    Raises:
        ConfigError: neither is known.
    """
    from flaxmodels.checkpoint.pretrained import describe
    from flaxmodels.errors import ConfigError
    from flaxmodels.policy import Policy, to_dtype
    from flaxmodels.registry import ARCHITECTURES, find_class

    config = location.config()
    names = [architecture] if architecture else config.get("architectures") or []
    found = next((cls for cls in map(find_class, names) if cls is not None), None)
    if found is None:
        known = sorted(name for entry in ARCHITECTURES.values() for name in entry.tasks.values())
        raise ConfigError(
            f"no class for {', '.join(names) or 'this checkpoint, whose config.json names no architectures'}: "
            f"pass --architecture with one of {', '.join(known)}"
        )
    policy = Policy(param_dtype=to_dtype(param_dtype))
    return describe(found, found.config_class.from_any(config), policy, weights)


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a model."""
    from flaxmodels.tokenizer import Tokenizer

    return Tokenizer.from_pretrained(model)


def load_language_model(model: str, dtype: Dtype, param_dtype: Dtype | None, cache: Path | None) -> Any:
    """A causal language model; `cache` keeps the programs that are compiled from now on."""
    from flaxmodels.generation import compilation_cache
    from flaxmodels.registry import AUTO_CLASSES

    if cache is not None:
        compilation_cache(cache)
    dtypes = {"dtype": dtype.value, "param_dtype": (param_dtype or dtype).value}
    return AUTO_CLASSES["AutoModelForCausalLM"].from_pretrained(model, **dtypes)

"""Pretrained models in Flax: loaded from and saved for the rest of the world, without torch.

Everything public is here, and is imported when it is first used: `flaxmodels.AutoModel`, `flaxmodels.BertModel`,
the same under the names of the retired transformers classes (`flaxmodels.FlaxBertModel`), and the errors.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("flaxmodels-jax")
except PackageNotFoundError:
    __version__ = "0+unknown"

_HOMES = {
    "PreTrainedModel": "flaxmodels.model",
    "PreTrainedConfig": "flaxmodels.config",
    "PushToHubMixin": "flaxmodels.hub.mixin",
    "GenerationConfig": "flaxmodels.generation.config",
    "Tokenizer": "flaxmodels.tokenizer",
    "debug_checks": "flaxmodels.execution.input_checks",
    "trainable": "flaxmodels.surgery.freezing",
    "load_sharded_checkpoint": "flaxmodels.checkpoint.load_into",
    "FlaxModelsError": "flaxmodels.errors",
    "CheckpointError": "flaxmodels.errors",
    "CheckpointMismatch": "flaxmodels.errors",
    "CheckpointNotFound": "flaxmodels.errors",
    "HubError": "flaxmodels.errors",
    "ConfigError": "flaxmodels.errors",
}
_OLD_NAMES = {"FlaxPreTrainedModel": "PreTrainedModel", "PretrainedConfig": "PreTrainedConfig"}


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    plain = _OLD_NAMES.get(name, name)
    if plain in _HOMES:
        found = getattr(import_module(_HOMES[plain]), plain)
    else:  # submodules, which begin with small letters, are looked for here before they are imported
        found = import_module("flaxmodels.registry").find_class(name) if name[0].isupper() else None
    if found is None:
        raise AttributeError(f"module 'flaxmodels' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    registry = import_module("flaxmodels.registry")
    classes = {name for architecture in registry.ARCHITECTURES.values() for name in architecture.names}
    return sorted({*_HOMES, *_OLD_NAMES, *registry.AUTO_CLASSES, *classes, "__version__"})

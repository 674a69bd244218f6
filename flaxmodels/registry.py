"""The `Auto...` classes, which choose among the architectures, and public names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxmodels.architectures import ARCHITECTURES, TASKS
from flaxmodels.arguments import check_arguments
from flaxmodels.checkpoint.mapping import check_mapping
from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import ConfigError
from flaxmodels.fields import shown
from flaxmodels.files.resolve import resolve, split_hub_kwargs
from flaxmodels.model import PreTrainedModel

_CUSTOM: dict[tuple[str, str], type] = {}


def find_class(name: str) -> Any | None:
    """The public class of that name, its old `Flax...` name included; `None` if there is none."""
    plain = name.removeprefix("Flax")
    for architecture in ARCHITECTURES.values():
        if plain in architecture.names:
            return architecture.load(plain)
    return AUTO_CLASSES.get(plain)


def _class_for(auto: str, model_type: Any) -> Any:
    known = sorted({*ARCHITECTURES, *(kind for _, kind in _CUSTOM)})
    if model_type is None:
        raise ConfigError(f"the configuration lacks model_type: add it, as one of {', '.join(known)}")
    if not isinstance(model_type, str) or model_type not in known:
        raise ConfigError(f"model_type {shown(model_type)} is not known: expected one of {', '.join(known)}")
    if found := _CUSTOM.get((auto, model_type)):
        return found
    if model_type not in ARCHITECTURES:
        raise ConfigError(f"model_type {model_type!r} has no class for {auto}: register one")
    architecture = ARCHITECTURES[model_type]
    name = architecture.config if auto == "AutoConfig" else architecture.tasks.get(auto)
    if name is None:
        tasks = ", ".join(architecture.tasks)
        raise ConfigError(f"model_type {model_type!r} has no class for {auto}: it has {tasks}")
    return architecture.load(name)


class AutoConfig:
    """Chooses the configuration class by `model_type`."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **kwargs: Any) -> PreTrainedConfig:
        """The configuration of a folder, a file or a Hub id."""
        hub, overrides = split_hub_kwargs(check_arguments(kwargs))
        values = resolve(name_or_path, **hub).config()
        return _class_for("AutoConfig", values.get("model_type")).from_dict(values, **overrides)

    @classmethod
    def for_model(cls, model_type: str, **values: Any) -> PreTrainedConfig:
        """A configuration of that type with the given values."""
        return _class_for("AutoConfig", model_type)(**values)

    @classmethod
    def register(cls, model_type: str, config_class: type[PreTrainedConfig]) -> None:
        """Make `config_class` known under `model_type`."""
        _register("AutoConfig", model_type, config_class)


class AutoModel:
    """Chooses the model class for a task by the `model_type` of the configuration. This one: no head."""

    def __init__(self, *args: Any, **kwargs: Any):
        raise TypeError(f"{type(self).__name__} is made by from_pretrained() or from_config()")

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        """Load the model of a folder, a file or a Hub id: `PreTrainedModel.from_pretrained` of its class."""
        if config is None:
            hub, _ = split_hub_kwargs(kwargs)
            config = resolve(name_or_path, **hub).named(kwargs.get("gguf_file")).config()
        return cls._class(config).from_pretrained(name_or_path, *args, config=config, **kwargs)

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> Any:
        """A freshly initialised model."""
        return cls._class(config)(config, **check_arguments(kwargs))

    @classmethod
    def register(cls, config_class: type[PreTrainedConfig], model_class: type[PreTrainedModel]) -> None:
        """Make `model_class` the choice for configurations of `config_class`.

        Raises:
            ValueError: the mapping between its parameters and torch's names is not a bijection.
        """
        check_mapping(model_class.abstract(config_class()))
        _register(cls.__name__, config_class.model_type, model_class)

    @classmethod
    def _class(cls, config: Any) -> Any:
        if not isinstance(config, Mapping) and not hasattr(config, "model_type"):
            raise ConfigError(f"expected a configuration, got {shown(config)}")
        model_type = config.get("model_type") if isinstance(config, Mapping) else config.model_type
        return _class_for(cls.__name__, model_type)


def _register(auto: str, model_type: str, new: type) -> None:
    if model_type in ARCHITECTURES or (auto, model_type) in _CUSTOM:
        raise ConfigError(f"{auto} has a class for model_type {model_type!r} already: choose another model_type")
    _CUSTOM[auto, model_type] = new


AUTO_CLASSES: dict[str, type] = {"AutoConfig": AutoConfig, "AutoModel": AutoModel} | {
    f"AutoModelFor{task}": type(
        f"AutoModelFor{task}", (AutoModel,), {"__doc__": f"Chooses the model class with a head for {task}."}
    )
    for task in TASKS
}
"""All `Auto...` classes, by name."""

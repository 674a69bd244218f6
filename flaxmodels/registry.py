"""The `Auto...` classes, which choose among the architectures, and public names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, overload

from flaxmodels.architectures import ARCHITECTURES, TASKS
from flaxmodels.arguments import check_arguments
from flaxmodels.checkpoint.load import LoadingInfo
from flaxmodels.checkpoint.mapping import check_mapping
from flaxmodels.checkpoint.pretrained import locate
from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import ConfigError
from flaxmodels.fields import brief
from flaxmodels.files.location import resolve, split_hub_kwargs
from flaxmodels.model import PreTrainedModel
from flaxmodels.parameters import Params

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
        raise ConfigError(f"model_type {brief(model_type)} is not known: expected one of {', '.join(known)}")
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
        """The configuration of a folder, a file or a Hub id.

        Raises:
            CheckpointError: there is no configuration, or it cannot be read.
            ConfigError: its `model_type` is not known, or it cannot be computed.
        """
        hub, overrides = split_hub_kwargs(check_arguments(kwargs))
        values = resolve(name_or_path, **hub).config()
        return _class_for("AutoConfig", values.get("model_type")).from_dict(values, **overrides)

    @classmethod
    def for_model(cls, model_type: str, **values: Any) -> PreTrainedConfig:
        """A configuration of that type with the given values.

        Raises:
            ConfigError: the type is not known, or the values cannot be computed.
        """
        return _class_for("AutoConfig", model_type)(**values)

    @classmethod
    def register(cls, model_type: str, config_class: type[PreTrainedConfig]) -> None:
        """Make `config_class` known under `model_type`.

        Raises:
            ConfigError: that type is known already.
        """
        _register("AutoConfig", model_type, config_class)


class AutoModel:
    """Chooses the model class for a task by the `model_type` of the configuration. This one: no head."""

    def __init__(self, *args: Any, **kwargs: Any):
        raise TypeError(f"{type(self).__name__} is made by from_pretrained() or from_config()")

    # The last one takes any keywords, for dicts of them that are unpacked; the others are for keywords as written.
    @overload
    @classmethod
    def from_pretrained(  # pyright: ignore[reportOverlappingOverload]
        cls,
        name_or_path: str | Path | None,
        *args: Any,
        output_loading_info: Literal[True],
        _do_init: Literal[False],
        **kwargs: Any,
    ) -> tuple[PreTrainedModel, Params, LoadingInfo]: ...

    @overload
    @classmethod
    def from_pretrained(  # pyright: ignore[reportOverlappingOverload]
        cls,
        name_or_path: str | Path | None,
        *args: Any,
        output_loading_info: Literal[True],
        _do_init: Literal[True] = True,
        **kwargs: Any,
    ) -> tuple[PreTrainedModel, LoadingInfo]: ...

    @overload
    @classmethod
    def from_pretrained(  # pyright: ignore[reportOverlappingOverload]
        cls,
        name_or_path: str | Path | None,
        *args: Any,
        _do_init: Literal[False],
        output_loading_info: Literal[False] = False,
        **kwargs: Any,
    ) -> tuple[PreTrainedModel, Params]: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None,
        *args: Any,
        **kwargs: Any,
    ) -> PreTrainedModel: ...

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None,
        *args: Any,
        config: Any = None,
        gguf_file: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load the model of a folder, a file or a Hub id: `PreTrainedModel.from_pretrained` of its class.

        Raises:
            ConfigError: a configuration of a `model_type` that is not known, or has no class for the task.
            CheckpointError, CheckpointMismatch, FlaxModelsError: as `PreTrainedModel.from_pretrained`.
        """
        hub, _ = split_hub_kwargs(kwargs)
        location = locate(name_or_path, hub, gguf_file, config is not None and kwargs.get("state_dict") is not None)
        config = location.config() if config is None else config
        return cls._class(config).from_pretrained(location, *args, config=config, **kwargs)

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> PreTrainedModel:
        """A freshly initialised model.

        Raises:
            ConfigError: as `from_pretrained`.
        """
        return cls._class(config)(config, **check_arguments(kwargs))

    @classmethod
    def register(cls, config_class: type[PreTrainedConfig], model_class: type[PreTrainedModel]) -> None:
        """Make `model_class` the choice for configurations of `config_class`.

        Raises:
            ValueError: the mapping between its parameters and torch's names is not a bijection.
            ConfigError: there is a class for that `model_type` already.
        """
        check_mapping(model_class.abstract(config_class()))
        _register(cls.__name__, config_class.model_type, model_class)

    @classmethod
    def _class(cls, config: Any) -> Any:
        if not isinstance(config, Mapping) and not hasattr(config, "model_type"):
            raise ConfigError(f"expected a configuration, got {brief(config)}")
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

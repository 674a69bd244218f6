"""The `Auto...` classes, which choose among the architectures, and public names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, overload

from flaxmodels.architectures import ARCHITECTURES
from flaxmodels.arguments import check_arguments
from flaxmodels.checkpoint.load import LoadingInfo
from flaxmodels.checkpoint.mapping import check_mapping
from flaxmodels.checkpoint.pretrained import config_values, locate
from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import CheckpointError, ConfigError
from flaxmodels.fields import brief
from flaxmodels.files.location import resolve
from flaxmodels.files.remote_code import AUTO_MAP, finder_of, has_code, load_class
from flaxmodels.files.repository import split_hub_kwargs
from flaxmodels.model import PreTrainedModel
from flaxmodels.parameters import Params
from flaxmodels.tasks import TASKS

Finder = Callable[[str], Path | None]
"""Gives the path of a file beside a configuration, or `None`."""
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


def _chosen_class(auto: str, values: Mapping[str, Any], find: Finder, where: str, trusted: bool | None) -> Any:
    """The class for the values of a configuration: of the code beside it, which is run, if that is trusted.

    Raises:
        CheckpointError: the code is trusted and is not there, or not made for this library.
        ConfigError: there is no class but in the code, and that is not trusted.
    """
    references, model_type = values.get(AUTO_MAP), values.get("model_type")
    if not isinstance(references, Mapping) or auto not in references:
        return _class_for(auto, model_type)
    if trusted:
        found = load_class(references, auto, find, where)
        if not issubclass(found, PreTrainedConfig if auto == "AutoConfig" else PreTrainedModel):
            raise CheckpointError(f"{where}: {references[auto]} is no class of flaxmodels' for {auto}")
        found.register_for_auto_class(auto)
        return found
    if (auto, model_type) in _CUSTOM or (model_type in ARCHITECTURES and not has_code(references, auto, find)):
        return _class_for(auto, model_type)
    raise ConfigError(
        f"{where}: its class for {auto} is in code beside it, {references[auto]}: read that and, if you trust it, pass "
        "trust_remote_code=True, which runs it"
    )


def _find_nothing(name: str) -> None:
    """There are no files."""


class AutoConfig:
    """Chooses the configuration class by `model_type`."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **kwargs: Any) -> PreTrainedConfig:
        """The configuration of a folder, a file or a Hub id.

        With `trust_remote_code=True` a class that is registered by `register_for_auto_class` is that of the file beside
        it, which is run.

        Raises:
            CheckpointError: there is no configuration, or it cannot be read.
            ConfigError: its `model_type` is not known, or it cannot be computed.
        """
        hub, overrides = split_hub_kwargs(check_arguments(kwargs))
        location = resolve(name_or_path, **hub)
        values = location.config()
        kind = _chosen_class("AutoConfig", values, location.find, location.root, kwargs.get("trust_remote_code"))
        return kind.from_dict(values, **overrides)

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

        With `trust_remote_code=True` a class that is registered by `register_for_auto_class` is that of the file beside
        the weights, which is run.

        Raises:
            ConfigError: a configuration of a `model_type` that is not known, or has no class for the task.
            CheckpointError, CheckpointMismatch, FlaxModelsError: as `PreTrainedModel.from_pretrained`.
        """
        hub, _ = split_hub_kwargs(kwargs)
        location = locate(name_or_path, hub, gguf_file, config is not None and kwargs.get("state_dict") is not None)
        config = location.config() if config is None else config_values(config, hub)
        kind = cls._class(config, location.find, location.root, kwargs.get("trust_remote_code"))
        return kind.from_pretrained(location, *args, config=config, **kwargs)

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> PreTrainedModel:
        """A freshly initialised model.

        Raises:
            ConfigError: as `from_pretrained`.
        """
        find, trusted = finder_of(type(config)), kwargs.get("trust_remote_code")
        return cls._class(config, find or _find_nothing, type(config).__name__, trusted)(config, **kwargs)

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
    def _class(
        cls, config: Any, find: Finder = _find_nothing, where: str = "config", trusted: bool | None = None
    ) -> Any:
        if not isinstance(config, Mapping) and not hasattr(config, "model_type"):
            raise ConfigError(f"expected a configuration, got {brief(config)}")
        values = config if isinstance(config, Mapping) else {"model_type": config.model_type} | vars(config)
        return _chosen_class(cls.__name__, values, find, where, trusted)


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

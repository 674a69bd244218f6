"""Configurations: Hugging Face `config.json` files of transformers v4 and v5 in, the same out."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Self, dataclass_transform

from flaxmodels.changes import count_change
from flaxmodels.errors import ConfigError
from flaxmodels.files.reading import read_json
from flaxmodels.files.resolve import CONFIG_NAME, resolve, split_hub_kwargs


@dataclass_transform(kw_only_default=True)
class PreTrainedConfig:
    """What a model computes.

    A subclass lists its fields with their defaults as annotated class attributes. Keys of a `config.json` that no
    field describes are kept, can be read as attributes, and are written back. `attribute_map` gives the names of an
    architecture's own vocabulary (`n_embd`) to the common ones (`hidden_size`). `sub_configs` gives the classes of
    those fields that are configurations themselves; `base_config_key` is the field of a larger model's configuration
    that holds this one, so that a part of that model can be loaded by itself.
    """

    model_type: ClassVar[str] = ""
    attribute_map: ClassVar[dict[str, str]] = {}
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {}
    base_config_key: ClassVar[str] = ""
    default_num_labels: ClassVar[int] = 2
    choices: ClassVar[dict[str, Collection[str]]] = {}
    """The values that fields may have, if any."""
    multiples: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Fields whose value must be a multiple of that of another; but not of the number of heads with a `head_dim`."""

    architectures: list[str] | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    id2label: dict[int, str] | None = None
    label2id: dict[str, int] | None = None
    is_decoder: bool = False
    is_encoder_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict: bool = True
    problem_type: str | None = None

    def __init__(self, **values: Any):
        labels = values.pop("num_labels", None)
        self._keys: tuple[str, ...] | None = None
        for name, default in _fields(type(self)).items():
            setattr(self, name, copy.copy(default))
        for name, value in values.items():
            setattr(self, name, value)
        for name, kind in self.sub_configs.items():
            given = getattr(self, name)
            setattr(self, name, kind() if given is None else kind.from_any(given))
        if self.id2label is not None:
            self.id2label = {int(number): label for number, label in self.id2label.items()}
        if labels is not None and labels != self.num_labels:
            self.num_labels = labels
        self.validate()

    def __setattr__(self, name: str, value: Any) -> None:
        count_change()
        super().__setattr__(type(self).attribute_map.get(name, name), value)

    def __getattr__(self, name: str) -> Any:
        own = type(self).attribute_map.get(name)
        if own is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no value {name!r}")
        return getattr(self, own)

    def validate(self) -> None:
        """Raise `ConfigError` naming every value that would change the numbers and is not implemented."""
        if problems := self.problems():
            raise ConfigError(f"{type(self).__name__} cannot be computed:\n" + "\n".join(f"  - {p}" for p in problems))

    def problems(self) -> list[str]:
        """One line for each value that is contradictory or not implemented; subclasses add theirs."""
        found = [
            f"{name}={value!r}: expected one of {', '.join(sorted(known))}"
            for name, known in self.choices.items()
            if (value := getattr(self, name)) and value not in known
        ]
        return found + [
            f"{whole}={getattr(self, whole)} is not a multiple of {part}={getattr(self, part)}"
            for whole, part in self.multiples
            if getattr(self, whole) % getattr(self, part)
            and not (part == "num_attention_heads" and getattr(self, "head_dim", None))
        ]

    @property
    def num_labels(self) -> int:
        """Number of classes of a classification head; `default_num_labels` unless labels are given."""
        return self.default_num_labels if self.id2label is None else len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        self.id2label = {number: f"LABEL_{number}" for number in range(count)}
        self.label2id = {label: number for number, label in self.id2label.items()}

    # ---- what the parts of a model ask, whatever an architecture calls it

    @property
    def target_vocab_size(self) -> int:
        """Number of words that a decoder reads and predicts; those of an encoder may be others."""
        return self.vocab_size

    @property
    def kv_heads(self) -> int:
        """Number of key-value heads; as many as query heads unless configured."""
        return getattr(self, "num_key_value_heads", None) or self.num_attention_heads

    @property
    def features_per_head(self) -> int:
        """`head_dim`, or `hidden_size / num_attention_heads` where it is not configured."""
        return getattr(self, "head_dim", None) or self.hidden_size // self.num_attention_heads

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        """How many tokens each layer looks back over, itself included; `None` for all."""
        return (None,) * self.num_hidden_layers

    @classmethod
    def from_dict(cls, values: dict[str, Any], **overrides: Any) -> Self:
        """A configuration from the contents of a `config.json`; `overrides` win and must be known names.

        An override of a part that is a configuration itself may name some of its values only.
        """
        values = cls.own_part(values)
        overrides = cls.check_overrides(values, overrides)
        for name in cls.sub_configs.keys() & overrides.keys():
            if isinstance(values.get(name), dict) and isinstance(overrides[name], dict):
                overrides = overrides | {name: values[name] | overrides[name]}
        config = cls(**{name: value for name, value in (values | overrides).items() if name != "model_type"})
        config._keys = tuple(values)
        return config

    @classmethod
    def own_part(cls, values: dict[str, Any]) -> dict[str, Any]:
        """`values`, or, if they are of a larger model, those that describe this one."""
        nested = values.get(cls.base_config_key)
        return nested if isinstance(nested, dict) else values

    @classmethod
    def check_overrides(cls, values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
        """`overrides`, or `ConfigError` naming those that are neither fields nor keys of the file."""
        known = {*_fields(cls), *values, *cls.attribute_map, "num_labels"}
        if unknown := sorted(set(overrides) - known):
            raise ConfigError(f"{cls.__name__} has no field {', '.join(map(repr, unknown))}: check the spelling")
        return overrides

    @classmethod
    def from_any(cls, config: Any) -> Self:
        """`config` itself, or ours made of a mapping or of a transformers configuration object."""
        if isinstance(config, cls):
            return config
        values = config if isinstance(config, dict) else config.to_dict() if hasattr(config, "to_dict") else None
        if values is None:
            raise ConfigError(f"expected a {cls.__name__}, got {type(config).__name__}")
        values = cls.own_part(values)
        if (found := values.get("model_type", cls.model_type)) != cls.model_type and cls.model_type:
            raise ConfigError(f"expected a configuration of model_type {cls.model_type!r}, got {found!r}")
        return cls.from_dict(values)

    @classmethod
    def from_json_file(cls, path: str | Path, **overrides: Any) -> Self:
        """A configuration from a `config.json` file."""
        return cls.from_dict(read_json(path), **overrides)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **kwargs: Any) -> Self:
        """The configuration of a Hub id, a folder or a file. Keywords of the Hub, then overrides of fields."""
        hub, overrides = split_hub_kwargs(kwargs)
        return cls.from_dict(resolve(name_or_path, **hub).config(), **overrides)

    def to_dict(self) -> dict[str, Any]:
        """The keys that came in, with their present values, and every field that differs from its default.

        A configuration that did not come from a file gives all its fields.
        """
        values = {name: value for name, value in vars(self).items() if name != "_keys"}
        if self._keys is not None:
            defaults = _fields(type(self))
            named = {key: type(self).attribute_map.get(key, key) for key in self._keys}
            given = {key: values[name] for key, name in named.items() if name in values}
            further = {name: value for name, value in values.items() if name not in named.values()}
            values = given | {k: v for k, v in further.items() if k not in defaults or v != defaults[k]}
        return {"model_type": self.model_type} | {name: _plain(value) for name, value in values.items()}

    def to_json_string(self, **updates: Any) -> str:
        """The contents of `config.json`, with `updates` in it."""
        return json.dumps(self.to_dict() | updates, indent=2, default=str) + "\n"

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` into `folder`, which is made if absent."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / CONFIG_NAME).write_text(self.to_json_string(), encoding="utf-8")

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def _plain(value: Any) -> Any:
    """A copy of a field's value as it stands in a file, where a nested configuration may lack its `model_type`."""
    if not isinstance(value, PreTrainedConfig):
        return copy.deepcopy(value)
    values = value.to_dict()
    if value._keys is not None and "model_type" not in value._keys:
        del values["model_type"]
    return values


def _fields(cls: type) -> dict[str, Any]:
    """Annotated fields of a class and its bases, with their defaults, the most basic first."""
    return {
        name: getattr(cls, name)
        for base in reversed(cls.__mro__)
        for name, kind in vars(base).get("__annotations__", {}).items()
        if not name.startswith("_") and not str(kind).startswith("ClassVar")
    }

"""Configurations: Hugging Face `config.json` files of transformers v4 and v5 in, the same out."""

from __future__ import annotations

import copy
import functools
import inspect
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from annotated_types import Predicate, doc

from flaxmodels.arguments import check_arguments
from flaxmodels.errors import ConfigError
from flaxmodels.fields import (
    ABSENT,
    Field,
    LabelCount,
    SpecialId,
    SpecialIds,
    TokenId,
    brief,
    fields_of,
    kind_of,
    too_deep,
    unknown_names,
)
from flaxmodels.files import remote_code
from flaxmodels.files.commit import replace_text
from flaxmodels.files.location import CONFIG_NAME, resolve
from flaxmodels.files.reading import read_json
from flaxmodels.files.repository import split_hub_kwargs
from flaxmodels.files.saved_files import SAVED_FILES, saved_files
from flaxmodels.hub.mixin import PushToHubMixin
from flaxmodels.read_only import read_only

METADATA = frozenset(
    {
        *("name_or_path", "transformers_version", "tokenizer_class", "task_specific_params", "finetuning_task"),
        *("dtype", "torch_dtype", "attn_implementation", "auto_map", "use_cache", "gradient_checkpointing"),
        *("torchscript", "tf_legacy_loss", "use_bfloat16", "output_past", "chunk_size_feed_forward", "pruned_heads"),
        *("prefix", "sep_token_id", "decoder_start_token_id", "tie_encoder_decoder", "cross_attention_hidden_size"),
    }
)
"""What scripts and files of transformers say of any configuration, beside its fields."""

GENERATION_SETTINGS = frozenset(
    {
        *("max_length", "min_length", "max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "typical_p"),
        *("num_beams", "num_beam_groups", "num_return_sequences", "diversity_penalty", "length_penalty"),
        *("early_stopping", "repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
        *("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
        *("forced_decoder_ids", "exponential_decay_length_penalty", "remove_invalid_values", "output_scores"),
        "return_dict_in_generate",
    }
)
"""Settings of generation, which configurations of transformers v4 hold too."""

_LABEL_COUNT = kind_of(LabelCount)
_PRIVATE = frozenset({"_keys", "_aside", "_version", "_validated"})
"""Attributes that are no values."""


class ModelTypeError(ConfigError):
    """A configuration of another `model_type`, which is `found`."""

    def __init__(self, expected: str, found: Any):
        super().__init__(f"expected a configuration of model_type {expected!r}, got {brief(found)}")
        self.found = found


def _alias(own: str) -> property:
    """Another name of a field."""
    return property(lambda config: getattr(config, own), lambda config, value: setattr(config, own, value))


class PreTrainedConfig(PushToHubMixin):
    """What a model computes.

    A subclass lists its fields, with the kinds of values that they may hold (`flaxmodels.fields`) and their defaults,
    as annotated class attributes. Whatever sets a field is checked by its annotation; what relates several fields is
    checked by `validation_errors` when a configuration or a model is made.

    A model hears of every change: attributes can be set, and its next call computes what they say; not so a program
    that was compiled around it, by `jax.jit` and the like. Dicts and lists are held as ones that cannot be changed in
    place, as that would go unheard.

    Keys of a `config.json` that no field describes are kept, can be read as attributes unless the class has something
    else of that name, and are written back; in code, a keyword that is no field is refused. `attribute_map` gives the
    names of an architecture's own vocabulary (`n_embd`) to the common ones (`hidden_size`). `sub_configs` gives the
    classes of those fields that are configurations themselves; `base_config_key` is the field of a larger model's
    configuration that holds this one, so that a part of that model can be loaded by itself.
    """

    pushed_as = "config"
    model_type: ClassVar[str] = ""
    attribute_map: ClassVar[dict[str, str]] = {}
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {}
    base_config_key: ClassVar[str] = ""
    default_num_labels: ClassVar[int] = 2
    multiples: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Fields whose value must be a multiple of that of another; but not of the number of heads with a `head_dim`."""
    lengths: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Lists, which may be `None`, and the fields that say how many items they have."""

    architectures: list[str] | None = None
    bos_token_id: SpecialId | None = None
    eos_token_id: SpecialIds | None = None
    pad_token_id: SpecialId | None = None
    id2label: dict[TokenId, str | int] | None = None
    label2id: dict[str | int, str | int] | None = None
    is_decoder: bool = False
    is_encoder_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    output_attentions: bool | None = False
    output_hidden_states: bool | None = False
    return_dict: bool | None = True
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None

    per_layer_config: Annotated[
        dict | None, Predicate(lambda values: not values), doc("None, as layers that differ are not implemented")
    ] = ABSENT

    _auto_class: ClassVar[str | None] = None
    """The `Auto...` class that a class of a user's own is registered for."""
    _keys: ClassVar[tuple[str, ...] | None] = None
    """Of the file that a configuration was made of."""
    _aside: ClassVar[dict[str, Any]] = {}
    """Keys of that file that cannot be attributes, and their values."""
    _version: ClassVar[int] = 0
    """How often a value was set."""
    _validated: ClassVar[Any] = None
    """The `state_version` that was found valid."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        for name, own in cls.attribute_map.items():
            setattr(cls, name, _alias(own))

    def __init__(self, /, **values: Any):
        cls = type(self)
        _refuse_unknown(cls, values, METADATA | GENERATION_SETTINGS)
        if (stated := values.pop("model_type", cls.model_type)) != cls.model_type and cls.model_type:
            raise ModelTypeError(cls.model_type, stated)
        count = values.pop("num_labels", None)
        fields, state = fields_of(cls), vars(self)
        defaults = {name: field.default for name, field in fields.items() if field.default is not ABSENT}
        state |= {name: read_only(default, name) for name, default in defaults.items()}
        for name, value in (dict.fromkeys(self.sub_configs) | cls._own_names(values)).items():
            if name in fields or not hasattr(cls, name):
                state[name] = self._converted(name, value)
            else:
                setattr(self, name, value)
        wrong = [*([] if count is None else _LABEL_COUNT.problems("num_labels", count)), *self._errors()]
        _refuse(cls, wrong)
        state["_validated"] = self.state_version
        if count not in (None, self.num_labels):
            self.num_labels = count

    @property
    def state_version(self) -> Any:
        """A value that is another one after every change of this configuration or of one in it."""
        if not self.sub_configs:
            return self._version
        return (self._version, *(getattr(vars(self)[name], "state_version", None) for name in self.sub_configs))

    def __setattr__(self, name: str, value: Any) -> None:
        if field := fields_of(type(self)).get(name):
            value = self._converted(name, value)
            _refuse(type(self), self._field_errors(name, field, value))
        super().__setattr__(name, read_only(value, name))
        self._count_change()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._count_change()

    def _count_change(self) -> None:
        vars(self)["_version"] = self._version + 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: read_only(value, name) for name, value in state.items()})

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Set several attributes, each as by itself."""
        for name, value in config_dict.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__} has no value {name!r}")

    def _converted(self, name: str, value: Any) -> Any:
        """The value of a field as it is held; what cannot be converted is left as it is, and refused later."""
        if name in ("id2label", "pruned_heads") and isinstance(value, dict):
            value = _numbered(value)
        if kind := self.sub_configs.get(name):
            with suppress(ConfigError):
                return kind() if value is None else kind.from_any(value)
            return value
        return read_only(value, name)

    def _field_errors(self, name: str, field: Field, value: Any) -> list[str]:
        if name not in self.sub_configs:
            return field.kind.problems(name, value)
        try:
            self.sub_configs[name].from_any(value)
        except ConfigError as error:
            return [f"{name}: {error}"]
        return []

    def validate(self) -> None:
        """Raise `ConfigError` naming every value that is not what its field holds, contradicts another, or would change
        the numbers and is not implemented."""
        if self._validated != (version := self.state_version):
            _refuse(type(self), self._errors())
            vars(self)["_validated"] = version

    def _errors(self) -> list[str]:
        fields, values = fields_of(type(self)), vars(self)
        wrong = {
            name: lines
            for name, field in fields.items()
            if name in values and (lines := self._field_errors(name, field, values[name]))
        }
        # What relates fields can be computed of wrong choices, but not of wrong numbers.
        harmless = all(fields[name].kind.is_choice and isinstance(values[name], str) for name in wrong)
        return [line for lines in wrong.values() for line in lines] + (self.validation_errors() if harmless else [])

    def validation_errors(self) -> list[str]:
        """One line for each contradiction between values, each of which is of its kind, and for each value that is not
        implemented; subclasses add theirs."""
        found = [
            f"{whole}={getattr(self, whole)} is not a multiple of {part}={getattr(self, part)}"
            for whole, part in self.multiples
            if getattr(self, whole) % getattr(self, part)
            and not (part == "num_attention_heads" and getattr(self, "head_dim", None))
        ]
        return found + [
            f"len({name})={len(items)}: expected {count}={getattr(self, count)}"
            for name, count in self.lengths
            if (items := getattr(self, name, None)) is not None and len(items) != getattr(self, count)
        ]

    @property
    def num_labels(self) -> int:
        """Number of classes of a classification head; `default_num_labels` unless labels are given."""
        return self.default_num_labels if self.id2label is None else len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        _refuse(type(self), _LABEL_COUNT.problems("num_labels", count))
        self.id2label = {number: f"LABEL_{number}" for number in range(count)}
        self.label2id = {label: number for number, label in self.id2label.items()}

    # ---- what the parts of a model ask, whatever an architecture calls it

    @property
    def target_vocab_size(self) -> int:
        """Number of tokens that a decoder reads and predicts; an encoder may have another vocabulary."""
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
    def layer_kv_heads(self) -> tuple[int, ...]:
        """Number of key-value heads of each layer, `kv_heads` but for those that were pruned."""
        pruned = getattr(self, "pruned_heads", None) or {}
        return tuple(self.kv_heads - len(pruned.get(layer, ())) for layer in range(len(self.attention_windows)))

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        """How many tokens each layer attends to, the own one included; `None` for all."""
        return (None,) * self.num_hidden_layers

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], /, **overrides: Any) -> Self:
        """A configuration from the contents of a `config.json`; `overrides` win and must be fields.

        An override of a part that is a configuration itself may name some of its values only.

        Raises:
            ConfigError: values that are not what their fields hold, contradict each other, or are not implemented;
                contents of another `model_type`; overrides that are no fields.
        """
        _refuse_unknown(cls, overrides, METADATA)
        values = {name: value for name, value in cls.own_part(values).items() if name != SAVED_FILES}
        _refuse(cls, too_deep(values))
        given, overrides = cls._own_names(values, but=overrides), cls._own_names(overrides)
        for name in cls.sub_configs.keys() & overrides.keys():
            if isinstance(given.get(name), dict) and isinstance(overrides[name], dict):
                overrides = overrides | {name: given[name] | overrides[name]}
        given |= overrides
        known = _names(cls) | {"model_type"}
        further = {name: value for name, value in given.items() if name not in known}
        config = cls(**{name: value for name, value in given.items() if name in known})
        aside = {name: value for name, value in further.items() if hasattr(cls, name) or name.startswith("__")}
        vars(config).update({name: config._converted(name, further[name]) for name in further.keys() - aside.keys()})
        vars(config).update(_keys=tuple(values), _aside=aside)
        config._count_change()
        return config

    @classmethod
    def own_part(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """`values`, or, if they are of a larger model, those that describe this one.

        Raises:
            ConfigError: they are not a mapping with strings as keys.
        """
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise ConfigError(f"expected the values of a {cls.__name__} by name, got {brief(values)}")
        nested = values.get(cls.base_config_key) if cls.base_config_key else None
        return nested if isinstance(nested, Mapping) else values

    @classmethod
    def _own_names(cls, values: Mapping[str, Any], but: Iterable[str] = ()) -> dict[str, Any]:
        """`values` under the names of the fields; `ConfigError` if two names of one field differ, `but` for those."""
        found, overridden = {}, {cls.attribute_map.get(name, name) for name in but}
        for name, value in values.items():
            own = cls.attribute_map.get(name, name)
            if own in found and found[own] != value and own not in overridden:
                names = [other for other in values if cls.attribute_map.get(other, other) == own]
                line = " and ".join(f"{other}={brief(values[other])}" for other in names)
                _refuse(cls, [f"{line} are names of one field: give it one value"])
            found[own] = value
        return found

    @classmethod
    def from_any(cls, config: Any) -> Self:
        """`config` itself, validated anew, or ours made of a mapping or of a transformers configuration object.

        Raises:
            ConfigError: it is none of these, or as `from_dict`.
        """
        if isinstance(config, cls):
            config.validate()
            return config
        values = config.to_dict() if hasattr(config, "to_dict") else config
        if not isinstance(values, Mapping):
            raise ConfigError(f"expected a {cls.__name__}, got {type(config).__name__}")
        return cls.from_dict(values)

    @classmethod
    def from_json_file(cls, path: str | Path, **overrides: Any) -> Self:
        """A configuration from a `config.json` file.

        Raises:
            CheckpointError: the file is absent, or not JSON.
            ConfigError: as `from_dict`.
        """
        return cls.from_dict(read_json(path), **overrides)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **kwargs: Any) -> Self:
        """The configuration of a Hub id, a folder or a file. Keywords of the Hub, then overrides of fields.

        Raises:
            CheckpointError: there is no configuration, or it cannot be read.
            ConfigError: as `from_dict`.
        """
        hub, overrides = split_hub_kwargs(check_arguments(kwargs))
        return cls.from_dict(resolve(name_or_path, **hub).config(), **overrides)

    def to_dict(self) -> dict[str, Any]:
        """The keys that came in, with their present values, and every field that differs from its default.

        A configuration that did not come from a file gives all its fields.
        """
        values = {name: value for name, value in vars(self).items() if name not in _PRIVATE} | self._aside
        if own := remote_code.auto_map([type(self)]):
            values[remote_code.AUTO_MAP] = {**values.get(remote_code.AUTO_MAP, {}), **own}
        if self._keys is not None:
            fields = fields_of(type(self))
            named = {key: type(self).attribute_map.get(key, key) for key in self._keys}
            given = {key: values[name] for key, name in named.items() if name in values}
            further = {name: value for name, value in values.items() if name not in named.values()}
            values = given | {k: v for k, v in further.items() if k not in fields or v != fields[k].default}
        return {"model_type": self.model_type} | {name: _plain(value) for name, value in values.items()}

    def to_json_string(self, **updates: Any) -> str:
        """The contents of `config.json`, with `updates` in it."""
        return as_json(self.to_dict() | updates)

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `config.json` into a folder, which is made if absent, and the source of a registered class.

        Args:
            save_directory: the folder.
            push_to_hub: also push the file to the Hub, into the repository `repo_id` or one named like the folder.
            kwargs: arguments of `push_to_hub`.

        Raises:
            CheckpointError: the disk is full, or the folder is not writable.
            HubError, FlaxModelsError, TypeError: as `push_to_hub`.
        """
        folder = Path(save_directory)
        with self.pushing(folder, push_to_hub, kwargs):
            record = {SAVED_FILES: found} if (found := saved_files(folder)) else {}
            for name, text in remote_code.sources([type(self)]).items():
                replace_text(folder, name, text)
            replace_text(folder, CONFIG_NAME, self.to_json_string(**record))

    @classmethod
    def register_for_auto_class(cls, auto_class: str | type = "AutoConfig") -> None:
        """Save the source of this class, which is of a user's own, with each of its configurations and their models.

        `AutoConfig.from_pretrained` then finds it there with `trust_remote_code=True`, which runs it.

        Raises:
            FlaxModelsError: another class than `AutoConfig`, or this one is of the library.
        """
        cls._auto_class = remote_code.registered(cls, auto_class, ["AutoConfig"])

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


def as_json(values: Mapping[str, Any]) -> str:
    """The contents of a `config.json` with these values."""
    return json.dumps(values, indent=2, default=_in_json) + "\n"


def _in_json(value: Any) -> Any:
    """What a file has in place of a value that is not of JSON."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


def _numbered(labels: dict[Any, Any]) -> dict[Any, Any]:
    """Labels by number, which is a string in a file; as they are if that cannot be."""
    try:
        numbered = {int(key) if isinstance(key, str) else key: label for key, label in labels.items()}
    except ValueError:
        return labels
    return numbered if len(numbered) == len(labels) else labels


@functools.cache
def _names(cls: type[PreTrainedConfig]) -> frozenset[str]:
    """The fields of a class, and properties that can be set: other names of fields, and the number of labels."""
    properties = (name for name in dir(cls) if getattr(inspect.getattr_static(cls, name), "fset", None) is not None)
    return frozenset(fields_of(cls)) | frozenset(properties)


def _refuse(cls: type[PreTrainedConfig], errors: Iterable[str]) -> None:
    if lines := ["\n  - " + error.replace("\n", "\n    ") for error in errors]:
        raise ConfigError(f"{cls.__name__} cannot be computed:" + "".join(lines))


def _refuse_unknown(cls: type[PreTrainedConfig], given: Iterable[str], metadata: frozenset[str]) -> None:
    """Raise `ConfigError` for keywords that are not known; private ones, of transformers, may be anything."""
    known = _names(cls) | metadata | {"model_type"}
    odd = [name for name in given if name not in known and (hasattr(cls, name) or not name.startswith("_"))]
    of_generation = GENERATION_SETTINGS.intersection(odd)
    lines = unknown_names(cls.__name__, "field", (name for name in odd if name not in of_generation), known)
    lines += [f"{cls.__name__} has no field {name!r}: it is a setting of generate()" for name in sorted(of_generation)]
    if lines:
        raise ConfigError("\n".join(lines))

"""Configurations of models whose layers differ in their windows and rotary positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import ConfigError
from flaxmodels.fields import ABSENT, LayerType, Length, Positive
from flaxmodels.nn.rope import RopeConfig, rope_parameters


def types_by_layer(count: int, slides: Callable[[int], bool]) -> list[LayerType]:
    """The types of `count` layers: "sliding_attention" for the numbers that `slides` is true of."""
    return ["sliding_attention" if slides(number) else "full_attention" for number in range(count)]


def windows_by_layer(layer_types: Iterable[str], sliding_window: int | None) -> tuple[int | None, ...]:
    """How many tokens each layer attends to, the own one included: `sliding_window` in those of "sliding_attention"."""
    return tuple(sliding_window if layer_type == "sliding_attention" else None for layer_type in layer_types)


class LayerRopesConfig(PreTrainedConfig):
    """Configuration of a model whose layers have rotary positions."""

    @property
    def ropes(self) -> tuple[RopeConfig | None, ...]:
        """The rotary embedding of each layer; `None` for none."""
        raise NotImplementedError

    def rope_errors(self) -> list[str]:
        """What is wrong with `ropes`."""
        try:
            self.ropes  # noqa: B018
        except ConfigError as error:
            return [str(error)]
        return []

    def rope_of(self, fields: dict[str, Any]) -> RopeConfig:
        """The rotary embedding that fields of a `config.json` describe; `ConfigError` if they describe none."""
        return RopeConfig.from_parameters(
            rope_parameters(fields),
            head_dim=self.features_per_head,
            max_position_embeddings=self.max_position_embeddings,
        )

    def ropes_by_type(self, parameters: Mapping[LayerType, dict[str, Any]]) -> dict[LayerType, RopeConfig]:
        """The rotary embedding of each type of layer, from its `rope_parameters`."""
        length = {"max_position_embeddings": self.max_position_embeddings}
        return {kind: self.rope_of({"rope_parameters": own} | length) for kind, own in parameters.items()}


class RotaryConfig(LayerRopesConfig):
    """Configuration of a model with rotary positions, as files of transformers v4 or v5 describe them."""

    default_theta: ClassVar[float] = 10000.0
    """`rope_theta` where a file states none."""

    rope_theta: Positive | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    partial_rotary_factor: Positive | None = ABSENT
    original_max_position_embeddings: Length | None = ABSENT

    def validation_errors(self) -> list[str]:
        found = super().validation_errors()
        if self.num_attention_heads % self.kv_heads:
            found.append(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.kv_heads}"
            )
        return found + self.rope_errors()

    @property
    def rope_fields(self) -> dict[str, Any]:
        """The fields that `rope_parameters` of `flaxmodels.nn.rope` reads."""
        return vars(self) | {"rope_theta": self.rope_theta or self.default_theta}

    @property
    def rope(self) -> RopeConfig:
        """The rotary embedding, where all layers have the same."""
        return self.rope_of(self.rope_fields)

    @property
    def ropes(self) -> tuple[RopeConfig | None, ...]:
        return (self.rope,) * self.num_hidden_layers

    def to_dict(self) -> dict[str, Any]:
        """As for all, without empty fields that transformers would read a `None` of."""
        inferred = ("rope_theta", "rope_scaling", "rope_parameters", "head_dim")
        unset = [name for name in inferred if getattr(self, name, None) is None]
        values = super().to_dict()
        return {name: value for name, value in values.items() if name not in unset or name in (self._keys or ())}

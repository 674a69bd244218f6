"""Networks of several stages, whose feature maps other models read."""

from __future__ import annotations

from typing import Any

from flaxmodels.config import PreTrainedConfig


class BackboneConfig(PreTrainedConfig):
    """Configuration with stages: "stem", "stage1", ..., of which `out_features` or `out_indices` choose some.

    The last one is meant if neither is given; negative numbers count from the end.
    """

    stage_names: list[str] | None = None
    out_features: list[str] | None = None
    out_indices: list[int] | None = None

    @property
    def stage_count(self) -> int:
        """How many stages follow the stem."""
        return self.num_hidden_layers

    @property
    def stages(self) -> list[str]:
        """Their names."""
        return self.stage_names or ["stem", *(f"stage{number + 1}" for number in range(self.stage_count))]

    @property
    def chosen_stages(self) -> tuple[int, ...]:
        """The numbers of those that are asked for, in order."""
        if self.out_features is not None:
            return tuple(self.stages.index(name) for name in self.out_features)
        return tuple(number % len(self.stages) for number in self.out_indices or [-1])

    def validation_errors(self) -> list[str]:
        stages, found = self.stages, super().validation_errors()
        if len(stages) != self.stage_count + 1:
            return [*found, f"len(stage_names)={len(stages)}: expected a stem and {self.stage_count} stages"]
        if unknown := set(self.out_features or ()) - set(stages):
            return [*found, f"out_features={sorted(unknown)}: expected names among {stages}"]
        if not all(-len(stages) <= number < len(stages) for number in self.out_indices or ()):
            return [*found, f"out_indices={self.out_indices}: there are {len(stages)} stages"]
        chosen = self.chosen_stages
        if list(chosen) != sorted(set(chosen)):
            found.append(f"out_features or out_indices, stages {list(chosen)}: expected each once, in ascending order")
        named = tuple(number % len(stages) for number in self.out_indices or ())
        if None not in (self.out_features, self.out_indices) and named != chosen:
            found.append(f"out_features={self.out_features} and out_indices={self.out_indices} differ")
        return found

    def to_dict(self) -> dict[str, Any]:
        """As for all, with the names of the stages where the field is not left out."""
        values = super().to_dict()
        return values | ({"stage_names": self.stages} if "stage_names" in values else {})

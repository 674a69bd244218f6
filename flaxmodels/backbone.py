"""Networks of several stages, whose feature maps other models read."""

from __future__ import annotations

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
    def chosen_stages(self) -> list[int]:
        """The numbers of those that are asked for, in order."""
        if self.out_features is not None:
            return [self.stages.index(name) for name in self.out_features]
        return [number % len(self.stages) for number in self.out_indices or [-1]]

    def problems(self) -> list[str]:
        return super().problems() + self._wrong_stages()

    def _wrong_stages(self) -> list[str]:
        known = ", ".join(self.stages)
        if unknown := [name for name in self.out_features or () if name not in self.stages]:
            return [f"out_features={unknown}: expected some of {known}"]
        count = len(self.stages)
        if beyond := [number for number in self.out_indices or () if not -count <= number < count]:
            return [f"out_indices={beyond}: expected numbers below {count}"]
        named = [self.stages[number % count] for number in self.out_indices or ()]
        if self.out_features is not None and self.out_indices is not None and named != self.out_features:
            return [f"out_features={self.out_features} and out_indices={self.out_indices} name different stages"]
        if self.chosen_stages != sorted(set(self.chosen_stages)):
            return [f"out_features and out_indices must be in the order of the stages: {known}"]
        return []

"""What all backbones share: models whose outputs are the feature maps of chosen stages, for detectors and the like."""

from __future__ import annotations

from flaxmodels.config import PreTrainedConfig


class BackboneConfig(PreTrainedConfig):
    """A configuration that chooses stages by name or by number; the last one if it says nothing.

    Attributes:
        out_features: names among `stages`, in their order.
        out_indices: their numbers, in place of the names or beside them; negative ones count from the end.
    """

    out_features: list[str] | None = None
    out_indices: list[int] | None = None

    @property
    def stages(self) -> list[str]:
        """The names of all stages: what enters the layers, then what each of them returns."""
        return ["stem", *(f"stage{number}" for number in range(1, self.num_hidden_layers + 1))]

    @property
    def chosen_stages(self) -> tuple[int, ...]:
        """The numbers of the stages whose features are returned."""
        if self.out_features is not None:
            return tuple(self.stages.index(name) for name in self.out_features)
        count = len(self.stages)
        return (count - 1,) if self.out_indices is None else tuple(number % count for number in self.out_indices)

    def problems(self) -> list[str]:
        stages, found = self.stages, super().problems()
        if unknown := set(self.out_features or ()) - set(stages):
            return [*found, f"out_features={sorted(unknown)}: expected names among {stages}"]
        if self.out_indices and not all(-len(stages) <= number < len(stages) for number in self.out_indices):
            return [*found, f"out_indices={self.out_indices}: there are {len(stages)} stages"]
        chosen = self.chosen_stages
        if list(chosen) != sorted(set(chosen)):
            found.append(f"out_features or out_indices, stages {list(chosen)}: expected each once, in ascending order")
        if None not in (self.out_features, self.out_indices):
            numbers = tuple(number % len(stages) for number in self.out_indices or ())
            if numbers != chosen:
                found.append(f"out_features={self.out_features} and out_indices={self.out_indices} differ")
        return found

"""Which of the weights of a model are meant, where there may be several."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from flaxmodels.errors import CheckpointError, FlaxModelsError

_FRAMEWORKS = {".h5": "from_tf", ".msgpack": "from_flax", ".orbax": "from_flax", ".gguf": "from_gguf"}
"""By suffix; torch's if not here."""


@dataclass(frozen=True)
class Selection:
    """What a caller says of the weights; the order of formats decides the rest.

    Attributes:
        variant: `model.{variant}.safetensors` and the like.
        use_safetensors: only safetensors if true, none if false.
        from_pt, from_flax, from_tf: only files of that framework.
    """

    variant: str | None = None
    use_safetensors: bool | None = None
    from_pt: bool = False
    from_flax: bool = False
    from_tf: bool = False

    def __post_init__(self) -> None:
        if len(self._frameworks) > 1:
            raise FlaxModelsError(f"{' and '.join(self._frameworks)} exclude each other: give one")

    @property
    def _frameworks(self) -> list[str]:
        return [name for name in ("from_pt", "from_flax", "from_tf") if getattr(self, name)]

    def includes(self, name: str) -> bool:
        """Whether a file of that name, or an index of such files, may be meant."""
        framework = "from_flax" if re.match(r"flax_model\b", name) else _FRAMEWORKS.get(_suffix(name), "from_pt")
        is_safetensors = _suffix(name) == ".safetensors"
        return self._frameworks in ([], [framework]) and self.use_safetensors in (None, is_safetensors)

    def check(self, name: str, layout: str) -> None:
        """Refuse a file that was named and is not what is meant.

        Args:
            name: of the file.
            layout: "torch" or "flax", as the file itself says.

        Raises:
            CheckpointError: naming the argument.
        """
        if not self.includes(f"flax_model{_suffix(name)}" if layout == "flax" else name):
            asked = [*self._frameworks, *([] if self.use_safetensors is None else ["use_safetensors"])]
            given = ", ".join(f"{argument}={getattr(self, argument)}" for argument in asked)
            raise CheckpointError(
                f"{name} holds weights in {layout} layout, which {given} excludes: leave the argument out, or "
                "name another file"
            )


def _suffix(name: str) -> str:
    """The suffix of a file of weights, or of those that an index of this name names."""
    return Path(re.sub(r"\.index(\..+)?\.json$", "", name)).suffix

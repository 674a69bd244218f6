"""Which of the weights of a model are meant, where there may be several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flaxmodels.errors import CheckpointError, FlaxModelsError
from flaxmodels.files.formats import FORMATS, Format, Layout, format_of


@dataclass(frozen=True)
class Selection:
    """What a caller says of the weights; the order of formats decides the rest.

    Attributes:
        variant: `model.{variant}.safetensors` and the like; with `from_flax` and `from_tf`, whose files may have none,
            those without it too.
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

    def _allows(self, framework: str, is_safetensors: bool) -> bool:
        return self._frameworks in ([], [framework]) and self.use_safetensors in (None, is_safetensors)

    def formats(self) -> Iterator[Format]:
        """The formats that may be meant, in order, of those whose files have names."""
        return (each for each in FORMATS if each.file_name and self._allows(each.framework, each.is_safetensors))

    def file_names(self) -> Iterator[str]:
        """The names of the files and indices that may be meant, in order."""
        variants = [self.variant, None] if self.variant and (self.from_flax or self.from_tf) else [self.variant]
        return (name for variant in variants for format in self.formats() for name in format.file_names(variant))

    def check(self, name: str, layout: Layout) -> None:
        """Refuse a file that was named and is not what is meant.

        Args:
            name: the name of the file.
            layout: what the file itself says of it.

        Raises:
            CheckpointError: naming the argument.
        """
        format = format_of(name)
        framework = "from_flax" if layout == "flax" else "from_pt" if format is None else format.framework
        if not self._allows(framework, format is not None and format.is_safetensors):
            asked = [*self._frameworks, *([] if self.use_safetensors is None else ["use_safetensors"])]
            given = ", ".join(f"{argument}={getattr(self, argument)}" for argument in asked)
            raise CheckpointError(
                f"{name} holds weights in {layout} layout, which {given} excludes: leave the argument out, or "
                "name another file"
            )

"""The modules that embed the input of a model and project its output."""

from __future__ import annotations

from typing import Any, ClassVar

from flaxmodels.capability import Capability


class EmbeddingAccessMixin(Capability):
    """Finds and replaces the embeddings of a model.

    Attributes:
        input_embeddings: where a base model has the module that embeds the input, its attributes joined by ".".
        position_embeddings: where it has its table of positions; "" if they are computed, or there are none.
    """

    input_embeddings: ClassVar[str] = ""
    position_embeddings: ClassVar[str] = ""

    def get_input_embeddings(self) -> Any:
        """The module that embeds the input.

        Raises:
            NotImplementedError: no module does.
        """
        owner, name = _owner(self)
        return getattr(owner, name)

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the module that embeds the input.

        Raises:
            NotImplementedError: no module does.
        """
        owner, name = _owner(self)
        setattr(owner, name, value)

    def get_output_embeddings(self) -> Any:
        """The module that projects to the vocabulary, or `None`."""
        return None


def _owner(model: EmbeddingAccessMixin) -> tuple[Any, str]:
    """The module that holds the input embeddings, and their name in it."""
    owner = model.base_model
    *path, name = owner.input_embeddings.split(".")
    if not name:
        raise NotImplementedError(f"{type(model).__name__} has no input embeddings")
    for step in path:
        owner = getattr(owner, step)
    return owner, name

"""What the capabilities of a model, which do not know each other, may count on of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from flaxmodels.config import PreTrainedConfig
from flaxmodels.nn.module import Module
from flaxmodels.policy import Policy


class Capability(Module):
    """Base of the mixins that `PreTrainedModel` is composed of.

    Attributes:
        config: what is computed.
        policy: how it is computed.
        base_model_prefix: name of the base model inside a model with a head, and in checkpoints of such models.
    """

    config: PreTrainedConfig
    policy: Policy
    base_model_prefix: ClassVar[str] = ""

    @property
    def base_model(self) -> Any:
        """The model without its head; itself if it has none."""
        return getattr(self, self.base_model_prefix, self)

    def finish_setup(self) -> None:
        """What is done to the modules once `setup` has made them, without values. A capability adds its own."""

    if TYPE_CHECKING:

        def pushing(self, folder: Path, push_to_hub: bool, options: Mapping[str, Any]) -> AbstractContextManager[Any]:
            """Push what the block writes into `folder`, if asked to: that of `flaxmodels.hub.mixin.PushToHubMixin`."""
            ...

    def companion_files(self) -> dict[str, str]:
        """Names and contents of the files that are saved beside the weights. A capability adds its own."""
        return {}

    def read_companion_files(self, find: Callable[[str], Path | None]) -> None:
        """Take what the files beside the weights say; `find` gives the path of one, or `None`."""

"""What a model takes: its arguments by name, and the checks of them before it computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from operator import attrgetter
from typing import Any, ClassVar

from flaxmodels.capability import Capability
from flaxmodels.execution.input_checks import InputChecks
from flaxmodels.execution.inputs import EXPECTED, DefaultPositions, Input, Sizes
from flaxmodels.execution.structure import structure_of
from flaxmodels.nn.embedding import embedding_sizes


class InputChecksMixin(Capability):
    """Binds and checks the inputs of calls.

    Attributes:
        expected_inputs: what inputs are where they are not as in `flaxmodels.execution.inputs.EXPECTED`.
    """

    expected_inputs: ClassVar[Mapping[str, Input]] = {}

    @property
    def input_checks(self) -> InputChecks:
        """What calls check of their inputs before they compute."""
        derived = structure_of(self).derived
        if "input_checks" not in derived:
            base = self.base_model
            expected = {**EXPECTED, **base.expected_inputs, **self.expected_inputs}
            sizes: Sizes = {name: (size, "the model") for name, size in self.input_sizes().items()}
            caches = "decoder_" if "decoder_vocab" in sizes else ""
            derived["input_checks"] = InputChecks(expected, sizes, base.default_positions, caches)
        return derived["input_checks"]

    def input_sizes(self) -> dict[str, int]:
        """Sizes of the axes and tables that `flaxmodels.execution.inputs.EXPECTED` names and the model fixes."""
        config = self.config
        fields = {"hidden": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
        sizes = {axis: getattr(config, field) for axis, field in fields.items() if hasattr(config, field)}
        if hasattr(config, "attention_windows"):
            sizes["cache_layers"] = len(config.attention_windows)
        return sizes | self.table_sizes()

    def table_sizes(self) -> dict[str, int]:
        """How many token ids, token types and positions there are."""
        base, tokens = self.base_model, None
        with suppress(NotImplementedError):
            tokens = base.get_input_embeddings()
        positions = attrgetter(base.position_embeddings)(base) if base.position_embeddings else None
        sizes = embedding_sizes(tokens, positions)
        if "vocab" in sizes:  # token types without a table of their own are looked up in the token embeddings
            sizes["token_types"] = getattr(self.config, "type_vocab_size", None) or sizes["vocab"]
        return sizes

    @property
    def default_positions(self) -> DefaultPositions:
        """Which positions tokens have where a call gives none."""
        return DefaultPositions()

    def bind_inputs(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The arguments of `function`, a method, by name, with the flags that the configuration sets; `None`s left out.

        Raises:
            TypeError: one that the method does not have.
        """
        signature = _signature(getattr(function, "__func__", function))
        try:
            inputs = signature.bind_partial(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}; it takes {', '.join(signature.parameters)}") from None
        for name in ("output_attentions", "output_hidden_states", "output_router_logits"):
            if inputs.get(name) is None and name in signature.parameters:
                inputs[name] = bool(getattr(self.config, name))
        return {name: value for name, value in inputs.items() if value is not None}


@cache
def _signature(method: Callable[..., Any]) -> inspect.Signature:
    """Of a method that is called on an object."""
    signature = inspect.signature(method)
    return signature.replace(parameters=list(signature.parameters.values())[1:])

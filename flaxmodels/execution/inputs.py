"""What the inputs of a model must be, by argument name. `flaxmodels.execution.input_checks` checks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Input:
    """What one argument must be.

    Attributes:
        kind: "integers", "floats", "numbers" of any dtype, "zeros and ones" of any dtype, or "cache".
        axes: the names of its axes; several tuples where it may have more axes or fewer. Axes of one name are equal.
        table: the size that its integers are below; "" if there is none.
        expands: whether one row may stand for all of the batch.
        spans_cache: whether it covers the whole sequence, tokens in the cache included.
    """

    def __init__(self, kind: str, *axes: str, table: str = "", expands: bool = False, spans_cache: bool = False):
        self.kind, self.axes = kind, tuple(tuple(each.split()) for each in axes)
        self.table, self.expands, self.spans_cache = table, expands, spans_cache

    def __str__(self) -> str:
        return f"{self.kind} {' or '.join(map(listed, self.axes))}"

    def per_choice(self, *, optional: bool = False) -> Input:
        """The same for models that read several sequences a row; one sequence too if `optional`."""
        batch, *others = self.axes[0]
        axes = (" ".join(self.axes[0]),) * optional + (" ".join((batch, "choices", *others)),)
        spans_cache = self.spans_cache and optional
        return Input(self.kind, *axes, table=self.table, expands=self.expands, spans_cache=spans_cache)


EXPECTED: dict[str, Input] = {
    "input_ids": Input("integers", "batch length", table="vocab"),
    "inputs_embeds": Input("floats", "batch length features"),
    "input_features": Input("floats", "batch bands frames"),
    "input_values": Input("floats", "batch samples"),
    "pixel_values": Input("floats", "batch channels height width", "batch height width channels"),
    "encoder_outputs": Input("floats", "batch source_length hidden"),
    "encoder_hidden_states": Input("floats", "batch source_length hidden"),
    "decoder_input_ids": Input("integers", "batch decoder_length", table="decoder_vocab"),
    "decoder_inputs_embeds": Input("floats", "batch decoder_length decoder_features"),
    "past_key_values": Input("cache"),
    "attention_mask": Input("zeros and ones", "batch length", "batch length length", spans_cache=True),
    "encoder_attention_mask": Input("zeros and ones", "batch source_length", "batch length source_length"),
    "decoder_attention_mask": Input(
        "zeros and ones", "batch decoder_length", "batch decoder_length decoder_length", spans_cache=True
    ),
    "token_type_ids": Input("integers", "batch length", table="token_types", expands=True),
    "position_ids": Input("integers", "batch length", table="positions", expands=True),
    "decoder_position_ids": Input("integers", "batch decoder_length", table="decoder_positions", expands=True),
    "head_mask": Input("numbers", "layers heads", "heads"),
    "bool_masked_pos": Input("zeros and ones", "batch patches"),
    "mask_time_indices": Input("zeros and ones", "batch masked_frames"),
    "mc_token_ids": Input("integers", "batch", "batch choices", table="length"),
}
"""By argument name, in the order of the checks: what names the axes comes before what must agree with them."""

PADDING_MASK = Input("zeros and ones", "batch length", spans_cache=True)
"""A mask from which tokens are counted, and which is therefore of padding alone."""

_OF_CHOICES = ("input_ids", "inputs_embeds", "attention_mask", "token_type_ids", "position_ids")
PER_CHOICE = {name: EXPECTED[name].per_choice() for name in _OF_CHOICES}
"""Those of models that read several sequences a row."""
OPTIONAL_CHOICES = {name: EXPECTED[name].per_choice(optional=True) for name in _OF_CHOICES}
"""Those of models that read one sequence a row, or several."""


def listed(axes: Sequence[str]) -> str:
    """Names of axes as a shape is written."""
    return f"[{', '.join(axes)}]"


class DefaultPositions(NamedTuple):
    """Which positions tokens have where none are given.

    Attributes:
        first: that of the first token.
        skips: an argument and its value for padding, which takes no positions; `None` where it does.
    """

    first: int = 0
    skips: tuple[str, int] | None = None


Sizes = dict[str, tuple[float, str]]
"""Of each axis or table its size, and the argument that it is known from, or "the model"."""


def last_hidden_state(outputs: Any) -> Any:
    """Of an encoder's output, a mapping with the same names, a tuple that begins with it, or the array itself.

    `None` if there is none.
    """
    if isinstance(outputs, Mapping):
        return outputs.get("last_hidden_state")
    if isinstance(outputs, tuple | list):
        return outputs[0] if outputs else None
    return getattr(outputs, "last_hidden_state", outputs if hasattr(outputs, "shape") else None)

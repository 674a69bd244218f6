"""Padding rows of ids that were not padded when they were made, as data collators do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.tokenizer.batch import BatchEncoding
from flaxmodels.tokenizer.encoding import EncodingMixin
from flaxmodels.tokenizer.lengths import Lengths


class PaddingMixin(EncodingMixin):
    """`pad`."""

    def pad(
        self,
        encoded_inputs: Any,
        padding: Any = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Rows of one length from rows of several.

        "input_ids", "attention_mask", "token_type_ids" and "special_tokens_mask" are padded; whatever else is there
        stays as it is.

        Args:
            encoded_inputs: one row or several, as a mapping of names to them, or as a list of mappings.
            padding: as in a call.
            max_length: what `padding="max_length"` pads to.
            pad_to_multiple_of: what padded lengths are multiples of.
            padding_side: "right" or "left"; None stands for the attribute of this name.
            return_attention_mask: whether to return a mask; None for those models that take it.
            return_tensors: "np" or "jax" for arrays; None for what the rows were.
            verbose: has no effect here.

        Raises:
            FlaxModelsError: there are no "input_ids", a row is longer than `max_length`, or an argument is not one of
                these.
        """
        columns, kind = _columns(encoded_inputs)
        if "input_ids" not in columns:
            raise FlaxModelsError(f"pad: expected 'input_ids' in each row, got {', '.join(map(repr, columns))}.")
        ids = columns["input_ids"]
        is_batched = not ids or isinstance(ids[0], list)
        rows = columns if is_batched else {name: [value] for name, value in columns.items()}
        if return_attention_mask if return_attention_mask is not None else "attention_mask" in self.model_input_names:
            rows.setdefault("attention_mask", [[1] * len(row) for row in rows["input_ids"]])
        lengths = self._lengths(padding, False, max_length, 0, pad_to_multiple_of, padding_side)
        fills = {"input_ids": self._padding(lengths).get("pad_id"), "attention_mask": 0, "special_tokens_mask": 1}
        _pad_rows(rows, fills | {"token_type_ids": self.pad_token_type_id}, lengths)
        data = rows if is_batched else {name: value[0] for name, value in rows.items()}
        return BatchEncoding(data, tensor_type=kind if return_tensors is None else return_tensors)


def _columns(encoded_inputs: Any) -> tuple[dict[str, Any], str | None]:
    """Lists by name, and the kind of arrays that they were."""
    if isinstance(encoded_inputs, Mapping):
        columns = dict(encoded_inputs)
    else:
        rows = list(encoded_inputs)
        columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else {"input_ids": []})}
    ids = columns.get("input_ids", [])
    first = ids if not isinstance(ids, Sequence) else next(iter(ids), None)
    is_array = hasattr(first, "__array__") and not isinstance(first, np.generic)
    kind = None if not is_array else "np" if isinstance(first, np.ndarray) else "jax"
    return {name: _plain(value) for name, value in columns.items()}, kind


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _pad_rows(rows: dict[str, Any], fills: Mapping[str, Any], lengths: Lengths) -> None:
    """Pads what has a fill, in place."""
    if lengths.padding is None:
        return
    longest = max(map(len, rows["input_ids"]), default=0)
    width = longest if lengths.padding == "longest" or lengths.max_length is None else lengths.max_length
    width += -width % (lengths.pad_to_multiple_of or 1)
    if width < longest:
        raise FlaxModelsError(
            f"pad: expected rows of at most max_length={width} tokens, got one of {longest}: it does not cut. Cut rows "
            "when they are made, by truncation=True."
        )
    for name, fill in fills.items():
        if name in rows:
            rows[name] = [_padded(row, width, fill, lengths.padding_side) for row in rows[name]]


def _padded(row: list[int], width: int, fill: Any, side: str) -> list[int]:
    added = [fill] * (width - len(row))
    return added + row if side == "left" else row + added

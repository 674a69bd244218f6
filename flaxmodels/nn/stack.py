"""A stack of equal blocks, one after another."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from flaxmodels.nn.cache import Cache, LayerCache
from flaxmodels.nn.dropout import split_key
from flaxmodels.nn.module import ModuleList


class BlockOutput(NamedTuple):
    """What a block returns: `hidden_states` `[batch, q_len, hidden]`, its cache, and attention weights if asked."""

    hidden_states: jax.Array
    cache: LayerCache | None = None
    attention: jax.Array | None = None
    cross_attention: jax.Array | None = None


class StackOutput(NamedTuple):
    """What a stack returns; `hidden_states` begins with its input. What was not asked for is `None`."""

    last_hidden_state: jax.Array
    past_key_values: Cache | None
    hidden_states: tuple[jax.Array, ...] | None
    attentions: tuple[jax.Array, ...] | None
    cross_attentions: tuple[jax.Array, ...] | None


class Stack(ModuleList):
    """Blocks that are called as `block(hidden_states, cache=..., dropout_rng=..., **shared) -> BlockOutput`."""

    def __call__(
        self,
        hidden_states: jax.Array,
        *,
        past_key_values: Cache | None = None,
        dropout_rng: jax.Array | None = None,
        output_hidden_states: bool = False,
        per_layer: dict[str, Any] | None = None,
        **shared: Any,
    ) -> StackOutput:
        """Run the blocks. `per_layer` holds arrays whose leading axis counts layers, `shared` goes to each block."""
        inputs, blocks = [hidden_states], []
        keys = split_key(dropout_rng, len(self))
        for number, block in enumerate(self):
            own = {name: value[number] for name, value in (per_layer or {}).items()}
            cache = None if past_key_values is None else past_key_values[number]
            blocks.append(block(inputs[-1], cache=cache, dropout_rng=keys[number], **own, **shared))
            inputs.append(blocks[-1].hidden_states)
        return StackOutput(
            inputs[-1],
            None if past_key_values is None else tuple(block.cache for block in blocks),
            tuple(inputs) if output_hidden_states else None,
            _present(block.attention for block in blocks),
            _present(block.cross_attention for block in blocks),
        )


def _present(arrays) -> tuple[jax.Array, ...] | None:
    kept = tuple(array for array in arrays if array is not None)
    return kept or None

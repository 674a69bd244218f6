"""A stack of equal blocks, one after another: unrolled, or as one stacked block run by `lax.scan`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxmodels.errors import ConfigError
from flaxmodels.nn.cache import Cache
from flaxmodels.nn.leaves import iter_leaves
from flaxmodels.nn.module import Module, ModuleList
from flaxmodels.policy import Policy


class BlockOutput(NamedTuple):
    """What a block returns: `hidden_states` `[batch, q_len, hidden]`, its cache, attention weights if asked, and the
    logits of its router if it has one.
    """

    hidden_states: jax.Array
    cache: Any = None
    attention: jax.Array | None = None
    cross_attention: jax.Array | None = None
    router_logits: jax.Array | None = None


class StackOutput(NamedTuple):
    """What a stack returns; `hidden_states` begins with its input. What was not asked for is `None`."""

    last_hidden_state: jax.Array
    past_key_values: Cache | None
    hidden_states: tuple[jax.Array, ...] | None
    attentions: tuple[jax.Array, ...] | None
    cross_attentions: tuple[jax.Array, ...] | None

    def normalised(self, norm: Callable[[jax.Array], jax.Array]) -> StackOutput:
        """With a final norm, which is applied to the last of the hidden states too."""
        last = norm(self.last_hidden_state)
        states = self.hidden_states
        return self._replace(last_hidden_state=last, hidden_states=states and (*states[:-1], last))


def by_layer(**values: tuple[Any, ...]) -> dict[str, Any]:
    """Arguments for a `Stack`, from tuples of one value a layer: `shared` where all are one, else `per_layer`."""
    shared = {name: each[0] for name, each in values.items() if all(_one(value, each[0]) for value in each)}
    return {"per_layer": {name: each for name, each in values.items() if name not in shared}} | shared


def _one(value: Any, other: Any) -> bool:
    """Whether two pytrees hold the same arrays."""
    leaves, others = jax.tree.leaves(value), jax.tree.leaves(other)
    return len(leaves) == len(others) and all(a is b for a, b in zip(leaves, others, strict=True))


class Stack(ModuleList):
    """Blocks that are called as `block(hidden_states, cache=..., dropout_rng=..., **shared) -> BlockOutput`.

    With `policy.scan_layers` there is one block, whose parameters hold all layers along a leading axis. The first
    blocks may differ from the others, and are then not stacked.

    Attributes:
        num_unstacked: how many of the first blocks stay unstacked.
        num_stacked: how many layers the stacked block holds; 0 without `policy.scan_layers`.
    """

    num_unstacked: int = 0

    def __init__(
        self,
        make_block: Callable[[], Module],
        count: int,
        policy: Policy,
        *,
        first: Callable[[], Module] | None = None,
        num_first: int = 1,
    ):
        """Make `count` blocks.

        Args:
            first: makes each of the first `num_first` blocks, where these are not equal to the others.
        """
        self.count = count
        self.remat = policy.remat
        self.num_unstacked = 0 if first is None else min(num_first, count)
        equal = count - self.num_unstacked
        self.num_stacked = equal if policy.scan_layers else 0
        unstacked = [] if first is None else [first() for _ in range(self.num_unstacked)]
        super().__init__([*unstacked, *(make_block() for _ in range(equal - self.num_stacked))])
        if self.num_stacked:
            self.block = make_block()
            for leaf in iter_leaves(self.block):
                one = leaf.variable.get_raw_value()
                leaf.variable.set_raw_value(jax.ShapeDtypeStruct((self.num_stacked, *one.shape), one.dtype))

    def __call__(self, hidden_states: jax.Array, **options: Any) -> StackOutput:
        """Run the blocks, with the arguments of `run`."""
        return self.run(hidden_states, **options)[0]

    def run(
        self,
        hidden_states: jax.Array,
        *,
        past_key_values: Cache | None = None,
        dropout_rng: jax.Array | None = None,
        output_hidden_states: bool = False,
        per_layer: dict[str, Any] | None = None,
        **shared: Any,
    ) -> tuple[StackOutput, list[BlockOutput]]:
        """Run the blocks.

        Args:
            hidden_states: `[batch, q_len, hidden]`.
            per_layer: arrays whose leading axis counts layers, or tuples of one pytree a layer.
            shared: passed to each block.

        Returns:
            What the stack returns, and what each block does.
        """
        run = self._scan if self.num_stacked else self._unroll
        own = (per_layer or {}) | {"cache": past_key_values, "dropout_rng": _keys(dropout_rng, self.count)}
        last, layers = run(hidden_states, own, shared, output_hidden_states)
        inputs = (hidden_states, *(layer.hidden_states for layer in layers))
        outputs = StackOutput(
            last,
            None if past_key_values is None else tuple(layer.cache for layer in layers),
            inputs if output_hidden_states else None,
            present(layer.attention for layer in layers),
            present(layer.cross_attention for layer in layers),
        )
        return outputs, layers

    def blocks(self) -> Sequence[Any]:
        """The block of each layer, in order; the stacked one stands for each of its layers."""
        return [*self, *(self.block for _ in range(self.num_stacked))]

    def _unroll(self, hidden_states, per_layer, shared, output_hidden_states):
        layers = []
        for number, block in enumerate(self.blocks()[: self.count - self.num_stacked]):
            own = {name: None if value is None else value[number] for name, value in per_layer.items()}
            call = self._rematerialised(lambda hidden, own, block=block: block(hidden, **own, **shared))
            layers.append(call(hidden_states, own))
            hidden_states = layers[-1].hidden_states
        return hidden_states, layers

    def _scan(self, hidden_states, per_layer, shared, output_hidden_states):
        hidden_states, unstacked = self._unroll(hidden_states, per_layer, shared, output_hidden_states)
        for name, layers in per_layer.items():
            if layers is not None:
                rest = layers[self.num_unstacked :]
                one_each = isinstance(rest, tuple)
                per_layer[name] = jax.tree.map(lambda *each: jnp.stack(each), *rest) if one_each else rest

        def step(hidden, layer):
            block, own = layer
            output = block(hidden, **own, **shared)
            kept = output.hidden_states if output_hidden_states else None
            return output.hidden_states, output._replace(hidden_states=kept)

        layers = (self.block, per_layer)
        last, outputs = jax.lax.scan(self._rematerialised(step), hidden_states, layers, length=self.num_stacked)
        numbers = range(self.num_stacked)
        layers = [jax.tree.map(lambda stacked: stacked[number], outputs) for number in numbers]  # noqa: B023
        return last, [*unstacked, *layers]

    def _rematerialised(self, function):
        if self.remat is None:
            return function
        policy = None if self.remat == "full" else getattr(jax.checkpoint_policies, self.remat)
        return jax.checkpoint(function, policy=policy)


class RepeatedStack(Stack):
    """`count` layers that share `groups` blocks, each the block of as many layers in a row. It is never scanned."""

    def __init__(self, make_block: Callable[[], Module], count: int, groups: int, policy: Policy):
        self.count, self.remat, self.num_stacked = count, policy.remat, 0
        ModuleList.__init__(self, (make_block() for _ in range(groups)))

    def blocks(self) -> Sequence[Any]:
        return [self[number * len(self) // self.count] for number in range(self.count)]


class MixedStack(Stack):
    """Blocks of several kinds: `make_block` is given the number of each. They cannot be scanned."""

    def __init__(self, make_block: Callable[[int], Module], count: int, policy: Policy):
        if policy.scan_layers:
            raise ConfigError("scan_layers=True stacks equal layers, and this model has several kinds: leave it out")
        self.count, self.remat, self.num_stacked = count, policy.remat, 0
        ModuleList.__init__(self, (make_block(number) for number in range(count)))


def _keys(dropout_rng: jax.Array | None, count: int) -> jax.Array | None:
    return None if dropout_rng is None else jax.random.split(dropout_rng, count)


def present(arrays: Iterable[jax.Array | None]) -> tuple[jax.Array, ...] | None:
    """Those of the arrays that are not `None`; `None` if all are."""
    kept = tuple(array for array in arrays if array is not None)
    return kept or None

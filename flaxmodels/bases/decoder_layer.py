"""The layer of a decoder: sublayers such as attention, state-space models and MLPs, with their norms and residuals.

A layer makes its parts under the names that torch gives them, and declares by `sublayers` how they are connected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.module import Module
from flaxmodels.nn.stack import BlockOutput
from flaxmodels.policy import Policy


@dataclass(frozen=True)
class Sublayer:
    """A part of a layer, with the norms around it: `x + multiplier * dropout(post_norm(part(pre_norm(x))))`.

    Attributes:
        part: name of the attribute of the layer that computes it, a module or a method.
        pre_norm: name of the attribute with the norm of what the part reads; no norm if it is `None`.
        post_norm: name of that with the norm of what the part returns.
        sum_norm: name of that with the norm of the sum with the residual ("post-norm").
        dropout_rate: dropout rate of what is added.
        multiplier: factor of what is added.
        has_cache: whether the part has a cache.
    """

    part: str
    pre_norm: str | None = None
    post_norm: str | None = None
    sum_norm: str | None = None
    dropout_rate: float = 0.0
    multiplier: float = 1.0
    has_cache: ClassVar[bool] = False

    def applies(self, context: Mapping[str, Any]) -> bool:
        """Whether a layer that is given this `context` computes it."""
        return True

    def run(
        self,
        part: Any,
        hidden_states: jax.Array,
        cache: Any,
        context: Mapping[str, Any],
        dropout_rng: jax.Array | None,
    ) -> BlockOutput:
        """What the part returns, `[batch, q_len, hidden]`, with its cache, weights and router logits if it has any."""
        raise NotImplementedError


class Mixer(Sublayer):
    """A part through which tokens see each other: attention, a state-space model. See `nn.self_attention`."""

    has_cache = True

    def run(self, part, hidden_states, cache, context, dropout_rng):
        return part(hidden_states, cache, context, dropout_rng)


class FeedForward(Sublayer):
    """A part that is a function of each token."""

    def run(self, part, hidden_states, cache, context, dropout_rng):
        return BlockOutput(part(hidden_states))


class SparseFeedForward(Sublayer):
    """A mixture of experts: `part(hidden_states, dropout_rng)` returns the logits of its router too."""

    def run(self, part, hidden_states, cache, context, dropout_rng):
        mlp_output, router_logits = part(hidden_states, dropout_rng)
        return BlockOutput(mlp_output, router_logits=router_logits)


@dataclass(frozen=True)
class Branch:
    """A sublayer in one call of its layer: what is not a state of the sequence is bound."""

    layer: DecoderLayer
    sublayer: Sublayer
    cache: Any
    context: Mapping[str, Any]
    dropout_rng: jax.Array | None

    def pre_norm(self, hidden_states: jax.Array) -> jax.Array:
        """What the part reads."""
        return self._normalised(self.sublayer.pre_norm, hidden_states)

    def __call__(self, normalised: jax.Array) -> BlockOutput:
        """What is added to the residual, from what the part reads."""
        sublayer, keys = self.sublayer, split_key(self.dropout_rng, 2)
        part = getattr(self.layer, sublayer.part)
        output = sublayer.run(part, normalised, self.cache, self.context, keys[0])
        added = self._normalised(sublayer.post_norm, output.hidden_states)
        added = dropout(added, sublayer.dropout_rate, keys[1])
        return output._replace(hidden_states=added if sublayer.multiplier == 1.0 else added * sublayer.multiplier)

    def sum_norm(self, hidden_states: jax.Array) -> jax.Array:
        """What the residual becomes once the part is added."""
        return self._normalised(self.sublayer.sum_norm, hidden_states)

    def _normalised(self, name: str | None, hidden_states: jax.Array) -> jax.Array:
        return hidden_states if name is None else getattr(self.layer, name)(hidden_states)


Arrangement = Callable[[jax.Array, Sequence[Branch]], tuple[jax.Array, list[BlockOutput]]]
"""How branches are connected: from a layer's input to its output, and the outputs of the branches."""


def sequential(hidden_states: jax.Array, branches: Sequence[Branch]) -> tuple[jax.Array, list[BlockOutput]]:
    """Each part reads what the parts before it have added to."""
    outputs = []
    for branch in branches:
        outputs.append(branch(branch.pre_norm(hidden_states)))
        hidden_states = branch.sum_norm(hidden_states + outputs[-1].hidden_states)
    return hidden_states, outputs


def parallel(hidden_states: jax.Array, branches: Sequence[Branch]) -> tuple[jax.Array, list[BlockOutput]]:
    """All parts read the input of the layer."""
    outputs = [branch(branch.pre_norm(hidden_states)) for branch in branches]
    return sum((output.hidden_states for output in outputs), hidden_states), outputs


def sequential_from_norms(hidden_states: jax.Array, branches: Sequence[Branch]) -> tuple[jax.Array, list[BlockOutput]]:
    """As `sequential`, but each part is added to what it reads, after the norm."""
    outputs = []
    for branch in branches:
        normalised = branch.pre_norm(hidden_states)
        outputs.append(branch(normalised))
        hidden_states = normalised + outputs[-1].hidden_states
    return hidden_states, outputs


PRE_NORM = (
    Mixer("self_attn", pre_norm="input_layernorm"),
    FeedForward("mlp", pre_norm="post_attention_layernorm"),
)
"""Attention and MLP, each with a norm before it, under the names that most architectures have."""


class DecoderLayer(Module):
    """Parts that are connected as declared. A subclass makes them, under the names that `sublayers` give.

    Attributes:
        sublayers: what the layer is made of, in the order in which it is computed.
        arrangement: function that connects the sublayers.
    """

    sublayers: tuple[Sublayer, ...] = ()
    arrangement: Arrangement = staticmethod(sequential)

    def __init__(self, config: Any, policy: Policy):
        raise NotImplementedError(f"{type(self).__name__} makes no parts")

    def __call__(
        self, hidden_states: jax.Array, *, cache: Any = None, dropout_rng: jax.Array | None = None, **context: Any
    ) -> BlockOutput:
        """Run the parts.

        Args:
            hidden_states: `[batch, q_len, hidden]`.
            cache: as `init_cache` makes it.
            context: what the parts may read, by name.
        """
        caches = iter(cache if isinstance(cache, tuple) else (cache,))
        keys = split_key(dropout_rng, len(self.sublayers))
        branches = [
            Branch(self, sublayer, next(caches, None) if sublayer.has_cache else None, context, key)
            for sublayer, key in zip(self.sublayers, keys, strict=True)
            if sublayer.applies(context)
        ]
        hidden_states, outputs = self.arrangement(hidden_states, branches)
        found = {name: value for output in outputs for name, value in output._asdict().items() if value is not None}
        caches = tuple(output.cache for output in outputs if output.cache is not None)
        return BlockOutput(**(found | {"hidden_states": hidden_states, "cache": _one_or_all(caches)}))

    def init_cache(self, batch_size: int, cache_len: int, dtype: Any, window: int | None) -> Any:
        """The empty cache of the mixer, or of each if there are several, for `cache_len` tokens or a `window`."""
        mixers = [getattr(self, sublayer.part) for sublayer in self.sublayers if sublayer.has_cache]
        return _one_or_all(tuple(mixer.init_cache(batch_size, cache_len, dtype, window) for mixer in mixers))


def _one_or_all(caches: tuple[Any, ...]) -> Any:
    return caches if len(caches) > 1 else next(iter(caches), None)

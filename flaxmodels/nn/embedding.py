"""Tables that are looked up by ids: of tokens, types and positions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.nn.initializers import Initializer
from flaxmodels.nn.module import Module, TorchLeaf, param
from flaxmodels.policy import Policy


class Embedding(Module):
    """A table `[num_embeddings, features]` looked up by integer ids."""

    torch_leaves = {"embedding": TorchLeaf("weight")}

    def __init__(self, num_embeddings: int, features: int, policy: Policy, *, init: Initializer):
        self.dtype = policy.dtype
        self.embedding = param((num_embeddings, features), policy.param_dtype, init)

    @property
    def num_embeddings(self) -> int:
        """Ids are below it."""
        return self.embedding.get_raw_value().shape[0]

    def __call__(self, ids: jax.Array) -> jax.Array:
        # Calls check ids where they can (`execution.input_checks`). The default mode makes NaN of those beyond the
        # table, which spread from padding, although it is masked, to the whole row.
        return jnp.take(self.embedding[...], ids, axis=0, mode="clip").astype(self.dtype)


class ScaledEmbedding(Embedding):
    """An `Embedding` whose rows are multiplied by `scale` when they are looked up."""

    def __init__(self, num_embeddings: int, features: int, policy: Policy, *, scale: float, init: Initializer):
        super().__init__(num_embeddings, features, policy, init=init)
        self.scale = scale

    def __call__(self, ids: jax.Array) -> jax.Array:
        embedded = super().__call__(ids)
        return embedded * jnp.asarray(self.scale, embedded.dtype)


class LearnedPositions(Embedding):
    """Positions from 0 on; the first `offset` rows of their table are not used."""

    def __init__(self, num_positions: int, features: int, policy: Policy, *, offset: int, init: Initializer):
        super().__init__(num_positions + offset, features, policy, init=init)
        self.offset = offset

    @property
    def num_embeddings(self) -> int:
        return super().num_embeddings - self.offset

    def __call__(self, ids: jax.Array) -> jax.Array:
        return super().__call__(ids + self.offset)


def embedding_sizes(tokens: Any, positions: Any) -> dict[str, int]:
    """The number of token embeddings and of their features, and of positions; of what is no `Embedding`, nothing."""
    sizes: dict[str, int] = {}
    if isinstance(tokens, Embedding):
        sizes |= {"vocab": tokens.num_embeddings, "features": tokens.embedding.get_raw_value().shape[1]}
    return sizes | ({"positions": positions.num_embeddings} if isinstance(positions, Embedding) else {})


class SinusoidalPositions(Embedding):
    """A fixed table: sines in the first half of the features, cosines in the second (arXiv 1706.03762).

    It is computed where a checkpoint lacks it, and gets no gradient.
    """

    torch_leaves = {"embedding": TorchLeaf("weight", optional=True, flax_name="")}

    def __init__(self, num_embeddings: int, features: int, policy: Policy):
        super().__init__(num_embeddings, features, policy, init=_sinusoids)

    def __call__(self, ids: jax.Array) -> jax.Array:
        return jax.lax.stop_gradient(super().__call__(ids))


def _sinusoids(key: Any, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
    """The initialiser of `SinusoidalPositions`; computed in float64, as in transformers."""
    positions, features = shape
    wavelengths = 10000.0 ** (np.arange(0, features, 2) / features)
    angles = np.arange(positions)[:, None] / wavelengths[None]
    table = np.concatenate([np.sin(angles), np.cos(angles[:, : features // 2])], axis=1)
    return jnp.asarray(table.astype(np.float32), dtype)


def embed(table: Embedding, input_ids: jax.Array | None, inputs_embeds: jax.Array | None) -> jax.Array:
    """`[batch, len, features]`: the ids looked up, or the embeddings given in their place.

    Raises:
        FlaxModelsError: both are given, or neither is.
    """
    if input_ids is not None and inputs_embeds is None:
        return table(input_ids)
    if inputs_embeds is not None and input_ids is None:
        return inputs_embeds.astype(table.dtype)
    raise FlaxModelsError("pass exactly one of input_ids and inputs_embeds")

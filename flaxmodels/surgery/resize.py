"""Another number of tokens: what in a model is sized by its vocabulary, and what new rows begin with.

New rows of a table are samples of a normal distribution around the mean of the old ones (Hewitt 2021, "Initializing new
word embeddings for pretrained language models"), with the numbers of transformers.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from flaxmodels import parameters
from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import FlaxModelsError
from flaxmodels.fields import fields_of
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.embedding import Embedding
from flaxmodels.nn.initializers import zeros
from flaxmodels.nn.leaves import Leaf
from flaxmodels.nn.module import is_abstract
from flaxmodels.sharding.rules import divisible
from flaxmodels.surgery.ties import describe

logger = logging.getLogger("flaxmodels")

SPREAD = 1e-9
"""The covariance of new rows in units of that of the old ones; of a bias the standard deviation."""


def resize_token_embeddings(
    model: Any, new_num_tokens: int | None, pad_to_multiple_of: int | None, *, mean_resizing: bool
) -> None:
    """What the method of that name does."""
    table = model.get_input_embeddings()
    if new_num_tokens is None and pad_to_multiple_of is None:
        return
    if not isinstance(table, Embedding):
        raise NotImplementedError(
            f"{type(model).__name__} reads no tokens: its input embeddings are a {type(table).__name__}"
        )
    size = _size(table.num_embeddings, new_num_tokens, pad_to_multiple_of)
    config = _vocabulary(model.config)
    if size != table.num_embeddings:
        _resize(model, table, config, size, mean_resizing)
    _set_size(config, size)
    model.tie_weights()


def _size(rows: int, new_num_tokens: int | None, pad_to_multiple_of: int | None) -> int:
    """The number of rows that is asked for."""
    for name, value in (("new_num_tokens", new_num_tokens), ("pad_to_multiple_of", pad_to_multiple_of)):
        if value is not None and (type(value) is not int or value < 1):
            raise FlaxModelsError(f"{name}={value!r}: expected a positive integer")
    size, step = new_num_tokens or rows, pad_to_multiple_of or 1
    return -(-size // step) * step


def _vocabulary(config: PreTrainedConfig) -> Any:
    """The configuration that has the size of the vocabulary: `config`, or one in it."""
    if "vocab_size" in fields_of(type(config)):
        return config
    inner = (vars(config)[name] for name in config.sub_configs)
    return next((found for each in inner if (found := _vocabulary(each)) is not None), None)


def _set_size(config: Any, size: int) -> None:
    config.vocab_size = size
    if vars(config).get("decoder_vocab_size") is not None and config.shares_embeddings:
        config.decoder_vocab_size = size
    if config.pad_token_id is not None and config.pad_token_id >= size:
        logger.warning("pad_token_id=%d is not among the %d tokens any more: it is None", config.pad_token_id, size)
        config.pad_token_id = None


def _resize(model: Any, table: Embedding, config: Any, size: int, mean_resizing: bool) -> None:
    """Resize whatever a model of the same class has in another size for a vocabulary of `size`."""
    resized = copy.deepcopy(model.config)
    _vocabulary(resized).vocab_size = size
    shapes = parameters.shapes(describe(model, resized))
    leaves = [leaf for leaf in parameters.leaves(model) if _axis(leaf, shapes) is not None]
    if not any(leaf.variable is table.embedding for leaf in leaves):
        raise FlaxModelsError(
            f"{type(model).__name__}: the table of its input is not sized by vocab_size={config.vocab_size} of its "
            "configuration, and cannot be resized"
        )
    for leaf in leaves:
        described = jax.ShapeDtypeStruct(shapes[leaf.name].shape, leaf.variable.get_raw_value().dtype)
        if is_abstract(leaf.variable):
            leaf.variable.set_raw_value(described)
        else:
            leaf.variable.set_value(_resized(model, leaf, _axis(leaf, shapes), size, mean_resizing))


def _axis(leaf: Leaf, shapes: Any) -> int | None:
    """The axis in which a parameter differs from that of the shapes; `None` if it does not, or is not among them."""
    own, other = leaf.variable.get_raw_value().shape, getattr(shapes.get(leaf.name), "shape", ())
    differing = [axis for axis, sizes in enumerate(zip(own, other, strict=False)) if sizes[0] != sizes[1]]
    return differing[0] if len(own) == len(other) and len(differing) == 1 else None


def _resized(model: Any, leaf: Leaf, axis: Any, size: int, mean_resizing: bool) -> jax.Array:
    value = leaf.variable.get_value()
    rows = jnp.moveaxis(value, axis, 0)
    if (added := size - len(rows)) > 0:
        new = _new_rows(model, leaf, rows, added, mean_resizing).astype(value.dtype)
        rows = jnp.concatenate([rows, new])
    return placed_like(value, jnp.moveaxis(rows[:size], 0, axis), leaf.name)


def _new_rows(model: Any, leaf: Leaf, rows: jax.Array, added: int, mean_resizing: bool) -> jax.Array:
    """What `added` rows begin with that come after `rows`; each of the dtype of the old ones, or float32."""
    (key,) = parameters.keys_of(model, leaf, jax.random.key(model.seed))
    key, shape = jax.random.fold_in(key, len(rows)), (added, *rows.shape[1:])
    is_table = leaf.path[-1] in ("embedding", "kernel")
    if not is_table and not isinstance(leaf.owner, Linear):  # a bias of tied projections, or of logits by itself
        return jnp.zeros(shape, rows.dtype)
    if not mean_resizing:
        return leaf.variable.get_metadata("init", zeros)(key, shape, rows.dtype)
    return sample_rows(key, rows, added) if is_table else sample_bias(key, rows, added)


def sample_rows(key: jax.Array, rows: jax.Array, added: int) -> jax.Array:
    """float32 `[added, features]`, from the distribution of new rows after `rows` `[tokens, features]`."""
    mean, factor = row_distribution(rows)
    noise = jax.random.normal(key, (added, len(mean)))
    spread = jnp.where(jnp.isfinite(factor).all(), noise @ factor.T, 0.0)  # [added, features] x [features, features]
    return mean[None] + spread


def row_distribution(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean of new rows, `[features]`, and the Cholesky factor of their covariance, `[features, features]`.

    Both float32. The factor is not a number where the covariance is not positive definite, as with fewer rows than
    features.
    """
    rows = rows.astype(jnp.float32)
    mean = rows.mean(0)
    centered = rows - mean[None]
    covariance = SPREAD * (centered.T @ centered / len(rows))
    return mean, jnp.linalg.cholesky(covariance)


def sample_bias(key: jax.Array, bias: jax.Array, added: int) -> jax.Array:
    """float32 `[added]`, from the distribution of new values of a bias `[tokens]`."""
    bias = bias.astype(jnp.float32)
    return bias.mean() + SPREAD * bias.std(ddof=1) * jax.random.normal(key, (added,))


def placed_like(old: jax.Array, new: jax.Array, name: str) -> jax.Array:
    """`new` sharded as `old` is, but whole along dimensions that the devices do not divide, which is logged."""
    sharding = getattr(old, "sharding", None)
    if isinstance(sharding, NamedSharding):
        mesh: Any = sharding.mesh
        sharding = NamedSharding(mesh, divisible(name, new.shape, sharding.spec, mesh))
    return new if sharding is None else jax.device_put(new, sharding)

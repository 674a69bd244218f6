"""Products of one row and a matrix that read the matrix as fast as memory gives it, where XLA's CPU backend does not.

They are what decoding consists of. `dense.matmul` uses them in programs that are compiled for a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

MIN_ROWS_OF_HALF = 2
"""XLA's CPU backend has a half-precision kernel for that many rows or more only."""
FOLDS = 8
MIN_FOLDED = 2**16
"""Elements of the smallest matrix that is folded: for less, the gain is not worth the time to compile."""


def cpu_product(
    rows: jax.Array, weight: jax.Array, contract: int
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """What computes `rows` `[rows, in]` times `weight` faster on a CPU than XLA's own product; `None` if nothing does.

    The result is a function of both that returns float32 `[rows, out]`.
    """
    if rows.shape[0] != 1:  # lengths may be symbolic, as `jax.export` has them
        return None
    is_half, is_large = rows.dtype.itemsize == 2, weight.size >= MIN_FOLDED
    if is_large and contract == 0 and rows.shape[1] % FOLDS == 0:
        return folded_product
    if is_large and contract == 1 and is_half:
        return weighted_rows
    return _PADDED[contract] if is_half else None


def folded_product(row: jax.Array, weight: jax.Array) -> jax.Array:
    """float32 `[1, out]` of `[1, in]` and `[in, out]`.

    The matrix is cut into `FOLDS` parts of as many rows, which are weighted and added in one pass over it; then the
    rows of this sum are added. XLA's CPU backend makes one vectorised loop of the pass, in several threads, and so
    reads the matrix about as fast as memory gives it. Its own product of one row takes about 1.4 times as long for the
    matrices of SmolLM2-135M on two cores, and 5 times in half precision, where it converts each matrix first.
    """
    weight, row = jax.lax.optimization_barrier((weight, row))  # else a loop keeps a float32 copy of the matrix
    length = row.shape[1] // FOLDS
    parts = weight.reshape(FOLDS, length, -1).astype(jnp.float32) * row.reshape(FOLDS, length, 1).astype(jnp.float32)
    folded = jax.lax.optimization_barrier(sum(parts[part] for part in range(FOLDS)))
    # [1, in / FOLDS] x [in / FOLDS, out] -> [1, out]
    return jax.lax.dot(jnp.ones((1, length), jnp.float32), folded)


def weighted_rows(row: jax.Array, weight: jax.Array) -> jax.Array:
    """float32 `[1, out]` of `[1, in]` and `[out, in]`: each row of the matrix weighted and summed."""
    weight, row = jax.lax.optimization_barrier((weight, row))  # as in `folded_product`
    return (weight.astype(jnp.float32) * row.astype(jnp.float32)).sum(-1)[None]


def _padded_product(row: jax.Array, weight: jax.Array, contract: int) -> jax.Array:
    """float32 `[1, out]`, computed with a second row of zeros."""
    rows = jnp.pad(row, ((0, MIN_ROWS_OF_HALF - 1), (0, 0)))
    axes = (((1,), (contract,)), ((), ()))
    # [2, in] x [in, out], or [out, in] if contract is 1 -> float32 [2, out]
    return jax.lax.dot_general(rows, weight, axes, preferred_element_type=jnp.float32)[:1]


_PADDED = tuple(partial(_padded_product, contract=axis) for axis in (0, 1))
"""By the axis of the weights that is contracted; made once, as JAX traces the same function once."""

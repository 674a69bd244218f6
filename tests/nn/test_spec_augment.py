"""Spans that are masked: how many, how long, and where."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels.errors import FlaxModelsError
from flaxmodels.nn.dropout import layer_dropout
from flaxmodels.nn.spec_augment import span_mask


def runs(row: np.ndarray) -> list[int]:
    """The lengths of what is masked in a row."""
    edges = np.flatnonzero(np.diff(np.pad(row.astype(int), 1)))
    return (edges[1::2] - edges[::2]).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_spans_lie_within_the_lengths_of_the_rows(seed):
    lengths = jnp.array([40, 23, 4, 3, 0])
    mask = np.asarray(
        jax.jit(span_mask, static_argnums=(1, 2, 3, 4))(jax.random.key(seed), (5, 40), 0.3, 4, 2, lengths)
    )
    assert not mask[np.arange(40)[None] >= np.asarray(lengths)[:, None]].any()
    assert all(length >= 4 for row in mask for length in runs(row))
    assert [mask[number].sum() for number in (2, 3, 4)] == [4, 0, 0]  # one position to begin at, then none
    assert 5 <= mask[0].sum() <= 16
    assert 5 <= mask[1].sum() <= 8


def test_about_the_share_is_masked_and_positions_are_alike():
    keys = jax.random.split(jax.random.key(0), 300)
    masks = np.asarray(jax.vmap(lambda key: span_mask(key, (4, 50), 0.2, 2, 0))(keys)).reshape(-1, 50)
    assert abs(masks.mean() - 0.2 * 0.9) < 0.02  # spans overlap at times
    assert abs(masks[:, 5:25].mean() - masks[:, 25:45].mean()) < 0.02


def test_spans_longer_than_the_row_are_refused():
    message = "spans of 9 positions cannot be masked in 8: lower the length of the spans"
    with pytest.raises(FlaxModelsError, match=f"^{re.escape(message)}$"):
        span_mask(jax.random.key(0), (2, 8), 0.1, 9, 1)


def test_layers_are_dropped_at_their_rate():
    before, after = jnp.zeros(()), jnp.ones(())
    assert layer_dropout(before, after, 0.5, None) == layer_dropout(before, after, 0.0, jax.random.key(0)) == 1
    kept = jax.vmap(lambda key: layer_dropout(before, after, 0.3, key))(jax.random.split(jax.random.key(0), 2000))
    assert abs(kept.mean() - 0.7) < 0.03

"""Outputs as attributes, as a mapping, as a tuple and as a pytree."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import jax
import jax.numpy as jnp
import pytest

from flaxmodels.outputs import BaseModelOutputWithPooling, ModelOutput, SequenceClassifierOutput

LOGITS, FIRST, SECOND = jnp.ones((2, 5)), jnp.zeros((2, 3, 4)), jnp.full((2, 3, 4), 2.0)
OUTPUT = SequenceClassifierOutput(logits=LOGITS, hidden_states=(FIRST, SECOND))


def test_values_by_attribute_key_and_position():
    assert OUTPUT.logits is OUTPUT["logits"] is OUTPUT[0] is LOGITS
    assert OUTPUT.hidden_states is OUTPUT["hidden_states"] is OUTPUT[1] is OUTPUT[-1]
    assert OUTPUT[:1] == (LOGITS,)
    assert OUTPUT[:] == OUTPUT.to_tuple() == OUTPUT.values()


def test_what_is_absent_is_not_counted():
    assert OUTPUT.attentions is None
    assert list(OUTPUT) == list(OUTPUT.keys()) == ["logits", "hidden_states"]
    assert len(OUTPUT) == 2
    assert "attentions" not in OUTPUT
    assert "logits" in OUTPUT
    assert dict(OUTPUT) == dict(OUTPUT.items()) == {"logits": LOGITS, "hidden_states": (FIRST, SECOND)}
    assert BaseModelOutputWithPooling(last_hidden_state=FIRST, attentions=(SECOND,))[1] == (SECOND,)
    for name in ("attentions", "nothing"):
        with pytest.raises(KeyError, match=f"^'{name}'$"):
            OUTPUT[name]
    with pytest.raises(IndexError):
        OUTPUT[2]


def test_an_output_is_a_frozen_pytree():
    doubled = jax.jit(lambda output: jax.tree.map(lambda x: 2 * x, output))(OUTPUT)
    assert type(doubled) is SequenceClassifierOutput
    assert doubled.hidden_states is not None
    assert jnp.array_equal(doubled.hidden_states[1], 2 * SECOND)
    assert doubled.attentions is None
    assert len(jax.tree.leaves(OUTPUT)) == 3
    assert [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(OUTPUT)[0]] == [
        ".logits",
        ".hidden_states[0]",
        ".hidden_states[1]",
    ]
    with pytest.raises(FrozenInstanceError):
        OUTPUT.logits = FIRST  # pyright: ignore[reportAttributeAccessIssue]  # refused


def test_one_output_out_of_another():
    base = BaseModelOutputWithPooling(last_hidden_state=FIRST, pooler_output=LOGITS, hidden_states=(FIRST,))
    found = base.to(SequenceClassifierOutput, logits=LOGITS)
    assert type(found) is SequenceClassifierOutput
    assert dict(found) == {"logits": LOGITS, "hidden_states": (FIRST,)}


def test_a_subclass_is_an_output_by_being_defined():
    class Scores(ModelOutput):
        scores: jax.Array
        extra: jax.Array | None = None

    assert jax.tree.map(jnp.shape, Scores(scores=LOGITS)) == Scores(scores=(2, 5))
    assert Scores(scores=LOGITS).keys() == ("scores",)


def test_an_output_within_an_output():
    class Pair(ModelOutput):
        inner: ModelOutput

    class Inner(ModelOutput):
        scores: jax.Array

    pair = Pair(inner=Inner(scores=LOGITS))
    assert pair["inner"] is pair.values()[0] is dict(pair.items())["inner"]
    assert jax.tree.map(jnp.shape, pair.to_tuple()) == (((2, 5),),)

"""Comparing checkpoints."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from models.tiny_configs import FAMILIES

from flaxmodels.checkpoint import verify
from flaxmodels.checkpoint.params import ParamsSource
from flaxmodels.files.location import resolve
from flaxmodels.files.weights import Weights, find_weights
from flaxmodels.models.llama import LlamaForCausalLM

CONFIG = FAMILIES["llama"].config


@pytest.fixture(scope="module")
def model():
    return LlamaForCausalLM(CONFIG, seed=1)


def saved(model, folder, **options):
    model.save_pretrained(folder, **options)
    return find_weights(resolve(folder))


def test_formats_do_not_matter(model, tmp_path):
    formats = ["torch", "flax", "flax-safetensors", "orbax"]
    first, *others = [saved(model, tmp_path / format, format=format) for format in formats]
    for other in others:
        report = verify.compare(model, first, other)
        assert report.same
        assert len(report.compared) == len(first.source.headers)


def test_a_cast_is_the_same_and_a_changed_bit_is_not(model, tmp_path):
    first = saved(model, tmp_path / "first")
    half = model.to_bf16()
    assert verify.compare(model, first, saved(model, tmp_path / "half", params=half)).same
    half["model"]["norm"]["scale"] = half["model"]["norm"]["scale"].at[0].multiply(1.01)
    report = verify.compare(model, first, saved(model, tmp_path / "other", params=half))
    (changed,) = [comparison for comparison in report.compared if not comparison.same]
    assert not report.same
    assert changed.name == "model/norm/scale"
    assert changed.error == pytest.approx(
        verify.relative_error(model.params["model"]["norm"]["scale"], half["model"]["norm"]["scale"])
    )


def test_what_only_one_has_is_named(model, tmp_path):
    tied = LlamaForCausalLM({**CONFIG, "tie_word_embeddings": False}, seed=1)
    first = saved(tied, tmp_path / "untied")
    values = {name: first.source.read(name) for name in first.source.headers if name != "lm_head.weight"}
    short = Weights(first.path, ParamsSource(values), "torch")
    report = verify.compare(tied, first, short)
    assert not report.same
    assert report.unmatched == ("lm_head/kernel",)


def test_infinite_and_nan_values_are_compared_by_their_bits(model, tmp_path):
    odd = jax.tree.map(lambda leaf: np.array(leaf), model.params)
    odd["model"]["norm"]["scale"][:2] = np.nan, np.inf
    first, second = (saved(model, tmp_path / name, params=odd) for name in "ab")
    assert verify.compare(model, first, second).same
    assert verify.relative_error(odd["model"]["norm"]["scale"], model.params["model"]["norm"]["scale"]) == float("inf")

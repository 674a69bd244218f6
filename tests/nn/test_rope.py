"""Rotary embeddings against transformers' torch implementation."""

import copy
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, PhiConfig
from transformers.models.gptj import modeling_gptj as gptj
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.phi.modeling_phi import PhiRotaryEmbedding

from flaxmodels.errors import ConfigError
from flaxmodels.nn.rope import RopeConfig, apply_interleaved_rope, apply_rope, rope_parameters, rope_tables

ORIGINAL, MAXIMUM = 32, 128


def parameters(head_dim):
    """One `rope_parameters` dict a line for every type and every parameter that changes its numbers."""
    original = {"original_max_position_embeddings": ORIGINAL}
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    } | original
    yarn = {"rope_type": "yarn", "factor": 4.0} | original
    short, long = (np.linspace(1.0, last, head_dim // 2).tolist() for last in (1.2, 6.0))
    longrope = {"rope_type": "longrope", "short_factor": short, "long_factor": long} | original
    return {
        "default": {"rope_type": "default", "rope_theta": 500000.0},
        "linear": {"rope_type": "linear", "factor": 2.5},
        "dynamic": {"rope_type": "dynamic", "factor": 2.0},
        "llama3": llama3 | {"rope_theta": 500000.0},
        "llama3-narrow": llama3 | {"low_freq_factor": 2.0, "high_freq_factor": 3.0},
        "yarn": yarn,
        "yarn-factor": yarn | {"factor": None},
        "yarn-attention": yarn | {"attention_factor": 1.5},
        "yarn-mscale": yarn | {"mscale": 0.707, "mscale_all_dim": 1.3},
        "yarn-one-mscale": yarn | {"mscale": 0.707},
        "yarn-betas": yarn | {"beta_fast": 4.0, "beta_slow": 0.25},
        "yarn-exact": yarn | {"beta_fast": 4.0, "beta_slow": 0.25, "truncate": False},
        "yarn-steep": yarn | {"beta_fast": 1.0, "beta_slow": 1.0, "truncate": False},
        "longrope": longrope,
        "longrope-factor": longrope | {"factor": 16.0},
        "longrope-unscaled": longrope | {"factor": 1.0},
        "longrope-attention": longrope | {"factor": 16.0, "attention_factor": 1.19},
    }


def torch_tables(config, position_ids, embedding=LlamaRotaryEmbedding):
    cos, sin = embedding(config)(torch.zeros(1), torch.from_numpy(position_ids).long())
    return cos.numpy(), sin.numpy()


def llama_config(rope, head_dim):
    return LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=MAXIMUM,
        rope_parameters=copy.deepcopy(rope),
    )


def rope_config(rope, head_dim):
    normalised = rope_parameters({"rope_parameters": rope, "max_position_embeddings": MAXIMUM})
    return RopeConfig.from_parameters(normalised, head_dim=head_dim, max_position_embeddings=MAXIMUM)


def positions(length):
    """Two rows that end at `length`, the second left-padded."""
    row = np.arange(length, dtype=np.int32)
    return np.stack([row, np.maximum(row - 3, 0)])


@pytest.mark.parametrize("length", [7, ORIGINAL + 1, 3 * MAXIMUM])
@pytest.mark.parametrize("head_dim", [8, 20, 64])
@pytest.mark.parametrize("name", parameters(8))
def test_tables_equal_transformers(name, head_dim, length):
    rope = parameters(head_dim)[name]
    expected = torch_tables(llama_config(rope, head_dim), positions(length))
    tables = rope_tables(rope_config(rope, head_dim), jnp.asarray(positions(length)))
    for ours, theirs in zip(tables, expected, strict=True):
        assert ours.dtype == jnp.float32
        # One ulp of a frequency is an angle of 1e-7 a position.
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=2e-7 * length)


@pytest.mark.parametrize("name", ["linear", "dynamic", "llama3", "yarn", "longrope"])
def test_part_of_a_head_turns(name):
    rope = parameters(12)[name] | {"partial_rotary_factor": 0.4}
    expected = torch_tables(llama_config(rope, 30), positions(2 * MAXIMUM))
    tables = rope_tables(rope_config(rope, 30), jnp.asarray(positions(2 * MAXIMUM)))
    np.testing.assert_allclose(tables, expected, rtol=1e-6, atol=5e-5)


def test_part_of_a_head_turns_unscaled():
    fields = {"rope_theta": 10000.0, "partial_rotary_factor": 0.4}
    rope = rope_config(rope_parameters(fields), 20)
    assert rope.rotary_dim == 8
    config = PhiConfig(hidden_size=80, num_attention_heads=4, **fields)
    expected = torch_tables(config, positions(64), PhiRotaryEmbedding)
    np.testing.assert_allclose(rope_tables(rope, jnp.asarray(positions(64))), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_one_compilation_serves_every_length(name):
    rope = parameters(16)[name]
    traced = []

    @jax.jit
    def compiled(position_ids):
        traced.append(position_ids)
        return rope_tables(rope_config(rope, 16), position_ids)

    for last in (3, ORIGINAL, MAXIMUM - 1, MAXIMUM, 5 * MAXIMUM):
        position_ids = np.asarray([[last - 1, last]], np.int32)
        expected = torch_tables(llama_config(rope, 16), position_ids)
        tables = compiled(position_ids)
        np.testing.assert_allclose(tables, expected, rtol=1e-6, atol=2e-7 * last + 1e-6)
    assert len(traced) == 1


def test_apply_rope_equals_transformers():
    cos, sin = torch_tables(llama_config(parameters(20)["yarn"], 20), positions(9))
    query, key = np.random.default_rng(0).normal(size=(2, 2, 4, 9, 20)).astype(np.float32)
    tensors = (torch.from_numpy(array) for array in (query, key, cos, sin))
    for x, expected in zip((query, key), apply_rotary_pos_emb(*tensors), strict=True):
        rotated = apply_rope(jnp.asarray(x.swapaxes(1, 2)), jnp.asarray(cos), jnp.asarray(sin))
        np.testing.assert_allclose(rotated.swapaxes(1, 2), expected.numpy(), rtol=1e-6, atol=1e-6)


def test_interleaved_rope_equals_transformers():
    table = torch.from_numpy(positions(9)).long()
    sin, cos = gptj.create_sinusoidal_positions(9, 12)[table].chunk(2, dim=-1)
    x = np.random.default_rng(0).normal(size=(2, 9, 4, 20)).astype(np.float32)
    expected = gptj.apply_rotary_pos_emb(torch.from_numpy(x)[..., :12], sin, cos)
    tables = rope_tables(RopeConfig(rotary_dim=12, max_position_embeddings=9), jnp.asarray(positions(9)))
    rotated = apply_interleaved_rope(jnp.asarray(x), *tables)
    np.testing.assert_allclose(rotated[..., :12], expected.numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(rotated[..., 12:], x[..., 12:])


@pytest.mark.parametrize("apply_rope", [apply_rope, apply_interleaved_rope])
def test_apply_rope_keeps_dtype_and_the_still_features(apply_rope):
    rope = RopeConfig(rotary_dim=6, max_position_embeddings=64)
    cos, sin = rope_tables(rope, jnp.arange(40)[None])
    x = jax.random.normal(jax.random.key(0), (3, 40, 2, 10)).astype(jnp.bfloat16)
    rotated = apply_rope(x, cos, sin)
    assert rotated.dtype == jnp.bfloat16
    np.testing.assert_array_equal(rotated[..., 6:], x[..., 6:])
    exact = apply_rope(x.astype(jnp.float32), cos, sin)
    np.testing.assert_array_equal(rotated, exact.astype(jnp.bfloat16))


V4 = [
    {},
    {"rope_theta": 500000.0, "rope_scaling": None},
    {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_scaling": {"type": "dynamic", "rope_type": "dynamic", "factor": 4.0}},
    {"rope_theta": 1e6, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    {"original_max_position_embeddings": 64, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
    {"rope_theta": 5e5, "rope_scaling": parameters(8)["llama3-narrow"]},
    {"rope_scaling": parameters(4)["longrope"], "partial_rotary_factor": 0.5, "head_dim": 8},
]


@pytest.mark.parametrize("fields", V4)
def test_v4_fields_become_the_parameters_of_transformers_v5(fields):
    fields = {"max_position_embeddings": MAXIMUM, **fields}
    config: Any = LlamaConfig(**copy.deepcopy(fields))
    config.standardize_rope_params()
    expected = {key: value for key, value in config.rope_parameters.items() if key != "type"}
    before = copy.deepcopy(fields)
    assert rope_parameters(fields) == expected
    assert fields == before
    assert rope_parameters(config.to_dict() | {"rope_parameters": expected}) == expected


def test_fields_that_are_none_count_as_absent():
    names = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")
    assert rope_parameters(dict.fromkeys(names)) == {"rope_type": "default", "rope_theta": 10000.0}


@pytest.mark.parametrize("name", parameters(8))
def test_v4_and_v5_give_the_same_rotation(name):
    rope = parameters(8)[name]
    v4 = {"rope_scaling": {"type": rope["rope_type"], **rope}, "max_position_embeddings": MAXIMUM}
    del v4["rope_scaling"]["rope_type"]
    v4["rope_theta"] = v4["rope_scaling"].pop("rope_theta", 10000.0)
    from_v4, from_v5 = rope_config(rope_parameters(v4), 8), rope_config(rope, 8)
    assert from_v4 == from_v5
    assert hash(from_v4) == hash(from_v5)


def refused(message):
    return pytest.raises(ConfigError, match=f"^{re.escape(message)}$")


def test_unknown_type_is_refused():
    with refused("unknown rope_type 'su'. Known: default, dynamic, linear, llama3, longrope, yarn."):
        rope_config({"type": "su", "short_factor": []}, 8)


def test_what_is_no_description_is_refused():
    with refused("unknown rope_type ['linear']. Known: default, dynamic, linear, llama3, longrope, yarn."):
        rope_config({"type": ["linear"]}, 8)
    with refused("rope_scaling=[1]: expected a dict"):
        rope_parameters({"rope_scaling": [1]})
    message = (
        "rope_parameters do not describe rope_type 'dynamic':\n"
        "  - rotary_dim=2: expected an even number from 4 to head_dim=2\n"
        "'dynamic' takes factor, partial_rotary_factor, rope_theta, rope_type. Correct them in the config."
    )
    with refused(message):
        rope_config({"type": "dynamic", "factor": 2.0}, 2)


def test_all_missing_and_unknown_keys_are_named():
    message = (
        "rope_parameters do not describe rope_type 'llama3':\n"
        "  - missing: low_freq_factor\n"
        "  - missing: high_freq_factor\n"
        "  - unknown: 'short_mscale'=1.5\n"
        "  - factor='8': expected a number above 0\n"
        "'llama3' takes factor, high_freq_factor, low_freq_factor, original_max_position_embeddings, "
        "partial_rotary_factor, rope_theta, rope_type. Correct them in the config."
    )
    with refused(message):
        rope_config({"rope_type": "llama3", "factor": "8", "short_mscale": 1.5, "low_freq_factor": None}, 8)


def test_all_impossible_values_are_named():
    message = (
        "rope_parameters do not describe rope_type 'longrope':\n"
        "  - long_factor=2.0: expected a list, each item a number above 0\n"
        "  - rope_theta=-1: expected a number above 0\n"
        "  - original_max_position_embeddings=True: expected a number above 1\n"
        "  - rotary_dim=11: expected an even number from 2 to head_dim=22\n"
        "  - len(short_factor)=1: expected rotary_dim / 2 = 5\n"
        "'longrope' takes attention_factor, factor, long_factor, original_max_position_embeddings, "
        "partial_rotary_factor, rope_theta, rope_type, short_factor. Correct them in the config."
    )
    rope = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": 2.0, "rope_theta": -1}
    with refused(message):
        rope_config(rope | {"original_max_position_embeddings": True, "partial_rotary_factor": 0.5}, 22)


ORIGINAL_IS_ONE = "original_max_position_embeddings=1: expected a number above 1"


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("yarn", {"truncate": 1}, "truncate=1: expected True or False"),
        ("yarn", {"rope_theta": 1}, "rope_theta=1: expected a number above 1"),
        ("yarn", {"mscale": -1.0}, "mscale=-1.0: expected a number of at least 0"),
        ("yarn", {"factor": float("inf")}, "factor=inf: expected a number above 0"),
        ("yarn", {"factor": 10**400}, "factor=<an integer of 1329 bits>: expected a number above 0"),
        ("longrope", {"long_factor": [1.0, 1.0, "x", 1.0]}, "long_factor[2]='x': expected a number above 0"),
        ("longrope", {"original_max_position_embeddings": 1}, ORIGINAL_IS_ONE),
        ("llama3", {"high_freq_factor": 1.0}, "high_freq_factor=1.0: expected more than low_freq_factor=1.0"),
    ],
)
def test_impossible_value_is_named(name, change, problem):
    problem = re.escape(problem)
    message = rf"^rope_parameters do not describe rope_type '{name}':\n  - {problem}\n'{name}' takes .*\.$"
    with pytest.raises(ConfigError, match=message):
        rope_config(parameters(8)[name] | change, 8)


def test_contradictory_fields_are_refused():
    linear, dynamic = {"rope_type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0}
    message = (
        "rope_scaling {'factor': 2.0, 'rope_theta': 10000.0, 'rope_type': 'linear'} is not "
        "rope_parameters {'factor': 2.0, 'rope_theta': 10000.0, 'rope_type': 'dynamic'}. "
        "Remove one from the config."
    )
    with refused(message):
        rope_parameters({"rope_scaling": linear, "rope_parameters": dynamic})
    agreeing = {"rope_scaling": linear, "rope_parameters": dict(linear), "rope_theta": 1e6}
    assert rope_parameters(agreeing) == linear | {"rope_theta": 1e6}

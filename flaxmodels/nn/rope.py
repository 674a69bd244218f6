"""Rotary position embeddings, of which there are two conventions: features that rotate together are half of the
rotated features apart (`apply_rope`), or neighbours (`apply_interleaved_rope`).

Sources: rotary embeddings, arXiv 2104.09864; "linear" scaling (position interpolation), arXiv 2306.15595;
"dynamic" (NTK-aware) and "yarn" scaling, arXiv 2309.00071; "longrope", arXiv 2402.13753; "llama3", the
implementation of Llama 3.1 (github.com/meta-llama/llama-models). Parameters are named as in HF configs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Interval

from flaxmodels.errors import ConfigError
from flaxmodels.fields import Positive, Scale, brief, kind_of

_SCALED_FROM_ORIGINAL = ("llama3", "yarn", "longrope")
_COMMON = {"rope_type", "rope_theta", "partial_rotary_factor"}
_REQUIRED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("original_max_position_embeddings",),
    "longrope": ("short_factor", "long_factor", "original_max_position_embeddings"),
}
_OPTIONAL: dict[str, tuple[str, ...]] = {
    "yarn": ("factor", "attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow", "truncate"),
    "longrope": ("factor", "attention_factor"),
}
_KINDS = {
    **dict.fromkeys(("rope_theta", "partial_rotary_factor", "factor", "attention_factor"), kind_of(Positive)),
    **dict.fromkeys(("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"), kind_of(Positive)),
    **dict.fromkeys(("mscale", "mscale_all_dim"), kind_of(Scale)),
    **dict.fromkeys(("short_factor", "long_factor"), kind_of(list[Positive])),
    "original_max_position_embeddings": kind_of(Annotated[float, Interval(gt=1)]),
    "truncate": kind_of(bool),
}
"""What the parameters may be."""
_MOST_LINES = 8


@dataclass(frozen=True)
class RopeConfig:
    """What determines the rotation, as plain hashable values: usable as a static argument of `jax.jit`.

    `rotary_dim` is the number of features of a head that rotate, `theta` the base of the frequencies; the two
    `max_position_embeddings` are lengths in tokens; `attention_factor` multiplies cosines and sines. The rest
    belongs to the rope types that name it. Only `from_parameters` checks values and infers absent ones.
    """

    rotary_dim: int
    max_position_embeddings: int
    rope_type: str = "default"
    theta: float = 10000.0
    factor: float = 1.0
    attention_factor: float = 1.0
    original_max_position_embeddings: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

    @classmethod
    def from_parameters(
        cls, parameters: Mapping[str, Any], *, head_dim: int, max_position_embeddings: int
    ) -> RopeConfig:
        """Builds it from a `rope_parameters` dict, such as `rope_parameters(config)` returns.

        A key whose value is None counts as absent.

        Raises:
            ConfigError: an unknown `rope_type`, missing or unknown keys, values of another kind, factor lists of
                another length; everything wrong is listed.
        """
        given = {key: value for key, value in parameters.items() if value is not None}
        rope_type = given.pop("rope_type", "default")
        if not isinstance(rope_type, str) or rope_type not in _REQUIRED:
            raise ConfigError(f"unknown rope_type {brief(rope_type)}. Known: {', '.join(sorted(_REQUIRED))}.")
        _check(rope_type, given, head_dim)
        theta = given.pop("rope_theta")
        rotary_dim = int(head_dim * given.pop("partial_rotary_factor", 1.0))
        if rope_type in ("yarn", "longrope"):
            original = given["original_max_position_embeddings"]
            factor = given.setdefault("factor", max_position_embeddings / original)
            mscales = given.pop("mscale", 0.0), given.pop("mscale_all_dim", 0.0)
            given.setdefault("attention_factor", _attention_factor(rope_type, factor, original, *mscales))
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list | np.ndarray) else value for key, value in given.items()
        }
        return cls(rotary_dim, max_position_embeddings, rope_type=rope_type, theta=theta, **values)


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `rope_parameters` dict that the fields of a raw config.json of transformers v4 or v5 amount to.

    Reads `rope_parameters` (v5), `rope_scaling` (v4, also with its old key "type"), `rope_theta` (10000.0 if
    absent), `partial_rotary_factor`, `original_max_position_embeddings` and `max_position_embeddings`.

    Raises:
        ConfigError: `rope_scaling` or `rope_parameters` is no dict, or both are there and disagree.
    """
    stated = {key: config[key] for key in ("rope_scaling", "rope_parameters") if config.get(key)}
    for key, value in stated.items():
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key}={brief(value)}: expected a dict")
    result, *others = [_normalised(parameters, config) for parameters in stated.values() or [{}]]
    if any(other != result for other in others):
        raise ConfigError(
            f"rope_scaling {brief(result)} is not rope_parameters {brief(others[0])}. Remove one from the config."
        )
    return result


def rope_tables(rope: RopeConfig, position_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the rotation at each position, times the attention factor.

    Args:
        rope: the rotation.
        position_ids: int `[batch, q_len]`. In "dynamic" and "longrope" the frequencies depend on the current
            length, `max(position_ids) + 1` over the batch, within one compiled function. Keys cached at a
            smaller length keep the rotation they had.

    Returns:
        cos and sin, float32 `[batch, q_len, rotary_dim]`.
    """
    frequencies = jnp.asarray(_FREQUENCIES[rope.rope_type](rope, jnp.max(position_ids) + 1))
    angles = position_ids.astype(jnp.float32)[:, :, None] * frequencies[None, None, :]
    angles = jnp.concatenate([angles, angles], axis=-1)
    return jnp.cos(angles) * rope.attention_factor, jnp.sin(angles) * rope.attention_factor


def layer_rope_tables(
    ropes: Sequence[RopeConfig | None], position_ids: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], ...]:
    """The `rope_tables` of each layer, for positions int `[batch, q_len]`; those of `None` rotate nothing."""
    tables = {rope: rope_tables(rope, position_ids) for rope in dict.fromkeys(ropes) if rope is not None}
    if None in ropes:
        ones = jnp.ones_like(next(iter(tables.values()))[0]) if tables else jnp.ones((*position_ids.shape, 2))
        return tuple((ones, jnp.zeros_like(ones)) if rope is None else tables[rope] for rope in ropes)
    return tuple(tables[rope] for rope in ropes if rope is not None)


def apply_rope(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the first `rotary_dim` features of every head, in float32: feature i with feature i + rotary_dim / 2.

    Args:
        x: queries or keys, `[batch, q_len, heads, head_dim]`.
        cos, sin: `[batch, q_len, rotary_dim]`, from `rope_tables`.

    Returns:
        `[batch, q_len, heads, head_dim]` in the dtype of `x`.
    """
    rotary_dim = cos.shape[-1]
    given, passthrough = x[..., :rotary_dim].astype(jnp.float32), x[..., rotary_dim:]
    first, second = jnp.split(given, 2, axis=-1)
    rotate_half = jnp.concatenate([-second, first], axis=-1)
    rotated = given * cos[:, :, None, :] + rotate_half * sin[:, :, None, :]
    return jnp.concatenate([rotated.astype(x.dtype), passthrough], axis=-1)


def apply_interleaved_rope(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """As `apply_rope`, of the same shapes, where feature 2 i rotates with feature 2 i + 1, as in the paper."""
    rotary_dim = cos.shape[-1]
    given, passthrough = x[..., :rotary_dim].astype(jnp.float32), x[..., rotary_dim:]
    cos, sin = (table[:, :, None, : rotary_dim // 2] for table in (cos, sin))
    even, odd = given[..., ::2], given[..., 1::2]
    rotated = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(given.shape)
    return jnp.concatenate([rotated.astype(x.dtype), passthrough], axis=-1)


def _normalised(parameters: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """One `rope_parameters` or `rope_scaling` dict, completed from the fields of `config` beside it."""
    beside = {key: value for key, value in config.items() if value is not None}
    result = {key: value for key, value in parameters.items() if key != "type"}
    result.setdefault("rope_type", parameters.get("type", "default"))
    result.setdefault("rope_theta", beside.get("rope_theta", 10000.0))
    if "partial_rotary_factor" in beside:
        result.setdefault("partial_rotary_factor", beside["partial_rotary_factor"])
    if result["rope_type"] in _SCALED_FROM_ORIGINAL:
        # Phi-3 and its kin state it outside the dict, and that statement wins.
        original = result.get("original_max_position_embeddings", beside.get("max_position_embeddings"))
        result["original_max_position_embeddings"] = beside.get("original_max_position_embeddings", original)
    return result


def _check(rope_type: str, given: Mapping[str, Any], head_dim: int) -> None:
    """Raises one `ConfigError` for everything that is wrong with these parameters."""
    required = ("rope_theta", *_REQUIRED[rope_type])
    known = {*_COMMON, *required, *_OPTIONAL.get(rope_type, ())}
    problems = [f"missing: {key}" for key in required if key not in given]
    problems += [f"unknown: {brief(key)}={brief(given[key])}" for key in given if key not in known][:_MOST_LINES]
    problems += _value_problems(rope_type, {key: value for key, value in given.items() if key in known}, head_dim)
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise ConfigError(
            f"rope_parameters do not describe rope_type {rope_type!r}:{lines}\n"
            f"{rope_type!r} takes {', '.join(sorted(known))}. Correct them in the config."
        )


def _value_problems(rope_type: str, given: Mapping[str, Any], head_dim: int) -> list[str]:
    wrong = {key: lines for key, value in given.items() if (lines := _KINDS[key].problems(key, value))}
    problems = [line for lines in wrong.values() for line in lines]
    rotary_dim = 0 if "partial_rotary_factor" in wrong else int(head_dim * given.get("partial_rotary_factor", 1.0))
    # The exponent of "dynamic" divides by rotary_dim - 2.
    least = 4 if rope_type == "dynamic" else 2
    if rotary_dim % 2 or not least <= rotary_dim <= head_dim:
        problems.append(f"rotary_dim={rotary_dim}: expected an even number from {least} to head_dim={head_dim}")
    for key in ("short_factor", "long_factor"):
        if key in given and key not in wrong and len(given[key]) != rotary_dim // 2:
            problems.append(f"len({key})={len(given[key])}: expected rotary_dim / 2 = {rotary_dim // 2}")
    return problems or _contradictions(rope_type, given)


def _contradictions(rope_type: str, given: Mapping[str, Any]) -> list[str]:
    low, high, theta = (given.get(key) for key in ("low_freq_factor", "high_freq_factor", "rope_theta"))
    if low is not None and high is not None and low >= high:
        return [f"high_freq_factor={high}: expected more than low_freq_factor={low}"]
    if rope_type == "yarn" and theta is not None and theta <= 1:
        return [f"rope_theta={theta}: expected a number above 1"]
    return []


def _attention_factor(rope_type: str, factor: float, original: int, mscale: float, mscale_all_dim: float) -> float:
    """What "yarn" (arXiv 2309.00071, section 3.4) and "longrope" infer where the config states nothing."""
    if factor <= 1.0:
        return 1.0
    if rope_type == "longrope":
        return math.sqrt(1.0 + math.log(factor) / math.log(original))
    above, below = (mscale, mscale_all_dim) if mscale and mscale_all_dim else (1.0, 0.0)
    return (0.1 * above * math.log(factor) + 1.0) / (0.1 * below * math.log(factor) + 1.0)


def _wavelengths(rope: RopeConfig) -> np.ndarray:
    """Unscaled wavelengths over 2 pi, float32 `[rotary_dim / 2]`."""
    # Models are trained with torch's float32 powers. numpy's are the same, XLA's an ulp off, and at 1e4
    # tokens an ulp is 1e-3 of a radian.
    return np.float32(rope.theta) ** _exponents(rope)


def _exponents(rope: RopeConfig) -> np.ndarray:
    return np.arange(0, rope.rotary_dim, 2, dtype=np.float32) / np.float32(rope.rotary_dim)


def _default(rope: RopeConfig, seq_len: jax.Array) -> np.ndarray:
    return 1.0 / _wavelengths(rope)


def _linear(rope: RopeConfig, seq_len: jax.Array) -> np.ndarray:
    return _default(rope, seq_len) / np.float32(rope.factor)


def _dynamic(rope: RopeConfig, seq_len: jax.Array) -> jax.Array:
    """Beyond the trained length, theta grows so that the longest wavelength stretches with the sequence."""
    trained, dim = rope.max_position_embeddings, rope.rotary_dim
    stretch = rope.factor * jnp.maximum(seq_len, trained) / trained - (rope.factor - 1.0)
    stretched = 1.0 / (rope.theta * stretch ** (dim / (dim - 2))) ** _exponents(rope)
    return jnp.where(seq_len > trained, stretched, _default(rope, seq_len))


def _llama3(rope: RopeConfig, seq_len: jax.Array) -> np.ndarray:
    """Long wavelengths are stretched, short ones kept, those between blended."""
    frequencies = _default(rope, seq_len)
    rotations = np.float32(rope.original_max_position_embeddings / (2 * math.pi)) * frequencies
    kept = (rotations - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0).astype(np.float32)
    return (1 - kept) * frequencies / np.float32(rope.factor) + kept * frequencies


def _yarn(rope: RopeConfig, seq_len: jax.Array) -> np.ndarray:
    """Features that rotate often within the trained length are kept, slow ones stretched, a ramp between."""
    dim, length = rope.rotary_dim, rope.original_max_position_embeddings

    def feature_with(rotations: float) -> float:
        return dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = feature_with(rope.beta_fast), feature_with(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    # A ramp of no width would divide by zero.
    width = high - low if high != low else 0.001
    stretched = np.clip((np.arange(dim // 2, dtype=np.float32) - low) / width, 0.0, 1.0)
    wavelengths = _wavelengths(rope)
    return stretched / (np.float32(rope.factor) * wavelengths) + (1 - stretched) / wavelengths


def _longrope(rope: RopeConfig, seq_len: jax.Array) -> jax.Array:
    short, long = (np.asarray(factors, np.float32) for factors in (rope.short_factor, rope.long_factor))
    stretch = jnp.where(seq_len > rope.original_max_position_embeddings, long, short)
    return 1.0 / (stretch * _wavelengths(rope))


_FREQUENCIES: dict[str, Callable[[RopeConfig, jax.Array], np.ndarray | jax.Array]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
"""By rope type: radians by which each feature pair rotates per position, float32 `[rotary_dim / 2]`."""

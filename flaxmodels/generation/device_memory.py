"""Whether what a call of `generate` keeps fits in the memory of the device: found out before it is allocated."""

from __future__ import annotations

import os
import sys
from typing import Any

import jax

from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution.structure import structure_of
from flaxmodels.generation.runner import StaticArgs


def check_memory(model: Any, static: StaticArgs, prompts: int, values: list[Any]) -> None:
    """Refuse a program that needs more than all the memory of the devices that hold the parameters `values`.

    Raises:
        FlaxModelsError: names the bytes that are needed at least, and those that there are.
    """
    rows, available = prompts * static.rows_per_prompt, memory_for(values)
    needed = rows * _bytes_of_row(model, static)
    if needed > available:
        raise FlaxModelsError(
            f"generate() needs at least {needed:,} bytes for caches, tokens and scores of {rows:,} rows of "
            f"{static.cache_len:,} tokens, but the device has {available:,}; lower max_new_tokens, max_length, "
            "num_beams or num_return_sequences, or give fewer prompts at once"
        )


def _bytes_of_row(model: Any, static: StaticArgs) -> int:
    cache, tokens = _bytes_of_cache(model, static), 3 * static.cache_len  # int32 tokens, mask and positions
    if static.strategy and static.rows_per_prompt > 1:  # a search
        cache *= 2  # the rows of the next step are taken from those of the last
        candidates = static.strategy[1] // static.rows_per_prompt
        tokens += (2 + candidates) * (static.cache_len + static.max_new_tokens)  # running, finished and offered
    scores = 1 + static.max_new_tokens * len({"output_scores", "output_logits"}.intersection(static.outputs))
    return cache + 4 * (tokens + scores * model.config.target_vocab_size)


def _bytes_of_cache(model: Any, static: StaticArgs) -> int:
    """Of one row."""
    derived, key = structure_of(model).derived, ("cache", static.cache_len, static.cache_dtype)
    if key not in derived:
        cache = jax.eval_shape(lambda: model.init_cache(1, static.cache_len, static.cache_dtype))
        derived[key] = sum(part.size * part.dtype.itemsize for part in jax.tree.leaves(cache))
    return derived[key]


def memory_for(values: list[Any]) -> int:
    """Bytes of the devices that hold `values`, together; those of this machine if its processors are the devices."""
    held = next((value.devices() for value in values if isinstance(value, jax.Array)), jax.local_devices()[:1])
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in held]
    if all(limits):
        return sum(limits)
    known = hasattr(os, "sysconf")  # not on Windows
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else sys.maxsize

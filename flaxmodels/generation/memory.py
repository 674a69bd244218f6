"""Whether what a call of `generate` keeps fits in the memory of the device: found out before it is allocated."""

from __future__ import annotations

import os
import sys
from typing import Any

import jax

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation.reader import Program
from flaxmodels.nn.functional import functional


def check_memory(model: Any, program: Program, prompts: int, values: list[Any]) -> None:
    """Refuse a program that needs more than all the memory of the devices that hold the parameters `values`.

    Raises:
        FlaxModelsError: names the bytes that are needed at least, and those that there are.
    """
    rows, there = prompts * program.repeats, memory_for(values)
    needed = rows * _bytes_of_row(model, program)
    if needed > there:
        raise FlaxModelsError(
            f"generate() needs at least {needed:,} bytes for caches, texts and scores of {rows:,} rows with room for "
            f"{program.slots:,} tokens, but the device has {there:,}; lower max_new_tokens, max_length, num_beams or "
            "num_return_sequences, or give fewer prompts at once"
        )


def _bytes_of_row(model: Any, program: Program) -> int:
    cache, texts = _bytes_of_cache(model, program), 3 * program.slots  # int32 tokens, mask and positions
    if program.variant and program.repeats > 1:  # a search: texts that run, have ended and are offered, and their rows
        cache *= 2  # which other rows are taken from
        texts += (2 + program.variant[1] // program.repeats) * (program.slots + program.room)
    scores = 1 + program.room * len({"output_scores", "output_logits"}.intersection(program.wanted))
    return cache + 4 * (texts + scores * model.config.target_vocab_size)


def _bytes_of_cache(model: Any, program: Program) -> int:
    """Of one row."""
    derived, key = functional(model).derived, ("cache", program.slots, program.cache_dtype)
    if key not in derived:
        cache = jax.eval_shape(lambda: model.init_cache(1, program.slots, program.cache_dtype))
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

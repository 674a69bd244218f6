"""The processes that save one checkpoint together, each a part of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from flaxmodels.files.commit import Crew


def crew_of(arrays: Iterable[Any]) -> Crew:
    """All processes if they share one of the arrays, which then all of them must save; else this one alone."""
    if all(not isinstance(array, jax.Array) or array.is_fully_addressable for array in arrays):
        return Crew()
    own = np.array([os.getpid(), secrets.randbits(31)], np.int32)
    pid, number = (int(value) for value in multihost_utils.broadcast_one_to_all(own))
    return Crew(jax.process_index(), jax.process_count(), f"{pid}-{number:08x}", _wait)


def _wait(moment: str) -> None:
    multihost_utils.sync_global_devices(f"flaxmodels: {moment}")

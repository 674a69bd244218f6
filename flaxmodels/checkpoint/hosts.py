"""What processes under `jax.distributed` tell each other while they save one checkpoint together."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from flaxmodels.files.process_group import ProcessGroup, ProcessLost
from interop.ops import full_index
from interop.source import Index

_MESSAGE = 1024
"""Bytes. Of one size for all, so that whatever a process has to say is the same collective."""


def process_group_of(arrays: Iterable[Any]) -> ProcessGroup:
    """All processes if they share one of the arrays, which then all of them must save; else this one alone.

    Raises:
        ProcessLost: another process has ended.
    """
    if all(not isinstance(array, jax.Array) or array.is_fully_addressable for array in arrays):
        return ProcessGroup()
    token = exchange(secrets.token_hex(8))[0]
    return ProcessGroup(jax.process_index(), jax.process_count(), token, exchange)


def exchange(text: str) -> list[str]:
    """The first kilobyte of what each process says, in their order; a collective.

    Raises:
        ProcessLost: another process has ended.
    """
    own = np.frombuffer(text.encode(errors="replace")[:_MESSAGE].ljust(_MESSAGE, b"\0"), np.uint8)
    rows = _collected(lambda: multihost_utils.process_allgather(own))
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


def gather(array: jax.Array, index: Index) -> np.ndarray:
    """A box of an array that processes share, in the memory of each; a collective.

    Raises:
        ProcessLost: another process has ended.
    """
    whole = index == full_index(array.shape)
    return _collected(lambda: multihost_utils.process_allgather(array if whole else array[index], tiled=True))


def _collected(collective: Callable[[], Any]) -> np.ndarray:
    try:
        return np.asarray(collective())
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ProcessLost(
            f"another process has ended or cannot be reached ({reason}). Start all processes again."
        ) from error

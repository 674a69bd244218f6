"""The processes that save one checkpoint together: when one of them fails, all do."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flaxmodels.errors import CheckpointError


class ProcessFailed(CheckpointError):
    """A process of the group has failed. Every process has been told, this one included."""


class ProcessLost(CheckpointError):
    """A process of the group has ended, or cannot be reached."""


def _alone(text: str) -> Sequence[str]:
    return [text]


@dataclass(frozen=True)
class ProcessGroup:
    """The processes, on one host or several with a shared file system, that write one folder together.

    Attributes:
        index: the number of this process; 0 is the main process.
        count: the number of processes.
        token: 16 hexadecimal digits, the same in all of them and in no other group.
        exchange: takes one string from each process and returns those of all, in the order of the processes. Every
            process must call it; raises `ProcessLost` if one no longer can.
    """

    index: int = 0
    count: int = 1
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    exchange: Callable[[str], Sequence[str]] = _alone

    @property
    def is_main(self) -> bool:
        """Whether this process does what only one may do."""
        return self.index == 0

    def agree(self) -> None:
        """Wait until every process has called this or `failures`.

        Raises:
            ProcessFailed: with what `failures` says, in every process, if one has failed.
            ProcessLost: a process has ended.
        """
        if failures := self.failures():
            raise ProcessFailed(failures)

    def failures(self, own: str = "") -> str:
        """The processes that have failed, each with its reason, when every process has called this or `agree`.

        A process that fails calls it once, with its own reason, wherever it is: the others are waiting in `agree` or on
        their way there.
        """
        reasons = self.exchange(own)
        return " ".join(f"process {number}: {reason}" for number, reason in enumerate(reasons) if reason)

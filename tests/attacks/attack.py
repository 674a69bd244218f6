"""What an attack is: files, and the error that must come of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Content = bytes | Callable[[], bytes]
"""The bytes of a file, or what makes them if they are many."""


@dataclass(frozen=True)
class Attack:
    """Files that no reader may follow.

    Attributes:
        files: contents by path in one folder.
        message: the whole error, in which "{folder}" stands for the path of that folder.
        opened: the path that is opened; the first of the files by default.
    """

    files: Mapping[str, Content]
    message: str
    opened: str = ""


def damaged(file: str, content: Content, problem: str) -> Attack:
    """One file that contradicts its format."""
    return Attack({file: content}, f"{file}: {problem}. Download or copy it again.")


def refused(file: str, content: Content, problem: str) -> Attack:
    """One file that is refused in words of its own."""
    return Attack({file: content}, problem)

"""What commands print: lines, tables and pieces of text in which a stranger's control characters are escaped."""

from __future__ import annotations

import re
import sys

from rich.console import Console
from rich.text import Text

_CONTROLS = re.compile(
    r"[\x00-\x1f\x7f-\x9f]"  # they move the cursor, ring, colour, and worse
    r"|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # they reverse what is around them
    r"|[\u2028\u2029]|[\ud800-\udfff]"  # lines, and what no encoding has
)
_PIPE_WIDTH = 1_000_000
_MAX_NAME_WIDTH = 100


def printable(text: object, keep: str = "") -> str:
    """A text with its control characters escaped as Python does, but for those to `keep`.

    Whatever comes from a file or a user goes through it on its way to a terminal.
    """
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], str(text))


def console(*, stderr: bool = False) -> Console:
    """Where a command writes. Nothing is markup, and lines for other programs are not folded."""
    found = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not found.is_terminal:
        found.width = _PIPE_WIDTH
    return found


def say(*parts: str | tuple[str, str], stderr: bool = False, keep: str = "") -> None:
    """Print parts as one line, each a text or a text and its style, with control characters escaped."""
    styled = [(part, "") if isinstance(part, str) else part for part in parts]
    text = Text.assemble(*((printable(text, keep), style) for text, style in styled))
    console(stderr=stderr).print(text, soft_wrap=True)


def cell(text: object) -> str:
    """A text for a table: control characters escaped, and on a terminal cut in the middle if it is long."""
    text = printable(text)
    if len(text) <= _MAX_NAME_WIDTH or not console().is_terminal:
        return text
    half = _MAX_NAME_WIDTH // 2
    return f"{text[:half]}…{text[-half + 1 :]}"


def write(text: str) -> None:
    """Write a piece of what a model says: to a terminal with control characters escaped, elsewhere as it is."""
    sys.stdout.write(printable(text, keep="\n\t") if sys.stdout.isatty() else text)
    sys.stdout.flush()


def human_bytes(count: int) -> str:
    """A size for people, in decimal units as `max_shard_size` has them."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"

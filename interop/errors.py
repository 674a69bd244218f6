"""The error of this package, and how errors show what stands in a file."""

from __future__ import annotations

from collections.abc import Collection

LONGEST = 200
"""Characters of a text that an error shows."""
LONGEST_PATH = 4096
"""Characters of a path that it shows: all that a system allows."""
MOST = 100
"""Texts that an error lists."""


class InteropError(ValueError):
    """Foreign weights that cannot be read, or a package that is needed to read them and absent."""


def shown(text: object, longest: int = LONGEST) -> str:
    """A text from a file as an error shows it: on one line, unprintable characters escaped, cut if it is long.

    Names in files are whatever their writer liked, and a terminal obeys some of their characters.
    """
    whole = str(text)
    cut = whole if len(whole) <= longest else f"{whole[:longest]}..."
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def listed(texts: Collection[object], most: int = MOST, longest: int = LONGEST) -> str:
    """Several such texts on one line; of very many, the first."""
    more = len(texts) - most
    line = ", ".join(shown(text, longest) for text, _ in zip(texts, range(most), strict=False))
    return f"{line} and {more} more" if more > 0 else line

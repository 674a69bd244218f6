"""A count of the changes to models and configurations, so that compiled calls know when to look at them again."""

from __future__ import annotations

_changes = 0


def count_change() -> None:
    """Say that an attribute of a module or a configuration was set or deleted."""
    global _changes
    _changes += 1


def changes() -> int:
    """A number that differs after any such change."""
    return _changes

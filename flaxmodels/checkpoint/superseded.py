"""Which files of weights a save removes: those of earlier saves, and those that would be loaded in place of the new."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from flaxmodels.files.resolve import WEIGHT_FILES
from flaxmodels.files.saved_files import saved_files
from flaxmodels.files.weight_names import is_weight_file, names_of, variant_of

logger = logging.getLogger("flaxmodels")


@dataclass(frozen=True)
class Superseded:
    """What becomes of the weights of one variant that are in a folder before a save.

    Attributes:
        saved: written by an earlier save, and still as they were: they go.
        preferred: written by others, and loaded in place of the new ones if they stayed: they go.
        others: written by others, and not loaded: they stay.
    """

    saved: tuple[str, ...] = ()
    preferred: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def removed(self) -> tuple[str, ...]:
        """The names of the files that go."""
        return self.saved + self.preferred

    def log(self, folder: Path) -> None:
        """Say what was removed, and what of the others stayed."""
        for name in self.saved:
            logger.info("%s: removed %s, which an earlier save had written there", folder, name)
        for name in self.preferred:
            logger.warning(
                "%s: removed %s, which flaxmodels had not written there, but would load in place of the new weights",
                folder,
                name,
            )
        if self.others:
            logger.warning(
                "%s: files of other weights stay, which flaxmodels had not written there: %s",
                folder,
                ", ".join(self.others),
            )


def superseded(folder: Path, written: Collection[str], variant: str | None) -> Superseded:
    """What becomes of the weights in `folder` when the files `written` take their places there."""
    record = saved_files(folder)
    before = [path.name for path in folder.iterdir() if is_weight_file(path.name) and variant_of(path.name) == variant]
    order = [name for file_name in WEIGHT_FILES for name in names_of(file_name, variant)]
    first = min((order.index(name) for name in written if name in order), default=0)
    saved, preferred, others = [], [], []
    for name in sorted(set(before) - set(written)):
        wins = name in order and order.index(name) < first
        (saved if name in record else preferred if wins else others).append(name)
    return Superseded(tuple(saved), tuple(preferred), tuple(others))

"""The weights that are in a folder already: which of them this library has written, and what a save makes of them.

`config.json` records the names and sizes of what was written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxmodels.errors import CheckpointError
from flaxmodels.files.formats import is_weight_file, search_order, variant_of
from flaxmodels.files.location import CONFIG_NAME
from flaxmodels.files.reading import read_json

logger = logging.getLogger("flaxmodels")

SAVED_FILES = "flaxmodels_files"
"""The key in `config.json`. It says something of one folder, so no configuration carries it elsewhere."""


def saved_files(folder: Path) -> dict[str, int]:
    """Names and sizes of the weight files that saves have written into `folder` and nobody has changed since.

    `config.json` records them; what it says of files of another size, or of other files, does not count.
    """
    config = folder / CONFIG_NAME
    try:
        values = read_json(config) if config.is_file() else {}
    except CheckpointError:
        return {}
    return recorded_files(values, lambda name: size_of(folder / name))


def recorded_files(config: Mapping[str, Any], size_of: Callable[[str], int | None]) -> dict[str, int]:
    """Names and sizes of the weight files that a `config.json` records and that are of these sizes now."""
    record = config.get(SAVED_FILES)
    entries = record.items() if isinstance(record, Mapping) else ()
    return {name: size for name, size in entries if is_weight_file(name) and size_of(name) == size}


def size_of(path: Path) -> int | None:
    """Bytes of a file, or of all files of a folder; `None` for links and what is not there."""
    if path.is_symlink():
        return None
    if path.is_dir():
        return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else None


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
    before = [path.name for path in folder.iterdir() if is_weight_file(path.name) and variant_of(path.name) == variant]
    return superseded_among(before, saved_files(folder), written, variant)


def superseded_among(
    before: Iterable[str], record: Collection[str], written: Collection[str], variant: str | None
) -> Superseded:
    """What becomes of weights of one variant, of which earlier saves have written those in `record`."""
    order = search_order(variant)
    first = min((order.index(name) for name in written if name in order), default=0)
    saved, preferred, others = [], [], []
    for name in sorted(set(before) - set(written)):
        wins = name in order and order.index(name) < first
        (saved if name in record else preferred if wins else others).append(name)
    return Superseded(tuple(saved), tuple(preferred), tuple(others))

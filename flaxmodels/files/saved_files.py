"""Which files of weights this library has written into a folder: `config.json` records their names and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flaxmodels.errors import CheckpointError
from flaxmodels.files.reading import read_json
from flaxmodels.files.weight_names import is_weight_file

SAVED_FILES = "flaxmodels_files"
"""The key in `config.json`. It says something of one folder, so no configuration carries it elsewhere."""


def saved_files(folder: Path) -> dict[str, int]:
    """Names and sizes of the weight files that saves have written into `folder` and nobody has changed since.

    `config.json` records them; what it says of files of another size, or of other files, does not count.
    """
    config = folder / "config.json"
    try:
        record = read_json(config).get(SAVED_FILES) if config.is_file() else None
    except CheckpointError:
        return {}
    entries = record.items() if isinstance(record, Mapping) else ()
    return {name: size for name, size in entries if is_weight_file(name) and size_of(folder / name) == size}


def size_of(path: Path) -> int | None:
    """Bytes of a file, or of all files of a folder; `None` for links and what is not there."""
    if path.is_symlink():
        return None
    if path.is_dir():
        return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else None

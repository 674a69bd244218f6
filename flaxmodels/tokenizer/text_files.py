"""Files of text that may be anything."""

from __future__ import annotations

from pathlib import Path

from flaxmodels.errors import CheckpointError
from flaxmodels.files.reading import MAX_JSON_BYTES


def read_text(file: Path) -> str:
    """The text in a file.

    Raises:
        CheckpointError: it cannot be read, or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: byte {error.start} is not UTF-8. Correct it, or fetch it again.") from error
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}. Check the path and its permissions.") from error


def read_lines(file: Path) -> list[str]:
    """The lines in a file, without their ends.

    Raises:
        CheckpointError: it cannot be read, is larger than any vocabulary, or is not UTF-8.
    """
    if file.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(f"{file}: {file.stat().st_size} bytes, more than {MAX_JSON_BYTES}. Fetch it again.")
    lines = read_text(file).split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]

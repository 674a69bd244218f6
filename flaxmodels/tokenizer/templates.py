"""Where chat templates are stored: in files of their own, or in `tokenizer_config.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flaxmodels.errors import CheckpointError
from flaxmodels.files.location import Location
from flaxmodels.tokenizer.text_files import read_text

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
MAX_TEMPLATES = 100
"""In one folder."""


def read_templates(location: Location, stated: Any) -> str | dict[str, str] | None:
    """The chat template of a folder, or several by name.

    Args:
        location: what may have `chat_template.jinja`, which is the default, and `additional_chat_templates/NAME.jinja`.
        stated: what the settings say, which counts if there are no such files.

    Raises:
        CheckpointError: a file cannot be read.
    """
    found = {} if (file := location.find(TEMPLATE_FILE)) is None else {"default": read_text(file)}
    folder = Path(location.root) / TEMPLATE_FOLDER
    files = sorted(folder.glob("*.jinja")) if location.is_local else []
    if len(files) > MAX_TEMPLATES:
        raise CheckpointError(f"{folder} has {len(files)} templates, more than {MAX_TEMPLATES}.")
    found |= {file.stem: read_text(file) for file in files}
    return by_name(stated) if not found else found["default"] if [*found] == ["default"] else found


def by_name(stated: Any) -> Any:
    """Templates by name, if they are a list of objects with names; otherwise the template itself, or None."""
    return {named["name"]: named["template"] for named in stated} if isinstance(stated, list) else stated

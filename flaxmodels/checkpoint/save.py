"""From parameters to files, one tensor at a time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from flaxmodels.checkpoint.mapping import flax_view, torch_file_view, unrolled_view
from flaxmodels.errors import FlaxModelsError
from flaxmodels.files.commit import replacing
from flaxmodels.files.formats import Format, View, is_weight_file
from flaxmodels.files.location import CONFIG_NAME
from flaxmodels.files.process_group import ProcessGroup
from flaxmodels.files.saved_files import SAVED_FILES, Superseded, saved_files, size_of, superseded
from flaxmodels.files.shards import index_json, parse_size, plan_shards, shard_names
from interop.source import Header, Source

_VIEWS: Mapping[View | None, Callable[[Any, Source], Source]] = {
    "torch": torch_file_view,
    "flax": flax_view,
    "own": unrolled_view,
}


def view_of(model: Any, leaves: Source, format: Format) -> Source:
    """The parameters `leaves` of `model`, by "/"-joined path, as the tensors of a file of that format."""
    return _VIEWS[format.view](model, leaves)


def save_checkpoint(
    folder: Path,
    source: Source,
    texts: Mapping[str, str | bytes],
    format: Format,
    max_shard_size: int | str,
    variant: str | None = None,
    extra_files: Iterable[Path] = (),
    group: ProcessGroup | None = None,
    before_commit: Callable[[], None] = lambda: None,
) -> None:
    """Replace the checkpoint in `folder`, all at once or not at all.

    Of the weights of this variant that are there before, those go that an earlier save has written, in whatever
    format, and those that would be loaded in place of the new ones. Each is logged; other files stay.

    Args:
        folder: the folder, made if absent.
        source: the tensors, under the names and in the layout of `format`.
        texts: contents of the files beside the weights by name, `config.json` among them. That also records which
            files of weights the save has written.
        max_shard_size: bytes, or "5GB" and the like.
        extra_files: copied beside the weights, such as a tokenizer.
        group: the processes that save together: each writes its share of the shards, and the main process the rest.
        before_commit: called when all is written; if it raises an error, the folder stays as it was.

    Raises:
        CheckpointError: the disk is full or the folder is not writable, or another process of the group has failed.
    """
    group = group or ProcessGroup()
    before = Superseded()

    def finish(staging: Path) -> tuple[str, ...]:
        nonlocal before
        before = _record(folder, staging, texts[CONFIG_NAME], variant)
        return before.removed

    with replacing(folder, finish, group) as staging:
        _write_weights(staging, source, format, max_shard_size, variant, group)
        if group.is_main:
            for name, text in texts.items():
                (staging / name).write_bytes(text.encode() if isinstance(text, str) else text)
            for file in extra_files:
                shutil.copy(file, staging / file.name)
        before_commit()
    before.log(folder)


def _record(folder: Path, staging: Path, config: str | bytes, variant: str | None) -> Superseded:
    """Write into the new `config.json` which weights are this library's; what becomes of those that are there."""
    written = {path.name: size_of(path) for path in staging.iterdir() if is_weight_file(path.name)}
    before = superseded(folder, written, variant)
    kept = {name: size for name, size in saved_files(folder).items() if name not in before.removed}
    content = json.loads(config) | {SAVED_FILES: kept | written}
    (staging / CONFIG_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return before


def _write_weights(
    folder: Path, source: Source, format: Format, max_shard_size: int | str, variant: str | None, group: ProcessGroup
) -> None:
    if format.write_tree is not None:
        name, _ = format.file_names(variant)
        format.write_tree(folder / name, {name: source.read(name) for name in source.headers}, group)
    else:
        _write_files(folder, source, format, max_shard_size, variant, group)


def file_names(
    headers: Mapping[str, Header], format: Format, max_shard_size: int | str, variant: str | None
) -> list[str]:
    """The names of the files, without their index, that tensors will be written to."""
    return shard_names(*format.stem_and_suffix(variant), len(plan_shards(headers, parse_size(max_shard_size))))


def written_by(format: Format, save_function: Callable[[dict[str, np.ndarray], Path], object]) -> Format:
    """The format, but that each of its files is written by a function of tensors by name, and the path of the file."""

    def write(path: Path, headers: Mapping[str, Header], read: Callable[[str], np.ndarray]) -> None:
        tensors = {name: np.asarray(read(name), order="C") for name in headers}
        if path == Path(os.devnull):
            return
        save_function(tensors, path)
        if not path.is_file():
            raise FlaxModelsError(
                f"save_function wrote no file {path.name}: it must write to the path that it is given"
            )

    if format.write is None:
        raise FlaxModelsError(f"save_function writes files, and format={format.name!r} is a tree: leave it out")
    return replace(format, write=write)


def _write_files(
    folder: Path, source: Source, format: Format, max_shard_size: int | str, variant: str | None, group: ProcessGroup
) -> None:
    """Write one file, or shards of at most `max_shard_size` and their index."""
    write, headers = format.write, source.headers
    assert write is not None  # a tree writes itself
    shards = plan_shards(headers, parse_size(max_shard_size))
    names = shard_names(*format.stem_and_suffix(variant), len(shards))
    with tqdm(total=len(headers), desc="Saving weights", unit="tensor", leave=False, delay=1.0, disable=None) as bar:

        def read(name: str):
            bar.update()
            return source.read(name)

        for number, (name, tensors) in enumerate(zip(names, shards, strict=True)):
            # Reading an array that processes share needs them all, so those that do not keep a shard write it too.
            path = folder / name if number % group.count == group.index else Path(os.devnull)
            write(path, {tensor: headers[tensor] for tensor in tensors}, read)
    if len(shards) > 1 and group.is_main:
        index = index_json(dict(zip(names, shards, strict=True)), headers)
        (folder / format.file_names(variant)[1]).write_text(json.dumps(index, indent=2) + "\n")

"""From parameters to files, one tensor at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from flaxmodels.files.commit import replacing
from flaxmodels.files.msgpack import write_msgpack
from flaxmodels.files.resolve import MSGPACK, SAFETENSORS, is_weight_file
from flaxmodels.files.safetensors import write_safetensors
from flaxmodels.files.shards import index_json, parse_size, plan_shards, shard_names
from interop.source import Header, Source


@dataclass(frozen=True)
class Format:
    """A format of weight files: the name of an unsharded file, and the function that writes one."""

    file_name: str
    layout: str

    def write(self, path: Path, headers: Mapping[str, Header], read) -> None:
        """Write the tensors of `headers` to one file."""
        if self.file_name.endswith(".safetensors"):
            write_safetensors(path, headers, read, {"format": "pt" if self.layout == "torch" else "flax"})
        else:
            write_msgpack(path, headers, read)


FORMATS = {"torch": Format(SAFETENSORS, "torch"), "flax": Format(MSGPACK, "flax")}
"""The formats that can be written, by name."""


def save_checkpoint(
    folder: Path,
    source: Source,
    texts: Mapping[str, str],
    format: Format,
    max_shard_size: int | str,
    variant: str | None = None,
    extra_files: Iterable[Path] = (),
) -> None:
    """Replace the checkpoint in `folder`, all at once or not at all.

    Args:
        folder: made if absent. Weights that an earlier save of this variant left there, in whatever format, go.
        source: the tensors, under the names and in the layout of `format`.
        texts: contents of the files beside the weights by name, `config.json` among them.
        max_shard_size: bytes, or "5GB" and the like.
        extra_files: copied beside the weights, such as a tokenizer.
    """
    with replacing(folder, partial(is_weight_file, variant=variant)) as staging:
        _write_weights(staging, source, format, max_shard_size, variant)
        for name, text in texts.items():
            (staging / name).write_text(text, encoding="utf-8")
        for file in extra_files:
            shutil.copy(file, staging / file.name)


def _write_weights(
    folder: Path, source: Source, format: Format, max_shard_size: int | str, variant: str | None
) -> None:
    """Write one file, or shards of at most `max_shard_size` and their index."""
    headers = source.headers
    stem, suffix = format.file_name.rsplit(".", 1)
    shards = plan_shards(headers, parse_size(max_shard_size))
    names = shard_names(f"{stem}.{variant}" if variant else stem, f".{suffix}", len(shards))
    with tqdm(total=len(headers), desc="Saving weights", unit="tensor", leave=False, delay=1.0, disable=None) as bar:

        def read(name: str):
            bar.update()
            return source.read(name)

        for name, tensors in zip(names, shards, strict=True):
            format.write(folder / name, {tensor: headers[tensor] for tensor in tensors}, read)
    if len(shards) > 1:
        index = index_json(dict(zip(names, shards, strict=True)), headers)
        middle = f".{variant}" if variant else ""
        (folder / f"{stem}.{suffix}.index{middle}.json").write_text(json.dumps(index, indent=2) + "\n")

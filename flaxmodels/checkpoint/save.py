"""From parameters to files, one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from flaxmodels.checkpoint.msgpack import write_msgpack
from flaxmodels.checkpoint.resolve import MSGPACK, SAFETENSORS
from flaxmodels.checkpoint.safetensors import write_safetensors
from flaxmodels.checkpoint.shards import index_json, parse_size, plan_shards, shard_names
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


def write_weights(
    folder: Path, source: Source, format: Format, max_shard_size: int | str, variant: str | None = None
) -> None:
    """Write the tensors of `source` into `folder`: one file, or shards of at most `max_shard_size` and their index."""
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

"""Reads a folder in every way, and fails when anything in it is opened for writing, made, moved or removed.

Arguments: the folder, and one for what is converted. In the first are `bert`, with a tokenizer, and the same model in
`shards`, `orbax` and `interrupted`. See `test_reading.py`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import flaxmodels
from flaxmodels.cli.convert import convert
from flaxmodels.cli.embed import embed
from flaxmodels.cli.inspect import inspect
from flaxmodels.cli.verify import verify

folder = Path(sys.argv[1])
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"mkdir", "rename", "remove", "rmdir", "chmod", "chown", "truncate", "link", "symlink", "utime", "setxattr"}
seen = []


def watch(event: str, arguments: tuple) -> None:
    if event == "open" or event.startswith("shutil.") or event.removeprefix("os.") in CHANGES:
        writes = event != "open" or arguments[2] & WRITING
        named = arguments[1:2] if event.startswith("shutil.copy") else arguments[:2]
        paths = [os.path.abspath(os.fsdecode(path)) for path in named if isinstance(path, (str, bytes, Path))]
        if inside := [path for path in paths if path.startswith((f"{folder}/", "/proc/self/fd"))]:
            seen.append(event)
            if writes:
                print(f"{event} {inside}", flush=True)
                os._exit(1)


sys.addaudithook(watch)
for name in ("bert", "shards", "orbax", "interrupted"):
    path = folder / name
    flaxmodels.AutoConfig.from_pretrained(path)
    flaxmodels.BertModel.from_pretrained(path)
    inspect(str(path))
    verify(str(folder / "bert"), str(path))
    convert(str(path), Path(sys.argv[2]) / name, "flax")
for name in ("bert", "interrupted"):
    embed(str(folder / name), ["w1 w2", "w3"])
assert "open" in seen

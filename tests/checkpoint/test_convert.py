"""Conversions of files that change meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from models.tiny_configs import FAMILIES

from flaxmodels.checkpoint.convert import convert
from flaxmodels.errors import CheckpointError
from flaxmodels.files.weights import open_weights
from flaxmodels.models.llama import LlamaForCausalLM
from interop.source import Source

CONFIG = FAMILIES["llama"].config
FILE = "model.safetensors"


class Meddled:
    """A source after whose third read something happens to its files."""

    def __init__(self, source: Source, meddle: Callable[[], object]):
        self.source, self.meddle, self.reads = source, meddle, 0
        self.headers = source.headers

    def read(self, name, index=None):
        self.reads += 1
        if self.reads == 3:
            self.meddle()
        return self.source.read(name, index)


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"\xff" * 8)


CHANGED = f"{FILE} changed while it was read: try again when nothing writes there"


@pytest.mark.parametrize(
    ("meddle", "mmap", "message"),
    [
        (rewrite, True, CHANGED),
        (rewrite, False, CHANGED),
        (Path.unlink, True, CHANGED),
        (
            lambda path: os.truncate(path, 1000),
            False,
            f"{FILE}: it had {{size}} bytes when it was opened, and has 1000 now. Download or copy it again.",
        ),
    ],
    ids=["rewritten, mapped", "rewritten, copied", "deleted", "truncated"],
)
def test_a_source_that_changes_is_refused_and_the_old_files_stay(tmp_path, meddle, mmap, message):
    model = LlamaForCausalLM(CONFIG)
    model.save_pretrained(tmp_path / "source")
    path = tmp_path / "source" / FILE
    os.utime(path, (1, 1))  # long ago, as the clock of a file system may be coarse
    message = message.format(size=path.stat().st_size)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "flax_model.msgpack").write_bytes(b"old")
    weights = open_weights(path, mmap=mmap)
    weights = replace(weights, source=Meddled(weights.source, lambda: meddle(path)))
    with pytest.raises(CheckpointError) as error:
        convert(LlamaForCausalLM.abstract(CONFIG), weights, tmp_path / "old", to="flax", config="{}")
    assert str(error.value) == message
    assert {found.name: found.read_bytes() for found in (tmp_path / "old").iterdir()} == {"flax_model.msgpack": b"old"}

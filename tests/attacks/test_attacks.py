"""Every attack, through the public way in: refused with its whole message, at once and in little memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py  # noqa: F401  (what an import takes is no part of the measurements)
import pytest
import torch  # noqa: F401
from attacks import gguf, hdf5, indices, msgpack, safetensors, torch_pickles

from flaxmodels.errors import CheckpointError
from flaxmodels.files.location import resolve
from flaxmodels.files.weights import find_weights, open_weights

SECONDS, MEGABYTES = 30, 400
"""What one attack may take: of the processor, far more than any machine needs, and of further memory."""
TABLES = (safetensors, msgpack, gguf, hdf5, indices, torch_pickles)
ATTACKS = {
    f"{table.__name__.partition('.')[2]}: {name}": attack for table in TABLES for name, attack in table.ATTACKS.items()
}


def peak() -> int:
    """The most resident memory in megabytes since it was last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


@contextmanager
def bounded() -> Iterator[None]:
    """Fails if the block takes more processor time or memory than an attack may."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    memory, begin = peak(), time.process_time()
    yield
    seconds, megabytes = time.process_time() - begin, peak() - memory
    assert seconds < SECONDS, f"{seconds:.1f} s"
    assert megabytes < MEGABYTES, f"{megabytes} MB"


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused(tmp_path, name):
    attack = ATTACKS[name]
    for file, content in attack.files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(content() if callable(content) else content)
    path = tmp_path / (attack.opened or next(iter(attack.files)))
    ways = [lambda: find_weights(resolve(path))]
    if path.is_file():
        ways.append(lambda: open_weights(path, mmap=False))
    for way in ways:
        with bounded(), pytest.raises(CheckpointError) as error:
            way()
        assert str(error.value) == attack.message.replace("{folder}", str(tmp_path))

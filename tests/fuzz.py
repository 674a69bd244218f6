"""Damaged files against every reader: only `CheckpointError`s, in little time and memory, and never a path outside.

    python tests/fuzz.py --files 100000

`test_fuzz.py` runs a short part of it.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np

from flaxmodels.errors import CheckpointError
from flaxmodels.files.gguf import GGUFFile
from flaxmodels.files.msgpack import MsgpackFile, write_msgpack
from flaxmodels.files.safetensors import SafetensorsFile, write_safetensors
from flaxmodels.files.shards import ShardedFiles, index_json
from interop.source import Header, Source

TENSORS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b.bias": np.ones(5, ml_dtypes.bfloat16),
    "c": np.array(7, np.int64),
}
HEADERS = {name: Header(array.shape, array.dtype) for name, array in TENSORS.items()}
SECONDS, MEMORY = 10, 2 << 30
"""What one file may take, the second in bytes of address space beyond what is taken before."""
PIECES = [
    *(
        b"\0" * 8,
        b"\xff" * 4,
        b"\xff" * 8,
        b"\xff" * 7 + b"\x7f",
        b"\x7f" + b"\xff" * 7,
        b"\xde\xff\xff",
        b"\xdf\xff\xff\xff\xff",
    ),
    *(b'"../', b'"/etc/passwd"', b"[[[[[[[[", b'{"a":' * 8, b"-1", b"1e999", b"9" * 30, b"NaN", b"null", b"\\u0000"),
]


@dataclass(frozen=True)
class Target:
    """A reader, the name of the file that it opens, and a valid file."""

    opener: Callable[[Path], Source]
    name: str
    valid: bytes


def targets(folder: Path) -> dict[str, Target]:
    """All readers, with the other files that they need in `folder`."""
    write_safetensors(folder / "model-1.safetensors", HEADERS, TENSORS.__getitem__, {"format": "pt"})
    write_msgpack(
        folder / "flax.msgpack",
        {n.replace(".", "/"): h for n, h in HEADERS.items()},
        lambda name: TENSORS[name.replace("/", ".")],
    )
    index = json.dumps(index_json({"model-1.safetensors": list(HEADERS)}, HEADERS)).encode()
    writer = gguf.GGUFWriter(folder / "a.gguf", "llama")
    writer.add_string("text", "naïve")
    writer.add_array("tokens", ["<s>", "a", "b"])
    writer.add_array("scores", [0.5, 1.0])
    writer.add_tensor("a.weight", TENSORS["a.weight"])
    writer.add_tensor("q.weight", np.zeros((2, 36), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return {
        "safetensors": Target(SafetensorsFile, "x.safetensors", (folder / "model-1.safetensors").read_bytes()),
        "msgpack": Target(MsgpackFile, "x.msgpack", (folder / "flax.msgpack").read_bytes()),
        "gguf": Target(GGUFFile, "x.gguf", (folder / "a.gguf").read_bytes()),
        "index": Target(lambda path: ShardedFiles(path, SafetensorsFile), "x.safetensors.index.json", index),
    }


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A copy with up to four changes, mostly near the start."""
    copy = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        start = int(rng.integers(0, len(copy) + 1) * (rng.random() if rng.random() < 0.5 else 1))
        piece = PIECES[rng.integers(len(PIECES))] if rng.random() < 0.3 else rng.bytes(int(rng.integers(1, 9)))
        match rng.integers(8):
            case 0:
                copy[start:start] = piece
            case 1:
                del copy[start : start + len(piece)]
            case 2:
                del copy[start:]
            case 3:
                copy[start : start + 8] = copy[: len(copy[start : start + 8])]
            case 4 if start < len(copy):
                copy[start] ^= 1 << int(rng.integers(8))
            case _:
                copy[start : start + len(piece)] = piece
    return bytes(copy)


def outcome(target: Target, path: Path, data: bytes) -> str:
    """ "read" or "refused"; anything else that happens is an error of the reader, and passes through."""
    path.unlink(missing_ok=True)  # a map of the file before may be alive
    path.write_bytes(data)
    signal.alarm(SECONDS)
    try:
        source = target.opener(path)
        for name, header in source.headers.items():
            array = source.read(name)
            assert (array.shape, array.dtype) == (header.shape, header.dtype)
    except CheckpointError:
        return "refused"
    finally:
        signal.alarm(0)
    return "read"


def guard(opened: Counter) -> None:
    """Count files that are opened outside the folder of the test."""

    def watch(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str) and "/passwd" in arguments[0]:
            opened[arguments[0]] += 1

    sys.addaudithook(watch)


def fuzz(files: int, seed: int, folder: Path) -> dict[str, Counter]:
    """Outcomes by reader for `files` damaged files in all."""
    rng, found = np.random.default_rng(seed), {}
    every = targets(folder)
    for name, target in every.items():
        found[name] = Counter()
        for number in range(files // len(every)):
            data = damaged(target.valid, rng)
            try:
                found[name][outcome(target, folder / target.name, data)] += 1
            except BaseException:
                (folder / f"{name}-{number}").write_bytes(data)
                print(f"{name}: {data!r}", file=sys.stderr)
                raise
    return found


def main() -> None:
    """Run it, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    escapes: Counter = Counter()
    guard(escapes)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        found = fuzz(arguments.files, arguments.seed, Path(folder))
    assert not escapes, escapes
    for name, outcomes in found.items():
        print(f"{name}: {dict(outcomes)}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{time.perf_counter() - begin:.0f} s, {peak} MB of memory at most")


if __name__ == "__main__":
    main()

"""A short, seeded part of `fuzz.py`, and that nothing ends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FORMATS = ("safetensors", "msgpack", "gguf", "index", "hdf5", "torch")
"""Those of `fuzz_formats.FORMATS` of which no damaged file causes a finding."""

MISBEHAVING = """if True:
    import os, sys, time
    from pathlib import Path
    import fuzz, fuzz_formats
    from flaxmodels.errors import CheckpointError

    def read(folder):
        match (folder / "x").read_bytes():
            case b"hang":
                while True: pass
            case b"wait":
                time.sleep(60)
            case b"crash":
                os.kill(os.getpid(), 11)
            case b"panic":
                raise BaseException("panic")
            case b"memory":
                bytearray(4 << 30)
            case b"outside":
                Path("/etc/hostname").read_bytes()
            case b"refused":
                raise CheckpointError("refused")

    texts = [b"hang", b"wait", b"crash", b"panic", b"memory", b"outside", b"refused", b"right"]
    fuzz.WAITING = 2
    fuzz.SECONDS = 1
    fuzz.FORMATS["bad"] = fuzz_formats.Format(lambda: [{"x": b"right"}], read)
    fuzz.damaged_case = lambda format, folders, seed, number: ({"x": texts[number % len(texts)]}, "x")
    tally = fuzz.fuzz("bad", 8, 0, Path(sys.argv[1]))
    print(tally.files, tally.read, tally.refused, sorted(tally.findings.items()))
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)


def test_damaged_files_are_read_or_refused(tmp_path):
    script = str(ROOT / "tests" / "fuzz.py")
    result = run(script, "--files", "3000", "--seed", "1", "--folder", str(tmp_path), "--formats", *FORMATS)
    assert result.returncode == 0, result.stdout + result.stderr
    tallies = json.loads((tmp_path / "summary.json").read_text())
    assert set(tallies) == set(FORMATS)
    for tally in tallies.values():
        assert tally["read"] > 10
        assert tally["refused"] > 100


def test_findings_are_counted_and_kept_and_the_next_file_comes(tmp_path):
    result = run("-c", MISBEHAVING, str(tmp_path))
    assert result.stdout == (
        "8 1 1 [(('BaseException', '<string>:16'), 1), (('MemoryError', '<string>:18'), 1), "
        "(('ended by SIGSEGV', '<string>:14'), 1), (('no end', '<string>:10'), 1), (('no end', '<string>:12'), 1), "
        "(('path outside', '/etc/hostname'), 1)]\n"
    ), result.stderr
    kept = {path.name: (path / "x").read_bytes() for path in (tmp_path / "bad").iterdir()}
    texts = [b"hang", b"wait", b"crash", b"panic", b"memory", b"outside"]
    assert kept == {str(number): text for number, text in enumerate(texts)}
    assert "in read" in (tmp_path / "bad" / "3" / "finding.txt").read_text()

"""Damaged files against every reader: only errors of this library, in little time and memory, and no path outside.

    python tests/fuzz.py --files 100000 --formats safetensors msgpack --folder findings

Whatever else happens is a finding: it is counted, its files are kept, and the next file comes. Processes read the
files, so that one may crash or hang. `test_fuzz.py` runs a short part of it.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from fuzz_formats import FORMATS, Files
from mutations import damaged_copy

from flaxmodels.errors import FlaxModelsError

SECONDS, MEMORY = 10, 2 << 30
"""What one file may take: of the processor, and in bytes of address space beyond what is taken before."""
WAITING = 6
"""Times as many seconds on the clock: a busy machine stops processes for seconds."""
KEPT = 3
"""Files that are kept of findings of one kind at one place."""
ROOT = Path(__file__).parents[1]
_FORK = multiprocessing.get_context("fork")
_READABLE = (sys.prefix, sys.base_prefix, str(ROOT), "/proc", "/sys", "/dev")


@dataclass(frozen=True)
class Finding:
    """What no file may cause: its kind, such as the type of an error, where it came from, and the whole story."""

    kind: str
    place: str
    story: str


@dataclass
class Tally:
    """What came of the files of one format; `findings` counts them by kind and place."""

    files: int = 0
    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    megabytes: int = 0
    findings: Counter[tuple[str, str]] = field(default_factory=Counter)


class Progress(ctypes.Structure):
    """What a process has done, in memory that outlives it."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("done", "read", "refused", "megabytes")),
        *((name, ctypes.c_double) for name in ("seconds", "slowest")),
    ]


def damaged_case(format: str, folders: Sequence[Files], seed: int, number: int) -> tuple[Files, str]:
    """The files of one case, and which of them is damaged; the same for the same numbers."""
    rng = np.random.default_rng([seed, zlib.crc32(format.encode()), number])
    files = folders[int(rng.integers(len(folders)))]
    names = [name for name in files if name in FORMATS[format].damaged or not FORMATS[format].damaged]
    name = names[rng.integers(len(names))]
    return {**files, name: damaged_copy(name, files[name], rng)}, name


def fuzz(format: str, files: int, seed: int, folder: Path) -> Tally:
    """Read that many damaged files of a format; findings are kept below `folder`."""
    tally = Tally()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as scratch:
        folders = _in_process(partial(_valid, format, Path(scratch)))
        for module in FORMATS[format].modules:
            __import__(module)
        while tally.files < files:
            for number, finding in _batch(format, folders, seed, range(tally.files, files), Path(scratch), tally):
                _keep(finding, number, *damaged_case(format, folders, seed, number), folder / format, tally)
    return tally


def _valid(format: str, scratch: Path) -> list[Files]:
    """The folders of a format, each of which is read as it is."""
    folders = FORMATS[format].load()
    for files in folders:
        FORMATS[format].read(_write(files, scratch / "case"))
    return folders


def _in_process(make):
    """What `make` returns in a process of its own, so that no threads that it starts are forked."""
    receiver, sender = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=lambda: sender.send(make()))
    process.start()
    sender.close()
    made = receiver.recv()
    process.join()
    return made


def _batch(
    format: str, folders: Sequence[Files], seed: int, numbers: range, scratch: Path, tally: Tally
) -> Iterator[tuple[int, Finding]]:
    """Findings of one process that reads the cases until it is through or dies; what it did is added to the tally."""
    receiver, sender = _FORK.Pipe(duplex=False)
    progress = _FORK.RawValue(Progress)
    process = _FORK.Process(target=_work, args=(format, folders, seed, numbers, scratch, sender, progress))
    process.start()
    sender.close()
    with suppress(EOFError):
        while True:
            yield receiver.recv()
    process.join()
    if process.exitcode:
        story = (scratch / "trace").read_text()
        yield numbers.start + progress.done, Finding(_end(-process.exitcode), _place(story), story)
    tally.files = numbers.start + progress.done + bool(process.exitcode)
    tally.read, tally.refused = tally.read + progress.read, tally.refused + progress.refused
    tally.seconds, tally.slowest = tally.seconds + progress.seconds, max(tally.slowest, progress.slowest)
    tally.megabytes = max(tally.megabytes, progress.megabytes)


def _end(number: int) -> str:
    """How a process ended that a signal ended, or that did so with a status."""
    if number in (signal.SIGPROF, signal.SIGALRM):
        return "no end"
    return f"ended by {signal.Signals(number).name}" if number > 0 else f"ended with status {-number}"


def _work(
    format: str,
    folders: Sequence[Files],
    seed: int,
    numbers: range,
    scratch: Path,
    sender: Connection,
    progress: Progress,
) -> None:
    """Read the cases; runs in a process of its own, which a signal ends at a case that takes too long."""
    warnings.simplefilter("ignore")
    os.chdir("/")
    opened = _watch(scratch)
    with (scratch / "trace").open("w") as trace, open(os.devnull, "r+") as nothing:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nothing.fileno(), stream.fileno())
        faulthandler.enable(trace)
        for limit in (signal.SIGPROF, signal.SIGALRM):
            faulthandler.register(limit, trace, chain=True)
        before = _reset_peak()
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY,) * 2)
        for number in numbers:
            files, _ = damaged_case(format, folders, seed, number)
            outcome = _timed(partial(FORMATS[format].read, _write(files, scratch / "case")), opened, progress)
            if isinstance(outcome, Finding):
                sender.send((number, outcome))
            else:
                setattr(progress, outcome, getattr(progress, outcome) + 1)
            progress.done += 1
            progress.megabytes = max(_peak() - before, 0)


def _timed(read: Callable[[], object], opened: list[str], progress: Progress) -> str | Finding:
    """What comes of reading, within the limits of time; that which it took is added to the progress."""
    opened.clear()
    begin = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WAITING * SECONDS)
    outcome = _outcome(read)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
    seconds = time.process_time() - begin
    progress.seconds, progress.slowest = progress.seconds + seconds, max(progress.slowest, seconds)
    return Finding("path outside", opened[0], "") if opened else outcome


def _outcome(read: Callable[[], object]) -> str | Finding:
    """ "read", "refused", or the finding."""
    try:
        read()
    except FlaxModelsError:
        return "refused"
    except BaseException as error:  # panics of tokenizers are no `Exception`
        return Finding(type(error).__name__, _place_of(error), traceback.format_exc())
    return "read"


def _write(files: Files, folder: Path) -> Path:
    """The folder with just these files, which are new: maps of the files before may be alive."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def _watch(folder: Path) -> list[str]:
    """Paths that Python opens from now on outside of this folder and of what is installed."""
    opened: list[str] = []

    def watch(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith((str(folder), *_READABLE)):
                opened.append(path)

    sys.addaudithook(watch)
    return opened


def _place_of(error: BaseException) -> str:
    """The last line of this library that an error passed, or of another if it passed none."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [frame for frame in frames if _is_own(frame[0])]
    file, line = (own or frames)[-1]
    return f"{_short(file)}:{line}"


def _place(story: str) -> str:
    """The same in what `faulthandler` wrote, which begins with the last line."""
    frames = re.findall(r'File "(.+)", line (\d+)', story)
    own = [frame for frame in frames if _is_own(frame[0])]
    return ":".join((_short((own or frames)[0][0]), (own or frames)[0][1])) if frames else "unknown"


def _is_own(file: str) -> bool:
    return file.startswith((f"{ROOT}/flaxmodels", f"{ROOT}/interop"))


def _short(file: str) -> str:
    return file.removeprefix(f"{ROOT}/")


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """The most resident memory in megabytes since it was reset."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024


def _keep(finding: Finding, number: int, files: Files, damaged: str, folder: Path, tally: Tally) -> None:
    """Count the finding, and keep the files of the first of its kind."""
    key = (finding.kind, finding.place)
    tally.findings[key] += 1
    if tally.findings[key] <= KEPT:
        case = _write(files, folder / str(number))
        (case / "finding.txt").write_text(f"{finding.kind} at {finding.place}, {damaged} damaged\n{finding.story}")


def report(tallies: dict[str, Tally]) -> str:
    """Both tables: what came of each format, and the findings."""
    lines = [f"{'format':20}{'files':>9}{'read':>9}{'refused':>9}{'found':>7}{'s':>7}{'slowest':>9}{'MB':>6}"]
    for name, tally in tallies.items():
        counts = f"{tally.files:9}{tally.read:9}{tally.refused:9}{tally.findings.total():7}"
        lines.append(f"{name:20}{counts}{tally.seconds:7.0f}{tally.slowest:9.2f}{tally.megabytes:6}")
    for name, tally in tallies.items():
        lines += [f"{name}: {count} x {kind} at {place}" for (kind, place), count in tally.findings.most_common()]
    return "\n".join(lines)


def main() -> int:
    """Run it, and print what came of it; 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000, help="of all formats together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--folder", type=Path, help="where findings are kept; it must not exist")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    shares = sum(FORMATS[name].share for name in arguments.formats)
    tallies = {}
    for name in arguments.formats:
        files = max(arguments.files * FORMATS[name].share // shares, 1)
        tallies[name] = fuzz(name, files, arguments.seed, folder)
        print(report({name: tallies[name]}), flush=True)
    summary = {name: asdict(tally) | {"findings": tally.findings.total()} for name, tally in tallies.items()}
    (folder / "summary.json").write_text(json.dumps(summary))
    print(f"\n{report(tallies)}\nKept in {folder}")
    return int(any(tally.findings for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())

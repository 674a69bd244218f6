"""What commands print of names, messages and errors that come from files and users."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from test_cli import checkpoint, run  # noqa: F401  fixtures

from flaxmodels import __version__, cli
from flaxmodels.cli.terminal import cell, console, printable, write
from flaxmodels.errors import FlaxModelsError

LONG = "n" * 5000
HOSTILE = {
    "[/foo]": "[/foo]",
    "[bold]b[/bold] :smile:": "[bold]b[/bold] :smile:",
    "esc\x1b]0;title\x07\x1b[2J": r"esc\x1b]0;title\x07\x1b[2J",
    "line\nError: fine\r": r"line\nError: fine\r",
    "half\ud800": r"half\ud800",
    "\u202eesrever\u2066\u200f": r"\u202eesrever\u2066\u200f",
    "\x9b31m\x7f\u2028": r"\x9b31m\x7f\u2028",
    "日本 é 👩‍👧\u00a0": "日本 é 👩‍👧\u00a0",
    LONG: LONG,
}
IN_FILES = {name: shown for name, shown in HOSTILE.items() if "\ud800" not in name}
"""Readers refuse names that are not UTF-8."""


@pytest.fixture
def terminal(monkeypatch):
    """Makes a terminal of standard output."""

    def terminal():
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "150")
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    return terminal


@pytest.fixture(scope="module")
def hostile(checkpoint, tmp_path_factory):  # noqa: F811
    """A checkpoint with tensors of hostile names beside its own."""
    folder = tmp_path_factory.mktemp("hostile")
    data = (checkpoint / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    for name in IN_FILES:
        header[name] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
        body += bytes(4)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    (folder / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    return folder


@pytest.mark.parametrize(("text", "expected"), HOSTILE.items(), ids=map(str, range(len(HOSTILE))))
def test_control_characters_are_escaped(text, expected):
    assert printable(text) == expected
    expected.encode()


def test_names_of_tensors_are_printed_as_text(run, hostile, tmp_path):  # noqa: F811
    status, output, errors = run("inspect", hostile)
    assert status == 0, errors
    assert output.splitlines()[-1] == f"{len(IN_FILES)} not used: {', '.join(IN_FILES.values())}"
    status, output, errors = run("convert", hostile, tmp_path, "--to", "flax", "--no-strict")
    assert status == 0, errors
    assert output.splitlines()[-1] == f"{len(IN_FILES)} not converted: {', '.join(IN_FILES.values())}"
    status, output, errors = run("verify", hostile, tmp_path)
    assert status == 1
    assert output.splitlines()[:-1] == [f"only in one, or of another shape: {name}" for name in IN_FILES.values()]


def test_tables_have_names_as_text(monkeypatch, terminal):
    """In the middle of the table too; whole for a pipe, and cut in the middle for a terminal."""
    from flaxmodels.cli import inspect
    from interop.plan import Plan
    from interop.rules import Rule
    from interop.source import Header

    headers = {name: Header((1,), np.dtype("float32")) for name in HOSTILE}
    plan = Plan(tuple(Rule((name,), (name,)) for name in HOSTILE), {}, {}, (), (), ())
    buffer = io.StringIO()
    monkeypatch.setattr("sys.stdout", buffer)
    console().print(inspect._table("t" * 3000 + "\x1b[/t]", plan, headers))
    title, *lines = buffer.getvalue().splitlines()
    assert title.rstrip() == "t" * 3000 + r"\x1b[/t]"
    rows = [[cell.strip(" ") for cell in line.strip("│").split("│")] for line in lines if "│" in line]
    assert [(row[0], row[-1]) for row in rows] == [(name, name) for name in HOSTILE.values()]
    terminal()
    assert cell("ab" * 5000) == "ab" * 25 + "…" + "b" + "ab" * 24
    assert cell("[/foo]\x1b") == r"[/foo]\x1b"


@pytest.mark.parametrize("name", [name for name in HOSTILE if len(name) < 99 and "\n" not in name and "/" not in name])
def test_errors_are_printed_as_text(run, name):  # noqa: F811
    expected = f"Error: /nowhere/{HOSTILE[name]} does not exist: check the path\n"
    assert run("inspect", f"/nowhere/{name}") == (1, "", expected)


def test_long_errors_are_whole(run, monkeypatch):  # noqa: F811
    def fail(model):
        raise FlaxModelsError(f"{LONG} [/foo]\nsecond \x1b line")

    monkeypatch.setattr("flaxmodels.files.location.resolve", fail)
    assert run("inspect", "x") == (1, "", f"Error: {LONG} [/foo]\nsecond \\x1b line\n")


def test_warnings_are_printed_as_text(run, monkeypatch, capsys):  # noqa: F811
    def warn(model):
        assert isinstance(logging.lastResort, logging.StreamHandler)
        logging.lastResort.stream.write("")
        record = logging.LogRecord("flaxmodels", logging.WARNING, "", 0, "tensor %s", ("\x1b[31m",), None)
        logging.lastResort.handle(record)
        raise FlaxModelsError("end")

    monkeypatch.setattr("flaxmodels.files.location.resolve", warn)
    assert run("inspect", "x") == (1, "", "tensor \\x1b[31m\nError: end\n")


PIECE = "a\tb\n\x1b[31m\ufeff\u202e"


def test_a_terminal_gets_what_a_model_says_escaped(capsys, terminal):
    write(PIECE)
    assert capsys.readouterr().out == PIECE
    terminal()
    write(PIECE)
    assert capsys.readouterr().out == "a\tb\n\\x1b[31m\ufeff\\u202e"


FAULTS = {
    "file": (FileNotFoundError(errno.ENOENT, "No such file", "/a\x1b"), (1, "Error: /a\\x1b: No such file\n")),
    "permission": (PermissionError(errno.EACCES, "Permission denied", "/a"), (1, "Error: /a: Permission denied\n")),
    "disk": (OSError(errno.ENOSPC, "No space left on device"), (1, "Error: No space left on device\n")),
    "no number": (OSError("unexpected"), (1, "Error: unexpected\n")),
    "broken pipe": (BrokenPipeError(errno.EPIPE, "Broken pipe"), (1, "")),
    "Ctrl-C": (KeyboardInterrupt(), (130, "")),
}


@pytest.mark.parametrize(("error", "expected"), FAULTS.values(), ids=FAULTS)
def test_faults_end_a_command_with_one_line(run, monkeypatch, error, expected):  # noqa: F811
    def fail(model):
        raise error

    monkeypatch.setattr("flaxmodels.files.location.resolve", fail)
    status, output, errors = run("inspect", "x")
    assert (status, output, errors) == (expected[0], "", expected[1])


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("a bug")])
def test_other_exceptions_keep_their_traceback(monkeypatch, error):
    def fail(model):
        raise error

    monkeypatch.setattr("flaxmodels.files.location.resolve", fail)
    monkeypatch.setattr("sys.argv", ["flaxmodels", "inspect", "x"])
    with pytest.raises(type(error), match="a bug"):
        cli.main()


def test_the_version(run):  # noqa: F811
    assert run("--version") == (0, f"flaxmodels {__version__}\n", "")


def test_a_plot_is_refused_before_the_work(run, monkeypatch, tmp_path):  # noqa: F811
    options = ["verify", "/nowhere", "/nowhere", "--outputs", "--plot"]
    message = f"Error: --plot: there is no folder {tmp_path / 'none'}. Make it, or name another.\n"
    assert run(*options, tmp_path / "none" / "a.png") == (1, "", message)
    monkeypatch.setattr(cli.verify, "find_spec", lambda package: None)
    message = 'Error: --plot needs matplotlib. Run: pip install "flaxmodels-jax[plot]"\n'
    assert run(*options, tmp_path / "a.png") == (1, "", message)


SCRIPT = "import sys; sys.argv[0] = 'flaxmodels'; from flaxmodels.cli import main; main()"


def test_a_terminal_without_unicode_gets_escapes(tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", SCRIPT, "inspect", str(tmp_path / "é")]
    result = subprocess.run(command, capture_output=True, env=environment, check=False)
    expected = f"Error: {tmp_path}/\\xe9 does not exist: check the path\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, b"", expected.encode())


def test_a_reader_that_goes_away_ends_a_command_quietly():
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, "--version"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (1, b"")

"""The command line: `flaxmodels --help`. Each command is a module; what is heavy is imported when a command runs."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import Annotated

import typer

from flaxmodels.cli import chat, convert, demo, embed, generate, inspect, verify
from flaxmodels.cli.terminal import printable, say
from flaxmodels.errors import FlaxModelsError
from interop.errors import InteropError

app = typer.Typer(
    name="flaxmodels",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)
for command in (
    demo.demo,
    inspect.inspect,
    convert.convert,
    verify.verify,
    generate.generate,
    chat.chat,
    embed.embed,
):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        from flaxmodels import __version__

        say(f"flaxmodels {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Pretrained models in JAX/Flax: inspect, convert and run checkpoints. No torch needed."""


class _Formatter(logging.Formatter):
    """Warnings name tensors too."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n")


def main() -> None:
    """Run the command line.

    A bad input, and a file that cannot be read or written, end it with one message and exit status 1, Ctrl-C with 130.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Formatter())
    try:
        _run()
    except (FlaxModelsError, InteropError, OSError) as error:
        say(("Error:", "bold red"), f" {_reason(error)}", stderr=True, keep="\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _run() -> None:
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read has enough; Python would try to write the rest at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)

"""The command line: `flaxmodels --help`. Each command is a module; what is heavy is imported when a command runs."""

from __future__ import annotations

import sys

import typer

from flaxmodels.cli import chat, convert, demo, embed, generate, inspect, verify
from flaxmodels.cli.common import console

app = typer.Typer(
    name="flaxmodels",
    help="Pretrained models in JAX/Flax: look at, convert and run checkpoints. No torch needed.",
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


def main() -> None:
    """Run the command line; a bad input ends it with its message and exit status 1."""
    try:
        app()
    except ValueError as error:
        console(stderr=True).print(f"[bold red]Error:[/] {error}", highlight=False)
        sys.exit(1)

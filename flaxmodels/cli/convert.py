"""`flaxmodels convert`: from any checkpoint format that can be read to one that can be written."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from flaxmodels.cli.inspect import show_plan
from flaxmodels.cli.models import described
from flaxmodels.cli.options import Dtype, ModelArgument
from flaxmodels.cli.terminal import human_bytes, say
from flaxmodels.cli.verify import compare_weights
from flaxmodels.files.formats import WRITTEN, written_format

FILES = ", ".join(format.file_name for format in WRITTEN.values())


def convert(
    source: ModelArgument,
    destination: Annotated[Path, typer.Argument(help="Folder to write; made if absent.")],
    to: Annotated[str, typer.Option(metavar="|".join(WRITTEN), help=f"Files called, in this order, {FILES}.")],
    param_dtype: Annotated[Dtype, typer.Option(help="Cast floating tensors. auto: each keeps its own.")] = Dtype.auto,
    max_shard_size: Annotated[str, typer.Option(help="More than this is split over several files.")] = "5GB",
    architecture: Annotated[str | None, typer.Option(help="Model class, if config.json names none.")] = None,
    variant: Annotated[str | None, typer.Option(help="Read model.VARIANT.safetensors and the like.")] = None,
    strict: Annotated[bool, typer.Option(help="Refuse missing or unknown tensors.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, from headers alone.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read the result again and compare it.")] = False,
    mmap: Annotated[
        bool, typer.Option(help="Map the files; --no-mmap reads copies, for files that may be truncated meanwhile.")
    ] = True,
) -> None:
    """Convert a checkpoint, one tensor at a time, all at once or not at all.

    Example: `flaxmodels convert ./bert-base-uncased ./bert-flax --to flax --param-dtype bfloat16`
    """
    from flaxmodels.files.location import resolve
    from flaxmodels.files.weights import find_weights

    written_format(to)  # refuses an unknown name before it reads anything
    location = resolve(source)
    if dry_run:
        weights = find_weights(location, variant=variant)
        show_plan(described(location, weights, architecture), weights)
        return
    plan = run(location, destination, to, param_dtype.value, max_shard_size, architecture, variant, strict, mmap)
    size = sum(file.stat().st_size for file in destination.iterdir() if file.is_file())
    say(f"{len(plan.rules)} tensors written to {destination}, {human_bytes(size)}")
    if plan.unexpected:
        say((f"{len(plan.unexpected)} not converted:", "bold yellow"), f" {', '.join(plan.unexpected)}")
    if verify:
        weights = find_weights(location, variant=variant)
        compare_weights(described(location, weights, architecture), weights, find_weights(resolve(destination)))


def run(
    location,
    destination: Path,
    to: str,
    param_dtype: str = "auto",
    max_shard_size: str = "5GB",
    architecture: str | None = None,
    variant: str | None = None,
    strict: bool = True,
    mmap: bool = True,
):
    """Convert, with the configuration and the tokenizer's files beside the weights; returns the plan."""
    from flaxmodels.checkpoint.convert import convert as convert_weights
    from flaxmodels.files.weights import find_weights
    from flaxmodels.policy import to_dtype

    weights = find_weights(location, variant=variant, mmap=mmap)
    model = described(location, weights, architecture)
    dtype = None if param_dtype == "auto" else to_dtype(param_dtype)
    names = {"architectures": [type(model).__name__]} | ({} if dtype is None else {"torch_dtype": dtype.name})
    with TemporaryDirectory() as scratch:
        return convert_weights(
            model,
            weights,
            destination,
            to=to,
            config=model.config.to_json_string(**names),
            param_dtype=dtype,
            max_shard_size=max_shard_size,
            strict=strict,
            extra_files=companions(location, Path(scratch)),
        )


def companions(location: Any, scratch: Path) -> list[Path]:
    """The files that belong to a model and are copied with it.

    Those of a GGUF file's tokenizer are made in `scratch`.
    """
    from flaxmodels.errors import FlaxModelsError
    from flaxmodels.files.formats import is_self_contained
    from flaxmodels.tokenizer import SETTINGS_FILES, VOCABULARY_FILES, Tokenizer

    names = ("generation_config.json", *VOCABULARY_FILES, *SETTINGS_FILES)
    found = [path for path in map(location.find, names) if path is not None]
    if location.file is None or not is_self_contained(location.file) or any(p.name in VOCABULARY_FILES for p in found):
        return found
    try:
        made = Tokenizer.from_pretrained(Path(location.root) / location.file).save_pretrained(scratch)
    except FlaxModelsError as error:
        say(("The tokenizer is not converted:", "bold yellow"), f" {error}")
        return found
    return found + [path for path in map(Path, made) if path.name not in {file.name for file in found}]

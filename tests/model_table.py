"""The table of models in the README, made of the registry and of what is measured here.

python tests/model_table.py                    prints it
python tests/model_table.py --write            puts it into the README
python tests/model_table.py --write granite    the same, where only the rows of these model types are measured
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import conftest  # noqa: F401  the settings under which tests run
import jax
import numpy as np
import torch
from models.tiny_configs import HEADS
from models.torch_reference import at_tokens, everything, flat_outputs, inputs_for, tensors_in, to_torch, torch_model

from flaxmodels.registry import ARCHITECTURES

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- models: python tests/model_table.py --write -->\n", "<!-- end of models -->\n"


def classes(model_type: str) -> list[str]:
    """The public model classes of an architecture."""
    return list(dict.fromkeys(ARCHITECTURES[model_type].tasks.values()))


def measure(head: str) -> tuple[float, bool, bool]:
    """Of one class the largest relative error of any output, whether the file comes back byte for byte, and whether
    scanned layers give the same file and numbers."""
    case = next(case for case in HEADS if case.name == head)
    reference, inputs = torch_model(case), inputs_for(case)
    with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
        theirs, ours, scanned = (Path(temporary) / name for name in ("theirs", "ours", "scanned"))
        reference.save_pretrained(theirs)
        wanted = everything(case)
        expected = dict(flat_outputs(reference(**to_torch(inputs), **wanted)))
        model = case.ours.from_pretrained(theirs)
        found = model(**inputs, **wanted)
        mask = inputs.get("attention_mask")
        errors = [
            _error(at_tokens(np.asarray(value), mask), at_tokens(expected[name].numpy(), mask))
            for name, value in flat_outputs(found)
        ]
        model.save_pretrained(ours)
        stacked = case.ours.from_pretrained(theirs, scan_layers=True)
        stacked.save_pretrained(scanned)
        files = [
            {name: array.tobytes() for name, array in tensors_in(folder).items()} for folder in (theirs, ours, scanned)
        ]
        same = all(
            np.abs(a - b).max() <= 1e-5 * np.abs(b).max()
            for a, b in zip(jax.tree.leaves(stacked(**inputs, **wanted)), jax.tree.leaves(found), strict=True)
        )
    return max(errors), files[0] == files[1], same and files[0] == files[2]


def _error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def rows(model_types: Sequence[str]) -> dict[str, str]:
    """The line of each model type, measured."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        names = [case.name for case in HEADS if case.ours.config_class.model_type in model_types]
        found = dict(zip(names, pool.map(measure, names), strict=True))
    return {model_type: row(model_type, found) for model_type in model_types}


def row(model_type: str, found: Mapping[str, tuple[float, bool, bool]]) -> str:
    """The line of a model type, from what `measure` gave for its classes."""
    cases = [case for case in HEADS if case.ours.config_class.model_type == model_type]
    errors, exact, scans = zip(*(found[case.name] for case in cases), strict=True)
    generates = any(case.ours.can_generate() for case in cases)
    marks = ("yes" if all(exact) else "no", "yes" if all(scans) else "no", "yes" if generates else "")
    listed = ", ".join(f"`{name}`" for name in classes(model_type))
    return f"| `{model_type}` | {listed} | {max(errors):.0e} | {' | '.join(marks)} |"


def table(model_types: Sequence[str]) -> str:
    """The table in markdown, with those lines measured anew and the others as they are."""
    head = "| model type | classes | error beside torch | bytes back | scan | generate |\n|---|---|---|---|---|---|"
    lines = {line.split("`")[1]: line for line in current().splitlines()[2:]} | rows(model_types)
    return "\n".join([head, *(lines[model_type] for model_type in sorted(ARCHITECTURES))]) + "\n"


def current() -> str:
    """The table that the README has."""
    found = re.search(f"{re.escape(BEGIN)}(.*){re.escape(END)}", README.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def main() -> None:
    chosen = [argument for argument in sys.argv[1:] if argument != "--write"]
    text = table(chosen or list(ARCHITECTURES))
    print(text)
    if "--write" in sys.argv:
        README.write_text(README.read_text().replace(current(), text))


if __name__ == "__main__":
    main()

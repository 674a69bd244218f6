"""The text of a model card: what files say of the model, and how it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from flaxmodels.errors import FlaxModelsError
from flaxmodels.files.formats import FORMATS, Format, variant_of
from flaxmodels.files.reading import read_json

_CONTENTS = {
    "from_pt": "weights in the names and layout of torch",
    "from_flax": "weights in the names and layout of Flax",
    "from_tf": "weights of TensorFlow",
}
"""What files of a framework hold."""


def completed_card(
    existing: str | None,
    text: str,
    defaults: Mapping[str, Any],
    given: Mapping[str, Any],
    tags: Iterable[str],
    *,
    ignore_metadata_errors: bool = False,
) -> str | None:
    """A card with all that is to be in its metadata; `None` if the one that is there has it already.

    Args:
        existing: the card that is there, whose text is kept.
        text: what follows the metadata if there is no card.
        defaults: metadata that an existing card may say otherwise.
        given: metadata that it has to have.
        tags: added to those that it has.
        ignore_metadata_errors: drop what of the metadata cannot be read, instead of raising.

    Raises:
        FlaxModelsError: the metadata of the existing card cannot be read.
    """
    from huggingface_hub import ModelCard

    content = f"---\n{{}}\n---\n{text}" if existing is None else existing
    try:
        card = ModelCard(content, ignore_metadata_errors=ignore_metadata_errors)
    except Exception as error:  # of the YAML library too, which is not a dependency of this one
        raise FlaxModelsError(
            f"the metadata of the model card that is there cannot be read: {error}. Correct README.md, or pass "
            "ignore_metadata_errors=True, which drops what of its results cannot be read"
        ) from error
    before = card.data.to_dict()
    for name, value in {**{name: defaults[name] for name in defaults.keys() - before.keys()}, **given}.items():
        card.data[name] = value
    tags = [*_as_list(before.get("tags")), *tags, *given.get("tags", ())]
    card.data["tags"] = list(dict.fromkeys(tags)) or None
    return None if existing is not None and card.data.to_dict() == before else str(card)


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def metadata_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata that the arguments of `create_model_card` give, under the names that the Hub has for them.

    It has a name for one task; further ones are tags.
    """
    tasks = _as_list(arguments.get("tasks"))
    found = {
        "language": arguments.get("language"),
        "license": arguments.get("license"),
        "base_model": arguments.get("finetuned_from"),
        "pipeline_tag": tasks[0] if tasks else None,
        "datasets": _as_list(arguments.get("dataset_tags")) or None,
        "tags": tasks[1:] or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def card_text(
    name: str,
    repo_id: str,
    cls: type,
    folder: Path,
    files: Iterable[str],
    base_model: str | None,
    arguments: Mapping[str, Any],
) -> str:
    """The text of a new card.

    Args:
        name: its title.
        repo_id: what `from_pretrained` takes.
        cls: the class of the model.
        folder: where the model has been saved.
        files: the names of all files that will be beside the card.
        base_model: the repository that the model was loaded from.
        arguments: those of `create_model_card`.
    """
    facts = {"Class": f"`{cls.__name__}`", **_facts(folder)}
    weights = _weight_files(files)
    facts |= {f"`{file}`": _CONTENTS[format.framework] for file, format in weights.items()}
    facts |= {"Base model": f"[{base_model}](https://huggingface.co/{base_model})"} if base_model else {}
    facts |= {"Training data": data} if (data := _training_data(arguments)) else {}
    table = "".join(f"| {fact} | {value} |\n" for fact, value in facts.items())
    return f"\n# {name}\n\n| | |\n|---|---|\n{table}\n## How to load it\n{_snippets(repo_id, cls, weights.values())}"


def _facts(folder: Path) -> dict[str, str]:
    """What the files say: the type of model, the number of parameters, and how many are of which dtype."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    facts = {"Model type": f"`{config['model_type']}`"} if config.get("model_type") else {}
    if (path := _weights_in(folder)) is None:
        return facts
    from flaxmodels.files.weights import open_weights  # which configurations do without

    counts: dict[str, int] = {}
    for header in open_weights(path).source.headers.values():
        counts[header.dtype.name] = counts.get(header.dtype.name, 0) + prod(header.shape)
    dtypes = ", ".join(f"{dtype}: {count:,}" for dtype, count in sorted(counts.items()))
    return facts | {"Parameters": f"{sum(counts.values()):,}", "Stored as": dtypes}


def _weights_in(folder: Path) -> Path | None:
    """The weights in a folder that are loaded from there, of whatever variant."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return next((folder / name for name in _weight_files(names)), None)


def _weight_files(files: Iterable[str]) -> dict[str, Format]:
    """The files of weights, of several shards the index alone, and their formats, in the order of these."""
    roots = sorted({file.split("/")[0] for file in files})
    return {
        root: format
        for format in FORMATS
        for root in roots
        if format.file_name and root in format.file_names(variant_of(root))
    }


def _training_data(arguments: Mapping[str, Any]) -> str:
    names = _as_list(arguments.get("dataset")) or _as_list(arguments.get("dataset_tags"))
    details = _as_list(arguments.get("dataset_args"))
    return ", ".join(map(str, names)) + (f" ({', '.join(map(str, details))})" if details else "")


def _snippets(repo_id: str, cls: type, formats: Iterable[Format]) -> str:
    is_ours = cls.__module__.startswith("flaxmodels.")
    texts = {"JAX": _snippet("flaxmodels" if is_ours else cls.__module__, cls.__name__, repo_id)}
    if is_ours and any(format.framework == "from_pt" for format in formats):
        texts["torch"] = _snippet("transformers", cls.__name__, repo_id)
    return "".join(f"\nIn {framework}:\n\n```python\n{text}```\n" for framework, text in texts.items())


def _snippet(module: str, name: str, repo_id: str) -> str:
    return f'from {module} import {name}\n\nmodel = {name}.from_pretrained("{repo_id}")\n'

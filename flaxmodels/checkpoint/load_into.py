"""Checkpoints into models that exist already, and files of Flax as trees for scripts that fill models themselves."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from flaxmodels import parameters
from flaxmodels.checkpoint import load
from flaxmodels.errors import CheckpointError
from flaxmodels.files.location import resolve
from flaxmodels.files.weights import Weights, find_weights, open_weights
from flaxmodels.nn.module import is_abstract

_SET_THE_REST = "Pass strict=False, and no tensor of another shape, to set those that fit."


def load_into(model: Any, weights: Weights, strict: bool = True) -> load.IncompatibleKeys:
    """Set the parameters of `model` from an opened checkpoint.

    Returns:
        The names of the checkpoint that are missing and unexpected.

    Raises:
        CheckpointMismatch: tensors of another shape, or, if `strict`, missing or unexpected ones.
    """
    plan = load.plan_loading(model, weights)
    load.check(plan, weights, strict=strict, ignore_missing=not strict, remedy=_SET_THE_REST)
    params = load.read_leaves(plan.read_from(weights.source), parameters.shapes(model), copy=True)
    empty = {leaf.name for leaf in parameters.leaves(model) if leaf.torch.optional and is_abstract(leaf.variable)}
    initial = parameters.init_values(model, jax.random.key(model.seed), empty - params.keys())
    parameters.set_values(model, initial | params)
    return load.IncompatibleKeys(list(plan.missing), list(plan.unexpected))


def load_sharded_checkpoint(
    model: Any, folder: str | os.PathLike[str], strict: bool = True, prefer_safe: bool = True
) -> load.IncompatibleKeys:
    """Set the parameters of `model` from a folder, sharded or not; returns what `load_into` does.

    Args:
        prefer_safe: safetensors first; if false, the others.

    Raises:
        CheckpointError: the folder has no weights, or they cannot be read.
        CheckpointMismatch: as `load_into`.
    """
    location = resolve(Path(folder))
    try:
        weights = find_weights(location, use_safetensors=prefer_safe)
    except CheckpointError:
        weights = find_weights(location)
    return load_into(model, weights, strict)


def load_tf_weights(model: Any, config: Any, path: str | os.PathLike[str]) -> Any:
    """Set the parameters of `model` from a file of the TensorFlow classes, and return it.

    What the file lacks, such as a head, keeps its value; what the model does not have is passed over.

    Args:
        config: as in transformers, where it is the configuration of the model; that counts in any case.
        path: of a `tf_model.h5`.

    Raises:
        CheckpointError: a file that cannot be read or is not of Keras. Checkpoints of TensorFlow 1 (`.ckpt.index`) are
            not read: transformers up to 4.57 converts them.
        CheckpointMismatch: tensors of another shape, or of another model.
    """
    weights = open_weights(Path(path))
    if Path(path).suffix != ".h5":
        raise CheckpointError(f"{Path(path).name} is no file of the TensorFlow classes: expected tf_model.h5")
    load_into(model, weights, strict=False)
    return model


def load_flax_weights(resolved_archive_file: str | os.PathLike[str]) -> dict[str, Any]:
    """The nested dict of numpy arrays, views of the file, in a Flax checkpoint or in the shards of an index.

    Raises:
        CheckpointError: as `load_flax_sharded_weights`.
    """
    return load_flax_sharded_weights([resolved_archive_file])


def load_flax_sharded_weights(shard_files: Iterable[str | os.PathLike[str]]) -> dict[str, Any]:
    """The nested dict of numpy arrays, views of the files, that the shards make up together.

    Raises:
        CheckpointError: a file that cannot be read, is not of Flax, or repeats an array of another.
    """
    found: dict[tuple[str, ...], np.ndarray] = {}
    for path in map(Path, shard_files):
        weights = open_weights(path)
        if weights.layout != "flax":
            raise CheckpointError(f"{path.name} is in torch names and layout: load it with from_pretrained()")
        values = {tuple(name.split(weights.separator)): weights.source.read(name) for name in weights.source.headers}
        if repeated := sorted("/".join(name) for name in values.keys() & found.keys()):
            raise CheckpointError(f"{path.name} repeats arrays of other shards: {', '.join(repeated)}")
        found |= values
    return traverse_util.unflatten_dict(found)

"""Runs the model that is saved beside this file. Needs jax, flatbuffers and safetensors, and no code of the model.

from load_saved_model import load

model = load()
model(input_ids=[[101, 102]], attention_mask=[[1, 1]])["logits"]
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from safetensors.flax import load_file


def load(folder: str | Path = "", signature: str = "serving_default", version: int = 1) -> Callable[..., Any]:
    """The program of a signature, with its weights on the default device.

    Args:
        folder: where `save_pretrained(saved_model=True)` wrote it; by default that of this file.
        signature: one of those that it was saved with.
        version: of those that are in the folder.

    Returns:
        What takes the inputs of the signature by name, as arrays or lists, and returns dicts of arrays.

    Raises:
        FileNotFoundError: there is no such version or signature.
    """
    folder = Path(folder) if folder else Path(__file__).parent
    about = json.loads((folder / f"saved_model-{version}.json").read_text())
    program = export.deserialize(bytearray((folder / f"saved_model-{version}-{signature}.stablehlo").read_bytes()))
    tensors: dict[str, jax.Array] = {}
    for name in about["weights"]:
        tensors |= load_file(str(folder / name))
    inputs, call = about["signatures"][signature], jax.jit(program.call)

    def run(**given: Any) -> Any:
        if given.keys() != inputs.keys():
            raise TypeError(f"expected {', '.join(inputs)}, got {', '.join(given)}")
        return call(tensors, {name: jnp.asarray(value, inputs[name]["dtype"]) for name, value in given.items()})

    return run

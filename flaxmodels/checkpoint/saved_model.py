"""The forward pass as serialized StableHLO beside the weights, which runs without the code of the model.

The program takes the tensors of the files of weights under their names, and inputs by name.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from flaxmodels.checkpoint import load, load_saved_model
from flaxmodels.checkpoint.params import DeviceSource
from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution.inputs import EXPECTED
from flaxmodels.execution.structure import structure_of
from flaxmodels.files.formats import Format
from flaxmodels.files.weights import Weights
from flaxmodels.outputs import ModelOutput
from interop.source import Source

PLATFORMS = ("cpu", "cuda", "tpu")
DEFAULT_SIGNATURE = "serving_default"
_DTYPES = {"integers": "int32", "zeros and ones": "int32"}
"""Of inputs by kind; of others float32."""


def files(
    model: Any,
    values: Mapping[str, Any],
    written: Source,
    format: Format,
    weights: Sequence[str],
    signatures: Mapping[str, Any] | None,
    version: int,
) -> dict[str, str | bytes]:
    """Names and contents of the files of an exported model.

    Args:
        model: whose forward pass is exported.
        values: its parameters, by "/"-joined path.
        written: the tensors of the files of weights.
        format: of these.
        weights: the names of these files.
        signatures: as `save_pretrained` takes them.
        version: counts the exports into one folder.

    Raises:
        FlaxModelsError: a format that the loader does not read, or a forward pass that cannot be exported.
        TypeError: an input that the model does not have.
    """
    if not format.is_safetensors:
        raise FlaxModelsError(
            f"saved_model=True is for weights in safetensors, which its loader reads, not for format={format.name!r}: "
            "leave out safe_serialization=False, or choose 'torch' or 'flax-safetensors'"
        )
    described = {name: _inputs(model, inputs) for name, inputs in _by_name(model, signatures).items()}
    about = {
        "weights": list(weights),
        "signatures": {name: _listed(inputs) for name, inputs in described.items()},
    }
    found: dict[str, str | bytes] = {
        f"saved_model-{version}-{name}.stablehlo": _exported(model, values, written, format, inputs)
        for name, inputs in described.items()
    }
    loader = Path(load_saved_model.__file__).read_text(encoding="utf-8")
    found |= {f"saved_model-{version}.json": json.dumps(about, indent=2) + "\n", "load_saved_model.py": loader}
    return found


def plain(output: Any) -> Any:
    """Outputs as dicts, and tuples of them; without caches."""
    if isinstance(output, ModelOutput):
        return {name: plain(value) for name, value in output.items() if name != "past_key_values"}
    return tuple(map(plain, output)) if isinstance(output, tuple) else output


def _by_name(model: Any, signatures: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    if signatures is None:
        return {DEFAULT_SIGNATURE: default_signature(model)}
    if all(isinstance(inputs, Mapping) for inputs in signatures.values()):
        return dict(signatures)
    return {DEFAULT_SIGNATURE: signatures}


def default_signature(model: Any) -> dict[str, tuple[tuple[int | str, ...], str]]:
    """The shapes and dtypes of the main input, of its mask, and of what a decoder reads."""
    takes = inspect.signature(model.base_forward).parameters
    names = [model.main_input_name]
    names += [name for name in ("attention_mask",) if model.main_input_name == "input_ids" and name in takes]
    names += [name for name in ("decoder_input_ids",) if name in takes]
    expected = {**EXPECTED, **model.base_model.expected_inputs, **model.expected_inputs}
    sizes = model.input_sizes() | _sizes_of_media(model.config)
    return {
        name: (
            tuple(sizes.get(axis, axis) for axis in expected[name].axes[0]),
            _DTYPES.get(expected[name].kind, "float32"),
        )
        for name in names
    }


def _sizes_of_media(config: Any) -> dict[str, int]:
    """Sizes of the axes of images and of audio that the configuration fixes."""
    config = getattr(config, "vision_config", config)
    image = getattr(config, "image_size", None)
    height, width = image if isinstance(image, tuple | list) else (image, image)
    sizes = {
        "channels": getattr(config, "num_channels", None),
        "height": height,
        "width": width,
        "bands": getattr(config, "num_mel_bins", None),
        "frames": 2 * frames if (frames := getattr(config, "max_source_positions", None)) else None,
    }
    return {axis: size for axis, size in sizes.items() if size is not None}


def _inputs(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the forward pass, described; what is a boolean stays one."""
    symbols: dict[int | str, Any] = {}
    names = [dim for each in inputs.values() for dim in _shape_of(each) if isinstance(dim, str)]
    if names:
        unique = list(dict.fromkeys(names))
        symbols = dict(zip(unique, export.symbolic_shape(", ".join(unique)), strict=True))

    def described(each: Any) -> Any:
        if isinstance(each, bool):
            return each
        shape = tuple(symbols.get(dim, dim) for dim in _shape_of(each))
        return jax.ShapeDtypeStruct(shape, jnp.dtype(each[1] if isinstance(each, tuple | list) else each.dtype))

    return model.bind_inputs(model.base_forward, (), {name: described(each) for name, each in inputs.items()})


def _shape_of(each: Any) -> tuple[int | str, ...]:
    if isinstance(each, bool):
        return ()
    return tuple(each[0]) if isinstance(each, tuple | list) else tuple(each.shape)


def _listed(inputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Shapes and dtypes of the arrays, as JSON has them."""
    return {
        name: {"shape": [dim if isinstance(dim, int) else str(dim) for dim in each.shape], "dtype": each.dtype.name}
        for name, each in inputs.items()
        if not isinstance(each, bool)
    }


def _exported(
    model: Any, values: Mapping[str, Any], written: Source, format: Format, inputs: Mapping[str, Any]
) -> bytes:
    """The serialized program."""
    structure, method = structure_of(model), type(model).forward
    plan = load.plan_loading(
        model, Weights(Path("saved_model"), written, "torch" if format.view == "torch" else "flax")
    )
    options = {name: each for name, each in inputs.items() if isinstance(each, bool)}

    def serve(tensors: dict[str, jax.Array], arrays: dict[str, jax.Array]) -> Any:
        leaves = plan.read_from(DeviceSource(tensors))
        read = {name for name, header in leaves.headers.items() if header.is_floating}  # the others are counters
        own = [leaves.read(name) if name in read else values[name] for name in structure.paths]
        return model.serving_output(method(structure.bind(own), **arrays, **options, dropout_rng=None))

    tensors = {name: jax.ShapeDtypeStruct(each.shape, each.dtype) for name, each in written.headers.items()}
    arrays = {name: each for name, each in inputs.items() if name not in options}
    try:
        return bytes(export.export(jax.jit(serve), platforms=PLATFORMS)(tensors, arrays).serialize())
    except ImportError:
        raise FlaxModelsError("saved_model=True needs flatbuffers: pip install flatbuffers") from None
    except Exception as error:
        if all(isinstance(dim, int) for each in arrays.values() for dim in each.shape):
            raise
        raise FlaxModelsError(
            f"{type(model).__name__} cannot be exported for sizes that are not known: give numbers in signatures=, as "
            f"in {{'input_ids': ((8, 128), 'int32')}} ({error})"
        ) from error

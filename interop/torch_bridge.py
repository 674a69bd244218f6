"""Torch's tensors and pickles as numpy arrays. Torch is imported here only, when a function needs it."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from interop.errors import LONGEST_PATH, InteropError, listed, shown
from interop.source import Header, Index

if TYPE_CHECKING:
    import torch

_SHOWN = 5  # entries of a pickle that an error names
_MAX_PICKLE = 8 << 20  # bytes of what describes the tensors of an archive: one of 50,000 has 7 MB
_MAX_TIED = 16  # times the size of the file: a tensor may have several names, but not that many
_REMEDY = "Save model.state_dict() with torch.save"
_WRITERS = {"pytorch-lightning_version": "PyTorch Lightning", "ds_version": "DeepSpeed"}
"""Entries that tell who wrote a checkpoint."""

# Dtypes that numpy lacks, spelled alike by torch and ml_dtypes, and one of the same width that both know.
_CARRIERS = {
    "bfloat16": "int16",
    "float8_e4m3fn": "uint8",
    "float8_e4m3fnuz": "uint8",
    "float8_e5m2": "uint8",
    "float8_e5m2fnuz": "uint8",
    "float8_e8m0fnu": "uint8",
}


class TorchPickle:
    """A `Source` over a torch `.bin` or `.pt` file that holds a flat dict of names to tensors.

    Unpickling with `weights_only=True` runs no code from the file. If torch 1.6 or later wrote it, it is
    memory-mapped, and `read` returns views of the map.

    Args:
        path: the file.
        mmap: map the file; if false, all of it is read at once.

    Attributes:
        path: the file.
        headers: shape and dtype of every tensor, in the order of the file.

    Raises:
        InteropError: torch or the file is absent, or the file is truncated or not a flat dict of tensors.
    """

    def __init__(self, path: str | os.PathLike[str], *, mmap: bool = True):
        self.path = Path(path)
        self._arrays = _arrays(self.path, _unpickle(self.path, mmap))
        if sum(array.nbytes for array in self._arrays.values()) > _MAX_TIED * self.path.stat().st_size:
            raise InteropError(f"{shown(self.path.name)}: its tensors repeat each other's bytes. {_REMEDY}.")
        self.headers = {name: Header(array.shape, array.dtype) for name, array in self._arrays.items()}

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """The tensor, or the box of it that `index` names, as a view."""
        return self._arrays[name][(*(index or ()), ...)]


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as an array of the same dtype, bfloat16 and float8 included; a view if it is on the CPU.

    Raises:
        TypeError, RuntimeError: numpy has no such tensor: it is sparse, for example, or on the meta device.
    """
    tensor = tensor.detach().cpu()
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in _CARRIERS:
        return tensor.numpy()
    return tensor.view(getattr(_torch(), _CARRIERS[name])).numpy().view(getattr(ml_dtypes, name))


def from_numpy(array: np.ndarray) -> torch.Tensor:
    """The array as a tensor of the same dtype, sharing its memory; a read-only array is copied.

    Torch has no read-only tensors, and a write through one into a mapped file would end the process.
    """
    torch = _torch()
    name = array.dtype.name
    array = array if array.flags.writeable else array.copy()
    if name not in _CARRIERS:
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(_CARRIERS[name])).view(getattr(torch, name))


def from_dlpack(array: Any) -> torch.Tensor:
    """The array of another library as a tensor on the same device, sharing its memory."""
    return _torch().from_dlpack(array)


def has_accelerator() -> bool:
    """Whether torch sees a GPU."""
    return _torch().cuda.is_available()


def is_tensor(value: object) -> bool:
    """Whether this is a torch tensor; torch is not imported to find out."""
    return type(value).__module__.split(".")[0] == "torch"


def as_saved(module: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors under the names that a live module has for them, in the names and layout of its checkpoints.

    Both were the same until transformers 5, whose modules may have parts that their files do not have.
    """
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        return tensors
    return revert_weight_conversion(module, tensors) if hasattr(module, "config") else tensors


def _as_in_module(module: Any, state: dict[str, Any]) -> dict[str, Any]:
    """The reverse of `as_saved`, done by transformers."""
    own = module.state_dict()
    if as_saved(module, own).keys() == own.keys():
        return state
    options = {"config": module.config, "dtype": module.dtype, "output_loading_info": True}
    loaded, info = type(module).from_pretrained(None, state_dict=state, **options)
    absent = set(info["missing_keys"])
    found = {name: value for name, value in loaded.state_dict().items() if name not in absent}
    return found | dict.fromkeys(info["unexpected_keys"])


def fill(module: Any, state: dict[str, Any]) -> None:
    """Copy tensors, named as in checkpoints, into the parameters and buffers of a live module.

    Raises:
        InteropError: a parameter is not in `state`, or `state` has a tensor that the module does not.
    """
    state = _as_in_module(module, state)
    result = module.load_state_dict(state, strict=False)
    missing = sorted(set(result.missing_keys) & {name for name, _ in module.named_parameters()})
    if missing or result.unexpected_keys:
        lines = [f"  - missing {name}" for name in missing] + [f"  + {name}" for name in result.unexpected_keys]
        raise InteropError(f"the weights do not fit {type(module).__name__}:\n" + "\n".join(lines))


def pretrained(class_name: str, path: str) -> Any:
    """A module of transformers in float32, from a folder or a Hub id.

    Raises:
        InteropError: torch or transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise InteropError("Models run on torch by transformers. Run: pip install torch transformers") from error
    return getattr(transformers, class_name).from_pretrained(path, dtype="float32")


def run(module: Any, **inputs: Any) -> dict[str, Any]:
    """The outputs of a live module of transformers in evaluation mode, of inputs that may be numpy arrays."""
    torch = _torch()
    tensors = {name: from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in inputs.items()}
    with torch.no_grad():
        return dict(module.eval()(**tensors))


def _torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise InteropError("Torch pickles and modules need torch. Run: pip install torch") from error
    return torch


def _unpickle(path: Path, mmap: bool) -> Any:
    torch = _torch()
    try:
        with path.open("rb") as file:
            is_archive = file.read(4) == b"PK\x03\x04"
        if is_archive:
            _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_archive)
    except InteropError:
        raise
    except OSError as error:
        problem = f"{shown(path, LONGEST_PATH)}: {error.strerror or error}"
        raise InteropError(f"{problem}. Check the path and its permissions.") from error
    except Exception as error:  # torch lets through whatever a corrupt pickle makes Python raise
        raise _explain(path, error) from error


def _check_archive(path: Path) -> None:
    """Refuses records that are compressed, overlap or describe more than a model: torch unpacks any to their end."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    is_packed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
    if is_packed or sum(record.file_size for record in records) > path.stat().st_size:
        raise InteropError(f"{shown(path.name)}: a compressed archive, which torch.save never writes. {_REMEDY}.")
    if any(record.file_size > _MAX_PICKLE for record in records if record.filename.endswith(".pkl")):
        raise InteropError(f"{shown(path.name)}: its pickle has more than {_MAX_PICKLE} bytes. {_REMEDY}, in shards.")


def _explain(path: Path, error: Exception) -> InteropError:
    """Tells a pickle that wants to run code from one that is broken."""
    code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if code is None:
        return InteropError(f"{shown(path.name)}: truncated or not a torch checkpoint. Download or copy it again.")
    problem = f"refused, because it imports {shown(code[1])} and weights need no code"
    return InteropError(f"{shown(path.name)}: {problem}. {_REMEDY}.")


def _arrays(path: Path, content: Any) -> dict[str, np.ndarray]:
    """The arrays of an unpickled dict of tensors."""
    if not isinstance(content, dict):
        found = shown(type(content).__name__)
        raise InteropError(f"{shown(path.name)}: holds a {found}, expected a dict of names to tensors. {_REMEDY}.")
    if nested := [key for key, value in content.items() if _is_state_dict(value)]:
        raise _nested(path, content, nested)
    arrays: dict[str, np.ndarray] = {}
    others: list[str] = []
    for name, value in content.items():
        try:
            name.encode()
            arrays[name] = to_numpy(value)
        except (AttributeError, TypeError, UnicodeError, RuntimeError):
            others.append(f"{shown(repr(name))} is {_describe(value)}")
    if others:
        problem = f"holds more than dense tensors: {listed(others, _SHOWN)}"
        raise InteropError(f"{shown(path.name)}: {problem}. {_REMEDY}.")
    return arrays


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(is_tensor, value.values()))


def _nested(path: Path, content: dict[Any, Any], keys: list[Any]) -> InteropError:
    """The error for weights that lie in an entry, beside others of a training run."""
    writer = next((f" of {name}" for key, name in _WRITERS.items() if key in content), "")
    problem = f"a training checkpoint{writer} with the entries {listed([repr(key) for key in content], _SHOWN)}"
    part = f"torch.load({path.name!r}, weights_only=True)[{keys[0]!r}]"
    remedy = f"Save its weights alone: torch.save({shown(part)}, 'pytorch_model.bin')"
    return InteropError(f"{shown(path.name)}: {problem}. {remedy}.")


def _describe(value: Any) -> str:
    return f"{value.dtype} ({value.layout})" if hasattr(value, "layout") else f"of type {shown(type(value).__name__)}"

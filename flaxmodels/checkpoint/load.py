"""From a checkpoint to parameters on the device, each byte moved once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Sharding
from tqdm import tqdm

from flaxmodels.checkpoint.arena import Arena
from flaxmodels.checkpoint.mapping import checkpoint_spec, flax_checkpoint_spec
from flaxmodels.errors import CheckpointError, CheckpointMismatch
from flaxmodels.files.unsupported import check_names
from flaxmodels.files.weights import Weights
from flaxmodels.nn.leaves import split_shared
from interop.errors import InteropError, listed, shown
from interop.plan import Plan, make_plan
from interop.source import Index, Source

logger = logging.getLogger("flaxmodels")

_REINITIALISE = "Pass ignore_mismatched_sizes=True to re-initialise mismatched weights."

WORKERS = 2
"""Threads that copy. More than two gain nothing: memory is the limit."""


class IncompatibleKeys(NamedTuple):
    """What loading into a model that exists leaves undone; names as in the checkpoint."""

    missing_keys: list[str]
    unexpected_keys: list[str]


@dataclass(frozen=True, eq=False)
class LoadingInfo(Mapping[str, Any]):
    """What `from_pretrained(..., output_loading_info=True)` returns beside the model; names as in the checkpoint.

    It is read by attribute, or as a dict. `error_msgs` is always empty, as what is wrong raises an error.
    """

    missing_keys: list[str]
    unexpected_keys: list[str]
    mismatched_keys: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    error_msgs: list[str] = field(default_factory=list)

    def __getitem__(self, key: str) -> Any:
        return vars(self)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self))

    def __len__(self) -> int:
        return len(vars(self))

    @classmethod
    def of(cls, plan: Plan) -> LoadingInfo:
        """What a plan leaves undone."""
        mismatched = [(wrong.name, wrong.found, wrong.expected) for wrong in plan.mismatched]
        return cls(list(plan.missing), list(plan.unexpected), mismatched)


def plan_loading(model, weights: Weights) -> Plan:
    """The plan to fill `model` from `weights`."""
    if weights.layout == "flax":
        return make_plan(flax_checkpoint_spec(model, weights.separator), weights.source.headers)
    return make_plan(checkpoint_spec(model), weights.source.headers)


def untied(model, weights: Weights) -> list[str]:
    """The tensors that `model` shares with others, and of which a checkpoint in torch layout holds other values."""
    headers = weights.source.headers if weights.layout == "torch" else {}
    both = [(name, first) for name, first in split_shared(model)[1].items() if name in headers and first in headers]
    return [
        name
        for name, first in both
        if headers[name] == headers[first] and not _same_bits(weights.source.read(name), weights.source.read(first))
    ]


def _same_bits(left, right) -> bool:
    bits = np.dtype(f"u{left.dtype.itemsize}")
    return np.array_equal(np.asarray(left).view(bits), np.asarray(right).view(bits))


def check(
    plan: Plan,
    weights: Weights,
    *,
    ignore_mismatched_sizes: bool = False,
    ignore_missing: bool = False,
    strict: bool = False,
    remedy: str = _REINITIALISE,
) -> None:
    """Raise an error that lists everything that does not fit, and the remedy.

    Args:
        ignore_mismatched_sizes: whether tensors of another shape may be there.
        ignore_missing: whether parameters of the backbone may be missing.
        strict: whether none may be missing or unexpected, those of heads included.
        remedy: what the error advises for shapes, and for what is missing if `strict`.

    Raises:
        CheckpointError: the checkpoint is one that is not read, such as a quantised one.
        CheckpointMismatch: it is of another model. One of which no tensor fits is refused in any case.
    """
    check_names(plan.unexpected, (name for rule in plan.rules for name in rule.sources), weights.path)
    _check_types(plan, weights)
    if not plan.rules and not plan.mismatched:
        names = ", ".join(map(shown, sorted(weights.source.headers)[:3]))
        raise CheckpointMismatch(
            f"none of the {len(weights.source.headers)} tensors in {shown(weights.path.name)} belongs to the model: "
            f"it has {names}, the model wants {', '.join(list(plan.missing)[:3])}. Check the model class."
        )
    wrong = () if ignore_mismatched_sizes else plan.mismatched
    unexpected = plan.unexpected if strict else ()
    if wrong or (strict and (plan.missing or unexpected)):
        counts = {"missing": len(plan.missing), "unexpected": len(unexpected), "of another shape": len(wrong)}
        lines = [f"  - {name}   (for {leaf})" for name, leaf in plan.missing.items()]
        lines += [f"  + {shown(name)}" for name in unexpected]
        lines += [f"  ! {shown(m.name)}: checkpoint {m.found}, model {m.expected}" for m in wrong]
        raise CheckpointMismatch(
            ", ".join(f"{count} {what}" for what, count in counts.items() if count)
            + f" in {shown(weights.path.name)}\n"
            + "\n".join([*lines, remedy])
        )
    if plan.required and not ignore_missing:
        raise CheckpointMismatch(_without_backbone(plan, weights))


def _check_types(plan: Plan, weights: Weights) -> None:
    if plan.mistyped:
        lines = [f"  ! {shown(m.name)}: checkpoint {m.found}, model {m.expected}" for m in plan.mistyped]
        raise CheckpointMismatch(
            f"{len(lines)} not made of floating-point numbers in {shown(weights.path.name)}\n"
            + "\n".join(lines)
            + "\nThey are quantised, or of another model: load the unquantised checkpoint."
        )


def _without_backbone(plan: Plan, weights: Weights) -> str:
    lines = [f"  - {name}   (for {leaf})" for name, leaf in plan.required.items()]
    others = listed(plan.unexpected) or "no other tensors"
    return (
        f"{len(lines)} missing in {shown(weights.path.name)}, without which this is not the model that was saved\n"
        + "\n".join(lines)
        + f"\nThe checkpoint has in their place: {others}\n"
        "Check the model class and the configuration, give the names of the checkpoint by key_mapping=, or pass "
        "ignore_missing=True to initialise what is missing."
    )


def adopt_dtypes(model, leaves: Source) -> None:
    """Describe each parameter of `model` in the dtype in which the checkpoint has it; statistics keep their own.

    Args:
        leaves: those that the checkpoint has, as `Plan.read_from` gives them.
    """
    for leaf in split_shared(model)[0]:
        header, described = leaves.headers.get(leaf.name), leaf.variable.get_raw_value()
        if header is not None and header.is_floating and isinstance(leaf.variable, nnx.Param):
            dtype = jax.dtypes.canonicalize_dtype(header.dtype)
            leaf.variable.set_raw_value(jax.ShapeDtypeStruct(described.shape, dtype))


def read_leaves(
    mapped: Source,
    leaves: Mapping[str, jax.ShapeDtypeStruct],
    shardings: Mapping[str, Sharding] | None = None,
    *,
    copy: bool = False,
) -> dict[str, jax.Array]:
    """The leaves that `Plan.read_from` gives, in the dtypes of `leaves`, on the default device or as `shardings` say.

    With `copy` none of them shares memory with the source: for sources that others may write to.

    Raises:
        CheckpointError: a tensor cannot be read.
    """
    names = list(mapped.headers)
    arena = Arena()

    def read(name: str) -> np.ndarray | jax.Array:
        try:
            return read_leaf(name)
        except InteropError as error:
            raise CheckpointError(f"{name}: {error}") from error

    def read_leaf(name: str) -> np.ndarray | jax.Array:
        dtype = leaves[name].dtype
        if shardings is not None:
            return _read_sharded(mapped, name, leaves[name], shardings[name], arena)
        value = mapped.read(name)
        if isinstance(value, jax.Array):
            return jnp.asarray(value, dtype)
        if copy or default_platform() == "cpu":
            return arena.hold(value, dtype, copy=copy)
        return _to_accelerator(value, dtype)

    with ThreadPoolExecutor(WORKERS) as pool:
        values = list(progress(pool.map(read, names), len(names), "Loading weights"))
    return dict(zip(names, jax.device_put(values) if shardings is None else values, strict=True))


def _read_sharded(source: Source, name: str, leaf: jax.ShapeDtypeStruct, sharding: Sharding, arena: Arena) -> jax.Array:
    """Reads each part that a local device holds, once; devices that hold the same part share the reading."""
    parts: dict[tuple, np.ndarray] = {}

    def shard(index: Index | None) -> np.ndarray:
        assert index is not None
        box = tuple(slice(*part.indices(size)[:2]) for part, size in zip(index, leaf.shape, strict=True))
        key = tuple((part.start, part.stop) for part in box)
        if key not in parts:
            parts[key] = arena.hold(source.read(name, box), leaf.dtype)
        return parts[key]

    return jax.make_array_from_callback(leaf.shape, sharding, shard)


def default_platform() -> str:
    """The platform that arrays without a sharding are put on: it decides where they are transposed, and no more."""
    device = jax.default_device.value
    return jax.default_backend() if device is None else getattr(device, "platform", device)


def _to_accelerator(view: np.ndarray, dtype: np.dtype) -> jax.Array:
    """The bytes in the order of the file, transposed and cast where memory is fast."""
    order = tuple(int(axis) for axis in np.argsort([-stride for stride in view.strides], kind="stable"))
    back = tuple(int(axis) for axis in np.argsort(order))
    return _transpose_and_cast(view.transpose(order), back, dtype)


@partial(jax.jit, static_argnums=(1, 2))
def _transpose_and_cast(array: jax.Array, axes: tuple[int, ...], dtype: np.dtype) -> jax.Array:
    return jnp.transpose(array, axes).astype(dtype)


def report(model_name: str, path: str, plan: Plan) -> None:
    """Log what was not used and what was newly initialised, in the wording that users know."""
    if plan.unexpected:
        logger.warning(
            "Some weights of the model checkpoint at %s were not used when initializing %s: %s",
            path,
            model_name,
            sorted(plan.unexpected),
        )
    if plan.missing:
        logger.warning(
            "Some weights of %s were not initialized from the model checkpoint at %s and are newly initialized: %s\n"
            "You should probably TRAIN this model on a down-stream task to be able to use it for predictions and "
            "inference.",
            model_name,
            path,
            sorted(plan.missing),
        )
    if plan.mismatched:
        shapes = [
            f"- {m.name}: found shape {m.found} in the checkpoint and {m.expected} in the model instantiated"
            for m in plan.mismatched
        ]
        logger.warning(
            "Some weights of %s were not initialized from the model checkpoint at %s and are newly initialized "
            "because the shapes did not match:\n%s\n"
            "You should probably TRAIN this model on a down-stream task to be able to use it for predictions and "
            "inference.",
            model_name,
            path,
            "\n".join(shapes),
        )


def report_half(model_name: str, params: dict[str, jax.Array]) -> None:
    """Log, in the wording that users know, that parameters are stored in half precision."""
    for dtype in ("float16", "bfloat16"):
        if names := [name for name, value in params.items() if value.dtype == dtype]:
            logger.warning(
                "Some of the weights of %s were initialized in %s precision from the model checkpoint:\n%s\n"
                "You should probably UPCAST the model weights to float32 if this was not intended.",
                model_name,
                dtype,
                names,
            )


def progress(items: Iterable, total: int, what: str) -> Iterable:
    """The items, with a bar on the screen if they take more than a second."""
    return tqdm(items, total=total, desc=what, unit="tensor", leave=False, delay=1.0, disable=None)

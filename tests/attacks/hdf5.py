"""HDF5 files that claim more than they hold, or hold what is no weight."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import h5py
import numpy as np
from attacks.attack import Attack, refused

FILE = "tf_model.h5"
_REMEDY = "Save it again as Keras does, or run: h5repack -f NONE -l CONTI in.h5 out.h5"


def written(fill: Callable[[h5py.File], object]) -> bytes:
    """The bytes of a file that `fill` has written to."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    return buffer.getvalue()


def _deep(file: h5py.File) -> None:
    group: h5py.Group = file
    for _ in range(5000):  # at which h5py's own visititems overruns the stack
        group = group.create_group("a")


def _compressed(file: h5py.File) -> None:
    dataset = file.create_dataset("x", (2**40,), "f4", chunks=(2**22,), compression="gzip")
    dataset[: 2**22] = 0


def _layouts(file: h5py.File) -> None:
    file.create_virtual_dataset("virtual", h5py.VirtualLayout((2**40,), "f4"))
    file.create_dataset("external", (4,), "u1", external=[("/etc/hostname", 0, 4)])


def _variable(file: h5py.File) -> None:
    file.create_dataset("x", (2,), h5py.vlen_dtype(np.int32))


def _reference(file: h5py.File) -> None:
    file["y"] = np.ones(3, np.float32)
    file["x"] = file["y"].ref


def _pieces(problem: str) -> str:
    return f"x does not store its {problem} bytes in one piece"


def _kind(name: str = "x") -> str:
    return f"{name} is not an array of plain, little-endian numbers"


_WRONG: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "2**40 fill values": (lambda file: file.create_dataset("x", (2**40,), "f4", fillvalue=1), _pieces(str(2**42))),
    "2**40 compressed zeros": (_compressed, _pieces(str(2**42))),
    "chunks": (lambda file: file.create_dataset("x", data=np.ones(4, np.int8), chunks=(2,)), _pieces("4")),
    "no dataspace": (lambda file: file.create_dataset("x", data=h5py.Empty("f4")), _kind()),
    "a shape beyond numpy": (lambda file: file.create_dataset("x", (2**60,), "f8"), _kind()),
    "a string": (lambda file: file.create_dataset("x", data="text"), _kind()),
    "texts of fixed size": (lambda file: file.create_dataset("x", data=np.array([b"ab"])), _kind()),
    "variable length": (_variable, _kind()),
    "a reference": (_reference, _kind()),
    "records": (lambda file: file.create_dataset("x", data=np.zeros(3, [("a", "i4"), ("b", "f4")])), _kind()),
    "complex": (lambda file: file.create_dataset("x", data=np.zeros(3, np.complex64)), _kind()),
    "bool": (lambda file: file.create_dataset("x", data=np.zeros(3, bool)), _kind()),
    "big-endian": (lambda file: file.create_dataset("x", data=np.zeros(3, ">f4")), _kind()),
    "opaque": (lambda file: file.create_dataset("x", data=np.zeros(3, np.void(b"abc").dtype)), _kind()),
    "name with control characters": (lambda file: file.create_dataset("\x1b[2J", data="x"), _kind("\\x1b[2J")),
}

ATTACKS: dict[str, Attack] = {
    name: refused(FILE, partial(written, fill), f"{FILE}: {problem}. {_REMEDY}")
    for name, (fill, problem) in _WRONG.items()
} | {
    "data in other files": refused(
        FILE, partial(written, _layouts), f"{FILE}: keeps data in other files: external, virtual. Save it as one file."
    ),
    "nested groups": refused(
        FILE, partial(written, _deep), f"{FILE}: groups are nested deeper than 64. Download or copy it again."
    ),
    "a name of 2,000 characters": refused(
        FILE,
        partial(written, lambda file: file.create_dataset("x" * 2000, data=np.ones(3))),
        f"{FILE}: more than 32768 groups and datasets, or a name of more than 1024 characters. "
        "Download or copy it again.",
    ),
    "two variables of one name": refused(
        FILE,
        partial(written, lambda file: file.update({"a/kernel:0": np.ones((2, 2)), "b___a/kernel:0": np.eye(2)})),
        "variables of TensorFlow differ from others of the same name in torch: b___a/kernel:0",
    ),
    "not HDF5": refused(
        FILE,
        b"garbage",
        f"{FILE}: truncated or not an HDF5 file (Unable to synchronously open file (file signature not found)). "
        "Download or copy it again.",
    ),
    "empty": refused(
        FILE,
        b"",
        f"{FILE}: truncated or not an HDF5 file (Unable to synchronously open file (file signature not found)). "
        "Download or copy it again.",
    ),
}

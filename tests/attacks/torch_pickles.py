"""Torch files that unpack to more than they hold, run code, or hold more than weights; and parts of training runs."""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import Any

import torch
from attacks.attack import Attack, refused

FILE = "pytorch_model.bin"
_SAVE = "Save model.state_dict() with torch.save"
_AGAIN = f"{FILE}: truncated or not a torch checkpoint. Download or copy it again."


def saved(content: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _repacked(archive: bytes, method: int, **replaced: bytes) -> bytes:
    """The archive with another compression, and other contents of records by the end of their names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for record in old.infolist():
            stem = record.filename.rpartition("/")[2].removesuffix(".pkl")
            new.writestr(record.filename, replaced.get(stem, old.read(record)))
    return buffer.getvalue()


WEIGHTS = {"x": torch.ones(3)}
TRAINING = {"epoch": 3, "state_dict": WEIGHTS, "optimizer": {}}


def _nested(entries: str, key: str, writer: str = "") -> str:
    part = f"torch.load('{FILE}', weights_only=True)['{key}']"
    remedy = f"Save its weights alone: torch.save({part}, 'pytorch_model.bin')"
    return f"{FILE}: a training checkpoint{writer} with the entries {entries}. {remedy}."


_DCP = "Run: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} pytorch_model.bin."
_DEEPSPEED = "Run the script that DeepSpeed left beside it: python zero_to_fp32.py CHECKPOINT_FOLDER OUTPUT_FOLDER."
_MEGATRON = (
    "Convert it to the names of transformers with tools/checkpoint/convert.py of Megatron-LM, or Megatron Bridge."
)
_PARTS = {
    "a distributed checkpoint": (
        "run/.metadata",
        "run",
        "run: a distributed checkpoint of torch. " + _DCP.replace("{folder}", "{folder}/run"),
    ),
    "a part of a distributed checkpoint": (
        "__0_0.distcp",
        "__0_0.distcp",
        "__0_0.distcp: a distributed checkpoint of torch. " + _DCP,
    ),
    "DeepSpeed": ("run/zero_to_fp32.py", "run", "run: a checkpoint of DeepSpeed. " + _DEEPSPEED),
    "a part of DeepSpeed": (
        "zero_pp_rank_0_mp_rank_00_model_states.pt",
        "zero_pp_rank_0_mp_rank_00_model_states.pt",
        "zero_pp_rank_0_mp_rank_00_model_states.pt: a checkpoint of DeepSpeed. " + _DEEPSPEED,
    ),
    "FSDP in one file": (
        "run/pytorch_model_fsdp.bin",
        "run",
        "run: weights that accelerate gathered from FSDP. Name the file itself: {folder}/run/pytorch_model_fsdp.bin.",
    ),
    "FSDP in parts": (
        "run/pytorch_model_fsdp_0",
        "run",
        "run: an FSDP checkpoint of accelerate in parts. "
        "Run: accelerate merge-weights {folder}/run/pytorch_model_fsdp_0 OUTPUT_FOLDER.",
    ),
    "FSDP of one process": (
        "pytorch_model_fsdp_rank3.bin",
        "pytorch_model_fsdp_rank3.bin",
        "pytorch_model_fsdp_rank3.bin: one process's part of an FSDP checkpoint of accelerate. "
        "Save it with state_dict_type FULL_STATE_DICT.",
    ),
    "Megatron": (
        "run/latest_checkpointed_iteration.txt",
        "run",
        "run: a checkpoint of Megatron-LM. " + _MEGATRON,
    ),
}

ATTACKS: dict[str, Attack] = {
    "empty": refused(FILE, b"", _AGAIN),
    "garbage": refused(FILE, b"garbage", _AGAIN),
    "truncated": refused(FILE, saved(WEIGHTS)[:-100], _AGAIN),
    "plain pickle": refused(FILE, pickle.dumps([1, 2], protocol=2), _AGAIN),
    "import with control characters": refused(
        FILE,
        b"\x80\x02cposix\x1b[2J\nsystem\n.",
        f"{FILE}: refused, because it imports posix\\x1b[2J.system and weights need no code. {_SAVE}.",
    ),
    "128 MB of zeros, compressed": refused(
        FILE,
        lambda: _repacked(saved(WEIGHTS), zipfile.ZIP_DEFLATED, data=bytes(1 << 27)),
        f"{FILE}: a compressed archive, which torch.save never writes. {_SAVE}.",
    ),
    "a pickle of 9 MB": refused(
        FILE,
        lambda: _repacked(saved(WEIGHTS), zipfile.ZIP_STORED, data=b"N" * 9_000_000),
        f"{FILE}: its pickle has more than 8388608 bytes. {_SAVE}, in shards.",
    ),
    "one number as 2**40": refused(
        FILE,
        saved({"x": torch.ones(1).expand(2**40)}),
        f"{FILE}: its tensors repeat each other's bytes. {_SAVE}.",
    ),
    "one tensor of 10,000 names": refused(
        FILE,
        lambda: saved(dict.fromkeys(map(str, range(10_000)), torch.ones(10_000))),
        f"{FILE}: its tensors repeat each other's bytes. {_SAVE}.",
    ),
    "a list": refused(FILE, saved([WEIGHTS]), f"{FILE}: holds a list, expected a dict of names to tensors. {_SAVE}."),
    "more than tensors": refused(
        FILE,
        saved({"\x1b[2J": 3} | WEIGHTS),
        f"{FILE}: holds more than dense tensors: '\\x1b[2J' is of type int. {_SAVE}.",
    ),
    "half a character": refused(
        FILE,
        saved({"\ud800": torch.ones(2)}),
        f"{FILE}: holds more than dense tensors: '\\ud800' is torch.float32 (torch.strided). {_SAVE}.",
    ),
    "training": refused(FILE, saved(TRAINING), _nested("'epoch', 'state_dict', 'optimizer'", "state_dict")),
    "Lightning": refused(
        FILE,
        saved({"pytorch-lightning_version": "2.0"} | TRAINING),
        _nested(
            "'pytorch-lightning_version', 'epoch', 'state_dict', 'optimizer'", "state_dict", " of PyTorch Lightning"
        ),
    ),
    "weights below model": refused(FILE, saved({"model": WEIGHTS}), _nested("'model'", "model")),
} | {name: Attack({file: b"x"}, message, opened) for name, (file, opened, message) in _PARTS.items()}

"""Checkpoints of training runs in parts, which the tool that wrote them has to put together first."""

from __future__ import annotations

import re
from pathlib import Path

from interop.errors import LONGEST_PATH, shown

_KINDS = (
    (
        r"/pytorch_model_fsdp\.bin",
        "weights that accelerate gathered from FSDP",
        "Name the file itself: {found}",
    ),
    (
        r"/?pytorch_model_fsdp_\d+",
        "an FSDP checkpoint of accelerate in parts",
        "Run: accelerate merge-weights {found} OUTPUT_FOLDER",
    ),
    (
        r"/?pytorch_model_fsdp\w*_rank\d+\.bin",
        "one process's part of an FSDP checkpoint of accelerate",
        "Save it with state_dict_type FULL_STATE_DICT",
    ),
    (
        r"/\.metadata|/?.+\.distcp",
        "a distributed checkpoint of torch",
        "Run: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} pytorch_model.bin",
    ),
    (
        r"/zero_to_fp32\.py|/?(\w+_)?mp_rank_\d+_(model|optim)_states\.pt",
        "a checkpoint of DeepSpeed",
        "Run the script that DeepSpeed left beside it: python zero_to_fp32.py CHECKPOINT_FOLDER OUTPUT_FOLDER",
    ),
    (
        r"/latest_checkpointed_iteration\.txt|/?model_optim_rng\.pt",
        "a checkpoint of Megatron-LM",
        "Convert it to the names of transformers with tools/checkpoint/convert.py of Megatron-LM, or Megatron Bridge",
    ),
)
"""What files are called, with a slash before it in a folder that is asked about; what that is; and what to do."""


def parts_of_a_run(path: Path) -> str | None:
    """What a file or folder is, and what has to be done with it, if its names are those of a training run's parts."""
    inside = list(path.iterdir()) if path.is_dir() else []
    names = {path.name: path} | {f"/{found.name}": found for found in inside}
    for pattern, kind, remedy in _KINDS:
        for name, found in names.items():
            if re.fullmatch(pattern, name):
                places = {"found": shown(found, LONGEST_PATH), "folder": shown(found.parent, LONGEST_PATH)}
                return f"{shown(path.name)}: {kind}. {remedy.format(**places)}."
    return None

"""Checkpoints that are recognised and not read: quantised weights, adapters, layouts of other tools, parts of runs.

Each is refused by its own name, because what it looks like otherwise, a checkpoint that lacks a few tensors, loads with
wrong numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flaxmodels.errors import CheckpointError
from interop.errors import LONGEST_PATH, listed, shown

_UNQUANTISED = "Load the unquantised checkpoint that it was made from"
_DEQUANTISE = {
    "bitsandbytes": "model.dequantize()",
    "compressed-tensors": "quantization_config=CompressedTensorsConfig(run_compressed=False)",
    "fp8": "quantization_config=FineGrainedFP8Config(dequantize=True)",
    "hqq": "model.dequantize()",
    "mxfp4": "quantization_config=Mxfp4Config(dequantize=True)",
}
"""How transformers dequantises, by method."""

_SCHEMES = (
    (r"\.quant_state\.bitsandbytes__(nf4|fp4)$", "bitsandbytes", "bitsandbytes {}"),
    (r"\.(?:nested_)?(?:absmax|quant_map)$", "bitsandbytes", "bitsandbytes, 4 bits"),
    (r"\.(?:SCB|weight_format)$", "bitsandbytes", "bitsandbytes int8"),
    (r"\.g_idx$", "gptq", "GPTQ"),
    (r"\.(?:qweight|qzeros)$", "gptq", "GPTQ or AWQ"),
    (r"\.weight_(?:packed|shape|zero_point|global_scale|g_idx)$", "compressed-tensors", "compressed-tensors"),
    (r"\.weight_scale_inv$", "fp8", "fp8 in blocks"),
    (r"\.(?:weight|input|output)_scale$", "compressed-tensors", "compressed-tensors or fp8"),
    (r"\.W_q$", "hqq", "HQQ"),
    (r"\.weight\._(?:data|scale|shift)$", "quanto", "quanto"),
    (r"_blocks$", "mxfp4", "MXFP4"),
)
"""Names of the companions of quantised weights: their method, and how to call it."""

_SCALE = re.compile(r"^(?P<owner>.+)\.(?:\w+_)?(?:scales?|zeros?|zero_points?)(?:_\w+)?$")
_ADAPTER = re.compile(r"\.(?:lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)|ia3_l|hada_w\d_[ab])\b")
_CONSOLIDATED = re.compile(r"(?:^|\.)(?:tok_embeddings\.weight|layers\.\d+\.attention\.w[qkvo]\.weight)$")

_TRAINING_RUNS = (
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
"""Of parts of training runs, which the tool that wrote them has to put together first: what files are called, with a
slash before it in a folder that is asked about; what that is; and what to do."""

ADAPTER_CONFIG = "adapter_config.json"
CONSOLIDATED = ("consolidated.safetensors", "consolidated.00.pth", "consolidated.safetensors.index.json")


def check_quantization(config: Mapping[str, Any], where: str) -> None:
    """Refuse a `config.json` whose weights are quantised in a way that is not computed.

    Args:
        config: its values.
        where: what the error names.

    Raises:
        CheckpointError: naming the method and what to do.
    """
    stated = without_dequantised(config).get("quantization_config")
    if not stated:
        return
    if not isinstance(stated, Mapping):
        raise CheckpointError(f"{where}: quantization_config={stated!r} is not a table of settings: fix config.json")
    method, name = _method(stated)
    raise CheckpointError(
        f"{where}: its weights are quantised by {name} (quantization_config of config.json), which is not computed. "
        + _remedy(method)
    )


def without_dequantised(config: Mapping[str, Any]) -> dict[str, Any]:
    """A `config.json` that does not say that weights are in MXFP4, as they are not once they are read."""
    stated = config.get("quantization_config")
    is_mxfp4 = isinstance(stated, dict) and stated.get("quant_method") == "mxfp4"
    return {name: value for name, value in config.items() if name != "quantization_config" or not is_mxfp4}


def check_names(unexpected: Iterable[str], used: Iterable[str], path: Path) -> None:
    """Refuse a checkpoint with tensors that say that the others are not what they seem.

    Args:
        unexpected: names that no parameter of the model has.
        used: names that one has.
        path: the file.

    Raises:
        CheckpointError: naming the scheme, some of the tensors, and what to do.
    """
    unexpected = sorted(unexpected)
    owners = {name.rpartition(".")[0] for name in (*used, *unexpected) if name.endswith((".weight", ".bias"))}
    for pattern, method, name in _SCHEMES:
        if found := [match for match in map(re.compile(pattern).search, unexpected) if match]:
            raise _quantised(path, name.format(*found[0].groups()), method, [match.string for match in found])
    if scales := [name for name in unexpected if (match := _SCALE.match(name)) and match["owner"] in owners]:
        raise _quantised(path, "a scheme that is not known", "", scales)
    if adapters := list(filter(_ADAPTER.search, unexpected)):
        raise CheckpointError(
            f"{shown(path.name)}: holds an adapter ({_some(adapters)}), not a model: merge it into its base model with "
            "peft (PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)) and load that"
        )
    if consolidated := list(filter(_CONSOLIDATED.search, unexpected)):
        raise CheckpointError(
            f"{shown(path.name)}: has names of the consolidated format of Meta and Mistral ({_some(consolidated)}), "
            "which is not read: load the model-*.safetensors of the same model"
        )


def check_adapter(config: Mapping[str, Any], where: str, *, beside: bool) -> None:
    """Refuse the folder of an adapter.

    Args:
        config: its `adapter_config.json`.
        where: the folder.
        beside: whether the weights of its base are in the same folder.

    Raises:
        CheckpointError: always.
    """
    kind, base = (config.get(name) for name in ("peft_type", "base_model_name_or_path"))
    adapter = f"an adapter ({kind!r} of {base!r}, {ADAPTER_CONFIG})"
    merge = "merge_and_unload() of peft makes one model of both"
    if beside:
        raise CheckpointError(
            f"{where} has {adapter} beside the weights of its base, and adapters are not applied: {merge}; to load the "
            "base alone, name the file of its weights"
        )
    raise CheckpointError(f"{where} is {adapter}, not a model, and adapters are not read: {merge}")


def part_of_a_run(path: Path) -> str | None:
    """What a file or folder is, and what has to be done with it, if its names are those of a training run's parts."""
    inside = list(path.iterdir()) if path.is_dir() else []
    names = {path.name: path} | {f"/{found.name}": found for found in inside}
    for pattern, kind, remedy in _TRAINING_RUNS:
        for name, found in names.items():
            if re.fullmatch(pattern, name):
                places = {"found": shown(found, LONGEST_PATH), "folder": shown(found.parent, LONGEST_PATH)}
                return f"{shown(path.name)}: {kind}. {remedy.format(**places)}."
    return None


def _method(stated: Mapping[str, Any]) -> tuple[str, str]:
    """The method of a `quantization_config`, and how to call it."""
    is_old = "quant_method" not in stated and (stated.get("load_in_8bit") or stated.get("load_in_4bit"))
    method = "bitsandbytes" if is_old else str(stated.get("quant_method"))
    if method == "bitsandbytes":
        kind = stated.get("bnb_4bit_quant_type", "fp4") if stated.get("load_in_4bit") else "int8"
        return method, f"{method} {kind}"
    detail = stated.get("format") or stated.get("quant_type")
    return method, f"{method} ({detail})" if detail else method


def _quantised(path: Path, scheme: str, method: str, names: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{shown(path.name)}: its weights are quantised by {scheme}, as it has {_some(names)}, and that is not "
        f"computed. {_remedy(method)}"
    )


def _remedy(method: str) -> str:
    how = _DEQUANTISE.get(method)
    return f"{_UNQUANTISED}, or save it dequantised by transformers ({how})." if how else f"{_UNQUANTISED}."


def _some(names: list[str]) -> str:
    return listed(names, most=3)

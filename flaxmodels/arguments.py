"""Arguments of the loading methods of transformers that ask for nothing here, and the remedies for those that do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flaxmodels.errors import FlaxModelsError


@dataclass(frozen=True)
class _Argument:
    """One that is not computed.

    Attributes:
        harmless: the values at which it asks for nothing.
        remedy: what to do in place of any other.
    """

    harmless: tuple[Any, ...]
    remedy: str


_QUANTISED = "parameters are not quantised here: load the model in torch_dtype='bfloat16'"
_SHARDED = "give device_mesh= and sharding_rules= to place parameters on devices"
_ARGUMENTS: dict[str, _Argument] = {
    "weights_only": _Argument((None, True), "pickles are read as weights alone, and run no code"),
    "code_revision": _Argument((None,), "code is of the same revision as all else: give revision="),
    "proxies": _Argument((None, {}), "set the environment variables HTTP_PROXY and HTTPS_PROXY"),
    "mirror": _Argument((None,), "set the environment variable HF_ENDPOINT"),
    "quantization_config": _Argument((None,), _QUANTISED),
    "load_in_8bit": _Argument((None, False), _QUANTISED),
    "load_in_4bit": _Argument((None, False), _QUANTISED),
    "device_map": _Argument((None,), _SHARDED),
    "max_memory": _Argument((None,), _SHARDED),
    "tp_plan": _Argument((None,), _SHARDED),
    "tp_size": _Argument((None,), _SHARDED),
    "offload_folder": _Argument((None,), _SHARDED),
    "offload_state_dict": _Argument((None, False), _SHARDED),
    "offload_buffers": _Argument((None, False), _SHARDED),
    "adapter_kwargs": _Argument((None, {}), "adapters are not read: merge them with peft"),
    "adapter_name": _Argument((None, "default"), "adapters are not read: merge them with peft"),
    "use_flash_attention_2": _Argument((None, False), "give attn_implementation='flash'"),
    "allow_all_kernels": _Argument((None, False), "kernels of the Hub are code for torch, and are not run"),
    "kernel_config": _Argument((None,), "attn_implementation= and experts_implementation= choose kernels"),
    "return_unused_kwargs": _Argument((None, False), "unknown arguments are refused: there are none to return"),
}
REFUSED = tuple(_ARGUMENTS)
"""The names of those that are accepted at harmless values only."""
_WITHOUT_EFFECT = {
    *("low_cpu_mem_usage", "resume_download", "trust_remote_code"),
    *("_fast_init", "_from_auto", "_from_pipeline", "_commit_hash"),
}
"""Whatever their value: downloads resume, no tensor is held twice, and a class that is named runs no other's code."""


def check_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of the keyword arguments that are left to others.

    Raises:
        FlaxModelsError: naming every one that asks for what is not done here, and the remedy.
    """
    known = {name: value for name, value in arguments.items() if name in _ARGUMENTS}
    if refused := [name for name, value in known.items() if not _is_harmless(value, _ARGUMENTS[name])]:
        lines = [f"  - {name}={known[name]!r}: {_ARGUMENTS[name].remedy}" for name in refused]
        raise FlaxModelsError("these arguments ask for what is not done:\n" + "\n".join(lines))
    return {name: value for name, value in arguments.items() if name not in known and name not in _WITHOUT_EFFECT}


def _is_harmless(value: Any, argument: _Argument) -> bool:
    return any(value is harmless or (value == harmless) is True for harmless in argument.harmless)

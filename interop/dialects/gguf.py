"""GGUF, the format of llama.cpp: tensor names, the rotary layout of its query and key rows, and its metadata.

Source: the GGUF specification and `convert_hf_to_gguf.py` of github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from interop.errors import InteropError, listed, shown
from interop.ops import Flatten, Op, Transpose, Unflatten
from interop.rules import Rule
from interop.source import Header


@dataclass(frozen=True)
class _Architecture:
    """One `general.architecture`.

    Attributes:
        fields: keys of the metadata, without the name of the architecture, and fields of `config.json`.
        optional: those of these fields that a file may lack.
        top: names of tensors outside the layers.
        layer: where the layers are in torch.
        parts: names of tensors in a layer.
        transposed: parts whose matrices torch stores the other way round.
        rotated: parts whose rows llama.cpp orders in its own way, and the field with their number of heads.
    """

    fields: Mapping[str, str]
    optional: tuple[str, ...]
    top: Mapping[str, str]
    layer: str
    parts: Mapping[str, str]
    transposed: tuple[str, ...] = ()
    rotated: Mapping[str, str] = field(default_factory=dict)


_ARCHITECTURES = {
    "llama": _Architecture(
        fields={
            "vocab_size": "vocab_size",
            "context_length": "max_position_embeddings",
            "embedding_length": "hidden_size",
            "feed_forward_length": "intermediate_size",
            "block_count": "num_hidden_layers",
            "attention.head_count": "num_attention_heads",
            "attention.head_count_kv": "num_key_value_heads",
            "attention.key_length": "head_dim",
            "attention.layer_norm_rms_epsilon": "rms_norm_eps",
            "rope.freq_base": "rope_theta",
        },
        optional=("num_key_value_heads", "head_dim", "rope_theta"),
        top={
            "token_embd.weight": "model.embed_tokens.weight",
            "output_norm.weight": "model.norm.weight",
            "output.weight": "lm_head.weight",
        },
        layer="model.layers",
        parts={
            "attn_norm": "input_layernorm",
            "attn_q": "self_attn.q_proj",
            "attn_k": "self_attn.k_proj",
            "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_norm": "post_attention_layernorm",
            "ffn_gate": "mlp.gate_proj",
            "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj",
        },
        rotated={"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"},
    ),
    "gpt2": _Architecture(
        fields={
            "vocab_size": "vocab_size",
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "feed_forward_length": "n_inner",
            "block_count": "n_layer",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        optional=("n_inner",),
        top={
            "token_embd.weight": "transformer.wte.weight",
            "position_embd.weight": "transformer.wpe.weight",
            "output_norm.weight": "transformer.ln_f.weight",
            "output_norm.bias": "transformer.ln_f.bias",
            "output.weight": "lm_head.weight",
        },
        layer="transformer.h",
        parts={
            "attn_norm": "ln_1",
            "attn_qkv": "attn.c_attn",
            "attn_output": "attn.c_proj",
            "ffn_norm": "ln_2",
            "ffn_up": "mlp.c_fc",
            "ffn_down": "mlp.c_proj",
        },
        transposed=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
    ),
}
_TOKENS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "padding_token_id": "pad_token_id"}


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and 0 < value < math.inf


_COUNT = (_is_count, "an integer above 0")
_POSITIVE = (_is_positive, "a number above 0")
_TEXT = (lambda value: isinstance(value, str), "a string")
_INDEX = (lambda value: type(value) is int and 0 <= value < 2**32, "an integer of at least 0")
_EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("vocab_size", "context_length", "embedding_length", "feed_forward_length", "block_count"), _COUNT),
    **dict.fromkeys(("attention.head_count", "attention.head_count_kv", "attention.key_length"), _COUNT),
    **dict.fromkeys(("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "rope.freq_base"), _POSITIVE),
    "rope.scaling.factor": _POSITIVE,
    "rope.scaling.type": _TEXT,
    "expert_count": _INDEX,
    **{f"tokenizer.ggml.{key}": _INDEX for key in _TOKENS},
    "tokenizer.ggml.tokens": (lambda value: isinstance(value, list), "a list of strings"),
    "split.count": _INDEX,
}
"""For each key of the metadata that is read here, without the name of an architecture: a test, and what it expects."""


def config(metadata: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The `config.json` that the metadata and the tensor names of a GGUF file amount to.

    Raises:
        InteropError: an architecture that is not implemented, or metadata that is absent, of another type or out of
            range.
    """
    names = set(names)
    name, architecture = _architecture(metadata, names)
    found = _fields(metadata, name, architecture)
    found |= {
        field: metadata[f"tokenizer.ggml.{key}"]
        for key, field in _TOKENS.items()
        if f"tokenizer.ggml.{key}" in metadata
    }
    if "vocab_size" not in found and metadata.get("tokenizer.ggml.tokens"):
        found["vocab_size"] = len(metadata["tokenizer.ggml.tokens"])
    _require(found, set(architecture.fields.values()) - set(architecture.optional))
    found |= {"model_type": name, "tie_word_embeddings": "output.weight" not in names}
    if name == "gpt2":
        return found | {"architectures": ["GPT2LMHeadModel"]}
    return found | {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_up.bias" in names,
        "rope_scaling": _rope_scaling(metadata),
    }


def rules(metadata: Mapping[str, Any], headers: Mapping[str, Header]) -> list[Rule]:
    """From the tensors of a GGUF file to torch names and layouts; those of unknown names keep theirs.

    Raises:
        InteropError: as `config` does, or a tensor has another shape than the metadata says.
    """
    name, architecture = _architecture(metadata, set(headers))
    fields = _fields(metadata, name, architecture)
    if architecture.rotated:
        _require(fields, {"num_attention_heads", "hidden_size"})
    found = [_rule(name, architecture, fields) for name in headers]
    wrong = [rule.sources[0] for rule in found if not _fits(rule, headers)]
    if wrong:
        shapes = [f"{name} {headers[name].shape}" for name in wrong]
        raise InteropError(f"tensors of the GGUF file do not have the shapes of its metadata: {listed(shapes)}")
    return found


def _rule(name: str, architecture: _Architecture, fields: Mapping[str, Any]) -> Rule:
    target = _torch_name(name, architecture)
    if target is None:
        return Rule((name,), (name,))
    part = name.split(".")[2] if name.startswith("blk.") else ""
    return Rule((name,), (target,), _ops(part, name.endswith(".bias"), architecture, fields))


def _fits(rule: Rule, headers: Mapping[str, Header]) -> bool:
    try:
        return bool(rule.headers(headers))
    except (ValueError, IndexError):
        return False


def _require(fields: Mapping[str, Any], names: set[str]) -> None:
    if absent := sorted(names - set(fields)):
        raise InteropError(f"the GGUF metadata does not give {', '.join(absent)}: the file is incomplete")


def _fields(metadata: Mapping[str, Any], name: str, architecture: _Architecture) -> dict[str, Any]:
    return {
        field: metadata[f"{name}.{key}"] for key, field in architecture.fields.items() if f"{name}.{key}" in metadata
    }


def _torch_name(name: str, architecture: _Architecture) -> str | None:
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in architecture.parts:
        return f"{architecture.layer}.{parts[1]}.{architecture.parts[parts[2]]}.{parts[3]}"
    return architecture.top.get(name)


def _ops(part: str, is_bias: bool, architecture: _Architecture, fields: Mapping[str, Any]) -> tuple[Op, ...]:
    if part in architecture.transposed and not is_bias:
        return (Transpose((1, 0)),)
    if part not in architecture.rotated:
        return ()
    heads = fields["num_attention_heads"]
    head_dim = fields.get("head_dim", fields["hidden_size"] // heads)
    return _halves_from_pairs(fields.get(architecture.rotated[part], heads), head_dim, is_bias)


def _halves_from_pairs(heads: int, head_dim: int, is_bias: bool) -> tuple[Op, ...]:
    """llama.cpp rotates neighbouring rows of a head, torch the first half of them with the second."""
    half = head_dim // 2
    axes = (0, 2, 1) if is_bias else (0, 2, 1, 3)
    return Unflatten(0, (heads, half, 2)), Transpose(axes), Flatten(0, (heads, 2, half))


def _rope_scaling(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = metadata.get("llama.rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind != "linear":
        problem = f"llama.rope.scaling.type='{shown(kind)}' of a GGUF file is not implemented"
        raise InteropError(f"{problem}: expected none or linear")
    _require(metadata, {"llama.rope.scaling.factor"})
    return {"rope_type": "linear", "factor": metadata["llama.rope.scaling.factor"]}


def _architecture(metadata: Mapping[str, Any], names: set[str]) -> tuple[str, _Architecture]:
    """The architecture of the file and its name; `InteropError` for files that would be misread."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in _ARCHITECTURES:
        known = " or ".join(map(repr, _ARCHITECTURES))
        raise InteropError(f"GGUF architecture {shown(repr(name))} is not implemented: expected {known}")
    _check(metadata, name, names)
    if "rope_freqs.weight" in names:
        raise InteropError(
            "the GGUF file has rope_freqs.weight (Llama 3.1 frequency scaling), which does not say which "
            "rope_scaling it came from: load the safetensors of this model"
        )
    if metadata.get(f"{name}.expert_count", 0):
        raise InteropError("the GGUF file is a mixture of experts, which is not implemented for GGUF")
    if (count := metadata.get("split.count", 0)) > 1:
        raise InteropError(f"the GGUF file is one of {count}: run llama-gguf-split --merge FIRST_FILE WHOLE_FILE")
    return name, _ARCHITECTURES[name]


def _check(metadata: Mapping[str, Any], name: str, names: set[str]) -> None:
    """Refuses metadata of another type than expected or out of range, all of it at once."""
    wrong = []
    for key, (is_right, expected) in _EXPECTED.items():
        for full_key in (key, f"{name}.{key}"):
            if full_key in metadata and not is_right(metadata[full_key]):
                wrong.append(f"{full_key} is {shown(repr(metadata[full_key]))}, expected {expected}")
    blocks = len({tensor.split(".")[1] for tensor in names if tensor.startswith("blk.")})
    if not wrong and (count := metadata.get(f"{name}.block_count", blocks)) > blocks:
        wrong.append(f"{name}.block_count is {count}, but the file has tensors of {blocks} blocks")
    if wrong:
        raise InteropError("the GGUF metadata cannot be used: " + "; ".join(wrong))

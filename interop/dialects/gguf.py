"""GGUF, the format of llama.cpp: tensor names, the rotary layout of its query and key rows, and its metadata.

Source: the GGUF specification and `convert_hf_to_gguf.py` of github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from interop.errors import InteropError
from interop.ops import Flatten, Op, Transpose, Unflatten
from interop.rules import Rule

_TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_HEAD = {"output.weight": "lm_head.weight"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_FIELDS = {
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
}
_TOKENS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "padding_token_id": "pad_token_id"}


def config(metadata: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The `config.json` that the metadata and the tensor names of a GGUF file amount to."""
    names = set(names)
    _refuse_unknown(metadata, names)
    found = {field: metadata[f"llama.{key}"] for key, field in _FIELDS.items() if f"llama.{key}" in metadata}
    found |= {
        field: metadata[f"tokenizer.ggml.{key}"]
        for key, field in _TOKENS.items()
        if f"tokenizer.ggml.{key}" in metadata
    }
    if "vocab_size" not in found and "tokenizer.ggml.tokens" in metadata:
        found["vocab_size"] = len(metadata["tokenizer.ggml.tokens"])
    required = set(_FIELDS.values()) - {"num_key_value_heads", "head_dim", "rope_theta"}
    if absent := sorted(required - set(found)):
        raise InteropError(f"the GGUF metadata does not give {', '.join(absent)}: the file is incomplete")
    return found | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_up.bias" in names,
        "rope_scaling": _rope_scaling(metadata),
    }


def rules(metadata: Mapping[str, Any], names: Iterable[str]) -> list[Rule]:
    """From the tensors of a GGUF file to torch names and layouts; tensors of other names have no rule."""
    heads = int(metadata["llama.attention.head_count"])
    kv_heads = int(metadata.get("llama.attention.head_count_kv", heads))
    hidden = int(metadata["llama.embedding_length"])
    head_dim = int(metadata.get("llama.attention.key_length", hidden // heads))
    found = []
    for name in names:
        if target := _torch_name(name):
            part = name.split(".")[2] if name.startswith("blk.") else ""
            count = {"attn_q": heads, "attn_k": kv_heads}.get(part)
            ops = _halves_from_pairs(count, head_dim, name.endswith(".bias")) if count else ()
            found.append(Rule((name,), (target,), ops))
    return found


def _torch_name(name: str) -> str | None:
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _LAYER:
        return f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.{parts[3]}"
    return (_TOP | _HEAD).get(name)


def _halves_from_pairs(heads: int, head_dim: int, is_bias: bool) -> tuple[Op, ...]:
    """llama.cpp rotates neighbouring rows of a head, torch the first half of them with the second."""
    half = head_dim // 2
    axes = (0, 2, 1) if is_bias else (0, 2, 1, 3)
    return Unflatten(0, (heads, half, 2)), Transpose(axes), Flatten(0, (heads, 2, half))


def _rope_scaling(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = metadata.get("llama.rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": metadata["llama.rope.scaling.factor"]}
    raise InteropError(f"llama.rope.scaling.type={kind!r} of a GGUF file is not implemented: expected none or linear")


def _refuse_unknown(metadata: Mapping[str, Any], names: set[str]) -> None:
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise InteropError(f"GGUF architecture {architecture!r} is not implemented: expected 'llama'")
    if "rope_freqs.weight" in names:
        raise InteropError(
            "the GGUF file has rope_freqs.weight (Llama 3.1 frequency scaling), which does not say which "
            "rope_scaling it came from: load the safetensors of this model"
        )
    if metadata.get("llama.expert_count", 0):
        raise InteropError("the GGUF file is a mixture of experts, which is not implemented for GGUF")

"""Llama and its descendants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.family import Family


def llama_like(
    name: str,
    changes: Mapping[str, Any],
    heads: int | Mapping[str, Mapping[str, Any]] = 4,
    variants: Mapping[str, tuple[str, Mapping[str, Any]]] | None = None,
    **other: Any,
) -> Family:
    """A descendant of Llama: its configuration beside that of all, and its heads or how many of the usual ones."""
    tasks = ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
    if isinstance(heads, int):
        heads = {name + task: {"num_labels": 2} if "Question" in task else {} for task in tasks[: heads + 1]}
    common = {
        "vocab_size": 35,
        "hidden_size": 36,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 8,
        "intermediate_size": 27,
        "max_position_embeddings": 200,
        "rms_norm_eps": 1e-5,
        "pad_token_id": 3,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "attention_dropout": 0.3,
        "num_labels": 5,
    }
    values = {key: value for key, value in {**common, **changes}.items() if value is not None}
    module = f"flaxmodels.models.{name.lower()}"
    return Family(module, values, heads, tuple(head for head in heads if "CausalLM" in head), variants or {}, **other)


FAMILIES = {
    "llama": Family(
        module="flaxmodels.models.llama",
        config={
            "vocab_size": 37,
            "hidden_size": 36,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 10,
            "intermediate_size": 29,
            "max_position_embeddings": 23,
            "rms_norm_eps": 1e-5,
            "pad_token_id": 3,
            "attention_bias": True,
            "mlp_bias": True,
            "attention_dropout": 0.3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
            "num_labels": 5,
        },
        heads={
            "LlamaModel": {},
            "LlamaForCausalLM": {},
            "LlamaForSequenceClassification": {},
            "LlamaForTokenClassification": {},
            "LlamaForQuestionAnswering": {"num_labels": 2},
        },
        decoders=("LlamaModel", "LlamaForCausalLM"),
        variants={
            "tied": (
                "LlamaForCausalLM",
                {"tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False},
            ),
            "one-kv-head": ("LlamaModel", {"num_key_value_heads": 1, "hidden_act": "gelu"}),
            "linear": (
                "LlamaModel",
                {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}},
            ),
            "dynamic": (
                "LlamaModel",
                {
                    "max_position_embeddings": 5,
                    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
                },
            ),
            "llama3": (
                "LlamaModel",
                {
                    "rope_parameters": {
                        "rope_type": "llama3",
                        "rope_theta": 300.0,
                        "factor": 8.0,
                        "low_freq_factor": 1.0,
                        "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 16,
                    }
                },
            ),
            "yarn": (
                "LlamaModel",
                {
                    "max_position_embeddings": 32,
                    "rope_parameters": {
                        "rope_type": "yarn",
                        "rope_theta": 1e4,
                        "factor": 4.0,
                        "original_max_position_embeddings": 8,
                    },
                },
            ),
            "longrope": (
                "LlamaModel",
                {
                    "max_position_embeddings": 20,
                    "rope_parameters": {
                        "rope_type": "longrope",
                        "rope_theta": 1e4,
                        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5],
                        "long_factor": [1.5, 2.0, 3.0, 4.0, 6.0],
                        "factor": 4.0,
                        "original_max_position_embeddings": 5,
                    },
                },
            ),
        },
        useless=("layers.0.self_attn.rotary_emb.inv_freq",),
        published={"llama-3.1-8b": ("LlamaForCausalLM", 8_030_261_248)},
    ),
    "mistral": llama_like(
        "Mistral",
        {"sliding_window": 3},
        variants={"no-window": ("MistralForCausalLM", {"sliding_window": None, "tie_word_embeddings": True})},
        published={"mistral-7b-v0.1": ("MistralForCausalLM", 7_241_732_096)},
    ),
    "qwen2": llama_like(
        "Qwen2",
        {"head_dim": None},
        variants={
            "windows": ("Qwen2ForCausalLM", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1})
        },
        published={"qwen2.5-0.5b": ("Qwen2ForCausalLM", 494_032_768)},
    ),
    "qwen3": llama_like(
        "Qwen3",
        {},
        variants={"biased": ("Qwen3ForCausalLM", {"attention_bias": True})},
        published={"qwen3-0.6b": ("Qwen3ForCausalLM", 596_049_920)},
    ),
    "smollm3": llama_like(
        "SmolLM3",
        {"head_dim": None, "no_rope_layer_interval": 2},
        variants={"windows": ("SmolLM3ForCausalLM", {"use_sliding_window": True, "sliding_window": 3})},
        published={"smollm3-3b": ("SmolLM3ForCausalLM", 3_075_098_624)},
    ),
    "gemma": llama_like("Gemma", {}, heads=3, published={"gemma-2b": ("GemmaForCausalLM", 2_506_172_416)}),
    "gemma2": llama_like(
        "Gemma2",
        {
            "sliding_window": 3,
            "query_pre_attn_scalar": 11,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
        heads=3,
        half_tolerance=8e-2,
        published={"gemma-2-2b": ("Gemma2ForCausalLM", 2_614_341_888)},
    ),
    "gemma3_text": llama_like(
        "Gemma3",
        {"sliding_window": 3, "query_pre_attn_scalar": 11, "layer_types": ["sliding_attention", "full_attention"] * 2}
        | {"num_hidden_layers": 4},
        heads={"Gemma3TextModel": {}, "Gemma3ForCausalLM": {}, "Gemma3TextForSequenceClassification": {}},
        half_tolerance=8e-2,
        published={"gemma-3-1b": ("Gemma3ForCausalLM", 999_885_952)},
    ),
    "granite": llama_like(
        "Granite",
        {"attention_bias": True, "mlp_bias": True, "embedding_multiplier": 3.5, "attention_multiplier": 0.21}
        | {"residual_multiplier": 0.37, "logits_scaling": 2.5},
        heads=1,
        variants={
            "tied": (
                "GraniteForCausalLM",
                {"tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "num_key_value_heads": 1},
            ),
        },
    ),
    "phi3": llama_like(
        "Phi3",
        {"head_dim": None, "hidden_size": 48, "resid_pdrop": 0.2, "sliding_window": 5}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}},
        heads=3,
        published={"phi-3-mini-4k-instruct": ("Phi3ForCausalLM", 3_821_079_552)},
    ),
    "olmo2": llama_like(
        "Olmo2", {"head_dim": None}, heads=2, published={"olmo-2-1124-7b": ("Olmo2ForCausalLM", 7_298_617_344)}
    ),
}

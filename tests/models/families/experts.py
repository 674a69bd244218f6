"""Descendants of Llama whose MLPs are mixtures of experts."""

from __future__ import annotations

from models.families.llama_like import llama_like

ROUNDED = 0.2
"""How far bfloat16 may be from float32: a token that is as near to two experts may go to another of them."""

FAMILIES = {
    "mixtral": llama_like(
        "Mixtral",
        {"num_local_experts": 5, "num_experts_per_tok": 2},
        variants={
            "windows": ("MixtralForCausalLM", {"sliding_window": 3, "tie_word_embeddings": True}),
            "one-expert": ("MixtralModel", {"num_local_experts": 3, "num_experts_per_tok": 1, "hidden_act": "gelu"}),
        },
        half_tolerance=ROUNDED,
        published={"mixtral-8x7b": ("MixtralForCausalLM", 46_702_792_704)},
    ),
    "qwen3_moe": llama_like(
        "Qwen3_Moe",
        {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 11},
        heads={f"Qwen3Moe{head}": {} for head in ("Model", "ForCausalLM", "ForSequenceClassification")}
        | {"Qwen3MoeForTokenClassification": {}, "Qwen3MoeForQuestionAnswering": {"num_labels": 2}},
        variants={
            "normalised": ("Qwen3MoeForCausalLM", {"norm_topk_prob": True, "attention_bias": True}),
            "windows": ("Qwen3MoeForCausalLM", {"use_sliding_window": True, "sliding_window": 3}),
            "steps": ("Qwen3MoeForCausalLM", {"decoder_sparse_step": 2}),
            "mixed": ("Qwen3MoeModel", {"mlp_only_layers": [1]}),
            "dense": ("Qwen3MoeModel", {"mlp_only_layers": [0, 1]}),
        },
        unequal=("steps", "mixed"),
        half_tolerance=ROUNDED,
        published={"qwen3-30b-a3b": ("Qwen3MoeForCausalLM", 30_532_122_624)},
    ),
    "gpt_oss": llama_like(
        "Gpt_Oss",
        {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 3, "swiglu_limit": 0.7},
        heads={f"GptOss{head}": {} for head in ("Model", "ForCausalLM", "ForSequenceClassification")}
        | {"GptOssForTokenClassification": {}},
        variants={
            "unbiased": (
                "GptOssForCausalLM",
                {
                    "attention_bias": False,
                    "swiglu_alpha": 1.1,
                    "layer_types": ["full_attention", "sliding_attention"],
                    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
                },
            ),
        },
        half_tolerance=ROUNDED,
        published={"gpt-oss-20b": ("GptOssForCausalLM", 20_914_757_184)},
    ),
}

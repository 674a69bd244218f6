"""Decoders that are not descendants of Llama."""

from __future__ import annotations

from models.family import Family

FAMILIES = {
    "gpt2": Family(
        module="flaxmodels.models.gpt2",
        config={
            "vocab_size": 33,
            "n_positions": 21,
            "n_embd": 36,
            "n_layer": 2,
            "n_head": 4,
            "n_inner": 29,
            "resid_pdrop": 0.2,
            "embd_pdrop": 0.2,
            "attn_pdrop": 0.3,
            "layer_norm_epsilon": 1e-4,
            "pad_token_id": 3,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "num_labels": 5,
        },
        heads={
            "GPT2Model": {},
            "GPT2LMHeadModel": {},
            "GPT2ForSequenceClassification": {},
            "GPT2ForTokenClassification": {},
            "GPT2ForQuestionAnswering": {"num_labels": 2},
        },
        decoders=("GPT2Model", "GPT2LMHeadModel"),
        variants={
            "untied": (
                "GPT2LMHeadModel",
                {"tie_word_embeddings": False, "n_inner": None, "activation_function": "relu"},
            ),
            "by-layer": ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True}),
            "unscaled": ("GPT2LMHeadModel", {"scale_attn_weights": False}),
        },
        published={"gpt2": ("GPT2LMHeadModel", 124_439_808)},
    ),
}

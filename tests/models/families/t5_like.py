"""T5 and its kin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.family import Family

CONFIG = {
    "vocab_size": 37,
    "d_model": 36,
    "d_kv": 5,
    "d_ff": 27,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 6,
    "layer_norm_epsilon": 1e-5,
    "dropout_rate": 0.2,
    "classifier_dropout": 0.2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "num_labels": 5,
}
LONG = {"relative_attention_num_buckets": 5, "relative_attention_max_distance": 3}


def t5_like(name: str, variants: Mapping[str, Mapping[str, Any]], published: Mapping[str, int], **own: Any) -> Family:
    """All heads; variants of the language model, and published ones with their numbers of parameters."""
    language_model = f"{name}ForConditionalGeneration"
    return Family(
        module=f"flaxmodels.models.{name.lower()}",
        config=CONFIG,
        heads={
            f"{name}Model": {},
            language_model: {},
            f"{name}EncoderModel": {"is_encoder_decoder": False},
            f"{name}ForSequenceClassification": {},
            f"{name}ForTokenClassification": {"is_encoder_decoder": False},
            f"{name}ForQuestionAnswering": {"num_labels": 2},
        },
        decoders=(),
        variants={key: (language_model, values) for key, values in variants.items()},
        published={key: (language_model, count) for key, count in published.items()},
        **own,
    )


GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
FAMILIES = {
    "t5": t5_like(
        "T5",
        {"gated-untied": GATED, "silu": {"feed_forward_proj": "gated-silu", "num_decoder_layers": None} | LONG},
        {"t5-small": 60_506_624, "flan-t5-small": 76_961_152},
        useless=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
    ),
    "mt5": t5_like("MT5", {"gated-untied": GATED}, {"mt5-small": 300_176_768}),
    "umt5": t5_like("UMT5", {"gated-untied": GATED, "few-buckets": LONG}, {"umt5-small": 306_601_984}),
}

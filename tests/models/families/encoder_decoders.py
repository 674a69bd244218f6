"""BART and its kin."""

from __future__ import annotations

from models.family import Family

FAMILIES = {
    "bart": Family(
        module="flaxmodels.models.bart",
        config={
            "vocab_size": 37,
            "max_position_embeddings": 21,
            "d_model": 36,
            "encoder_layers": 3,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 27,
            "decoder_layers": 2,
            "decoder_attention_heads": 6,
            "decoder_ffn_dim": 31,
            "dropout": 0.2,
            "attention_dropout": 0.1,
            "activation_dropout": 0.1,
            "classifier_dropout": 0.2,
            "num_labels": 5,
        },
        heads={
            "BartModel": {},
            "BartForConditionalGeneration": {},
            "BartForSequenceClassification": {},
            "BartForQuestionAnswering": {"num_labels": 2},
        },
        decoders=(),
        variants={
            "scaled": ("BartModel", {"scale_embedding": True, "activation_function": "relu"}),
        },
    ),
}

"""BART and its kin."""

from __future__ import annotations

from models.family import Family

SIZES = {
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
    "encoder_layerdrop": 0.1,
    "decoder_layerdrop": 0.1,
}
CLASSIFYING = SIZES | {"classifier_dropout": 0.2, "num_labels": 5}
VERSIONS = ("encoder.version", "decoder.version")

FAMILIES = {
    "bart": Family(
        module="flaxmodels.models.bart",
        config=CLASSIFYING,
        heads={
            "BartModel": {},
            "BartForConditionalGeneration": {},
            "BartForSequenceClassification": {},
            "BartForQuestionAnswering": {"num_labels": 2},
            "BartForCausalLM": {},
        },
        decoders=("BartForCausalLM",),
        variants={
            "scaled": ("BartModel", {"scale_embedding": True, "activation_function": "relu"}),
            "untied": ("BartForConditionalGeneration", {"tie_word_embeddings": False}),
            "crossing": (
                "BartForCausalLM",
                {"add_cross_attention": True, "scale_embedding": True, "tie_word_embeddings": False},
            ),
        },
        useless=VERSIONS,
        published={"bart-base": ("BartModel", 139_420_416)},
    ),
    "mbart": Family(
        module="flaxmodels.models.mbart",
        config=CLASSIFYING | {"scale_embedding": True},
        heads={
            "MBartModel": {},
            "MBartForConditionalGeneration": {},
            "MBartForSequenceClassification": {},
            "MBartForQuestionAnswering": {"num_labels": 2},
            "MBartForCausalLM": {},
        },
        decoders=("MBartForCausalLM",),
        variants={
            "unscaled": ("MBartModel", {"scale_embedding": False, "activation_function": "relu"}),
        },
        useless=VERSIONS,
        published={"mbart-large-cc25": ("MBartModel", 610_851_840)},
    ),
    "pegasus": Family(
        module="flaxmodels.models.pegasus",
        config=SIZES | {"scale_embedding": True, "activation_function": "relu"},
        heads={"PegasusModel": {}, "PegasusForConditionalGeneration": {}, "PegasusForCausalLM": {}},
        decoders=("PegasusForCausalLM",),
        variants={
            "unscaled": ("PegasusModel", {"scale_embedding": False, "activation_function": "gelu"}),
            "crossing": ("PegasusForCausalLM", {"add_cross_attention": True}),
        },
        useless=VERSIONS,
        published={"pegasus-xsum": ("PegasusForConditionalGeneration", 569_844_583)},
    ),
    "marian": Family(
        module="flaxmodels.models.marian",
        config=SIZES
        | {
            "scale_embedding": True,
            "activation_function": "swish",
            "pad_token_id": 36,
            "bos_token_id": 1,
            "eos_token_id": 0,
            "decoder_start_token_id": 36,
            "forced_eos_token_id": 0,
        },
        heads={"MarianModel": {}, "MarianMTModel": {}, "MarianForCausalLM": {}},
        decoders=("MarianForCausalLM",),
        variants={
            "two-vocabularies": (
                "MarianMTModel",
                {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 41},
            ),
            "two-vocabularies-untied": (
                "MarianMTModel",
                {
                    "share_encoder_decoder_embeddings": False,
                    "decoder_vocab_size": 41,
                    "tie_word_embeddings": False,
                    "scale_embedding": False,
                },
            ),
        },
        useless=VERSIONS,
        published={"opus-mt-en-de": ("MarianModel", 74_410_496)},
    ),
}

"""BERT and its kin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.family import Family


def roberta_like(
    name: str,
    module: str,
    variants: Mapping[str, tuple[str, Mapping[str, Any]]] | None = None,
    **other: Any,
) -> Family:
    """RoBERTa, and the same under another name, or nearly."""
    config = {
        "vocab_size": 31,
        "hidden_size": 36,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 27,
        "max_position_embeddings": 19,
        "type_vocab_size": 3,
        "pad_token_id": 2,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.2,
        "attention_probs_dropout_prob": 0.3,
        "num_labels": 5,
    }
    tasks = ("MaskedLM", "SequenceClassification", "MultipleChoice", "TokenClassification")
    heads: dict[str, Mapping[str, Any]] = {f"{name}Model": {}, **{f"{name}For{task}": {} for task in tasks}}
    heads |= {f"{name}ForCausalLM": {"is_decoder": True}, f"{name}ForQuestionAnswering": {"num_labels": 2}}
    # With padding on the left transformers counts cached positions from the padding on; we do not.
    every = {"untied": (f"{name}ForMaskedLM", {"tie_word_embeddings": False})} | dict(variants or {})
    return Family(module, config, heads, (), every, **other)


FAMILIES = {
    "bert": Family(
        module="flaxmodels.models.bert",
        config={
            "vocab_size": 31,
            "hidden_size": 36,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 27,
            "max_position_embeddings": 19,
            "type_vocab_size": 3,
            "pad_token_id": 2,
            "layer_norm_eps": 1e-5,
            "hidden_dropout_prob": 0.2,
            "attention_probs_dropout_prob": 0.3,
            "num_labels": 5,
        },
        heads={
            "BertModel": {},
            "BertForPreTraining": {},
            "BertForMaskedLM": {},
            "BertLMHeadModel": {"is_decoder": True},
            "BertForNextSentencePrediction": {},
            "BertForSequenceClassification": {},
            "BertForMultipleChoice": {},
            "BertForTokenClassification": {},
            "BertForQuestionAnswering": {"num_labels": 2},
        },
        decoders=("BertLMHeadModel",),
        variants={
            "untied": ("BertForMaskedLM", {"tie_word_embeddings": False, "hidden_act": "gelu_new"}),
            "untied-pretraining": ("BertForPreTraining", {"tie_word_embeddings": False, "hidden_act": "relu"}),
            "cross-attention": ("BertLMHeadModel", {"is_decoder": True, "add_cross_attention": True}),
        },
        older_names={"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"},
        useless=("embeddings.position_ids",),
        published={"bert-base-uncased": ("BertModel", 109_482_240)},
    ),
    "distilbert": Family(
        module="flaxmodels.models.distilbert",
        config={
            "vocab_size": 31,
            "dim": 36,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 27,
            "max_position_embeddings": 19,
            "pad_token_id": 2,
            "dropout": 0.2,
            "attention_dropout": 0.3,
        },
        heads={
            "DistilBertModel": {},
            "DistilBertForMaskedLM": {},
            "DistilBertForSequenceClassification": {"num_labels": 5},
            "DistilBertForMultipleChoice": {},
            "DistilBertForTokenClassification": {"num_labels": 5},
            "DistilBertForQuestionAnswering": {},
        },
        decoders=(),
        variants={"untied": ("DistilBertForMaskedLM", {"tie_word_embeddings": False, "activation": "relu"})},
        published={"distilbert-base-uncased": ("DistilBertModel", 66_362_880)},
    ),
    "albert": Family(
        module="flaxmodels.models.albert",
        config={
            "vocab_size": 31,
            "embedding_size": 14,
            "hidden_size": 36,
            "num_hidden_layers": 4,
            "num_hidden_groups": 2,
            "num_attention_heads": 4,
            "intermediate_size": 27,
            "max_position_embeddings": 19,
            "type_vocab_size": 3,
            "pad_token_id": 2,
            "layer_norm_eps": 1e-5,
            "hidden_dropout_prob": 0.2,
            "attention_probs_dropout_prob": 0.3,
            "num_labels": 5,
        },
        heads={
            "AlbertModel": {},
            "AlbertForPreTraining": {},
            "AlbertForMaskedLM": {},
            "AlbertForSequenceClassification": {},
            "AlbertForMultipleChoice": {},
            "AlbertForTokenClassification": {},
            "AlbertForQuestionAnswering": {"num_labels": 2},
        },
        decoders=(),
        variants={"one-group": ("AlbertForMaskedLM", {"num_hidden_groups": 1, "hidden_act": "gelu"})},
        published={"albert-base-v2": ("AlbertModel", 11_683_584)},
    ),
    "roberta": roberta_like(
        "Roberta", "flaxmodels.models.roberta", published={"roberta-base": ("RobertaModel", 124_645_632)}
    ),
    "camembert": roberta_like("Camembert", "flaxmodels.models.camembert"),
    "xlm-roberta": roberta_like(
        "XLMRoberta", "flaxmodels.models.xlm_roberta", published={"xlm-roberta-base": ("XLMRobertaModel", 278_043_648)}
    ),
    "roberta-prelayernorm": roberta_like(
        "RobertaPreLayerNorm",
        "flaxmodels.models.roberta_prelayernorm",
        {
            "cross-attention": (
                "RobertaPreLayerNormForCausalLM",
                {"is_decoder": True, "add_cross_attention": True, "hidden_act": "relu"},
            )
        },
        published={"efficient_mlm_m0.40": ("RobertaPreLayerNormForMaskedLM", 355_414_105)},
        useless=("embeddings.position_ids",),
    ),
    "electra": Family(
        module="flaxmodels.models.electra",
        config={
            "vocab_size": 31,
            "embedding_size": 14,
            "hidden_size": 36,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 27,
            "max_position_embeddings": 19,
            "type_vocab_size": 3,
            "pad_token_id": 2,
            "layer_norm_eps": 1e-5,
            "hidden_act": "gelu_new",
            "hidden_dropout_prob": 0.2,
            "attention_probs_dropout_prob": 0.3,
            "num_labels": 5,
        },
        heads={
            "ElectraModel": {},
            "ElectraForPreTraining": {},
            "ElectraForMaskedLM": {},
            "ElectraForCausalLM": {"is_decoder": True},
            "ElectraForSequenceClassification": {},
            "ElectraForMultipleChoice": {},
            "ElectraForTokenClassification": {},
            "ElectraForQuestionAnswering": {"num_labels": 2},
        },
        decoders=("ElectraForCausalLM",),
        variants={
            "untied": ("ElectraForMaskedLM", {"tie_word_embeddings": False}),
            "one-size": ("ElectraModel", {"embedding_size": 36}),
            "cross-attention": ("ElectraForCausalLM", {"is_decoder": True, "add_cross_attention": True}),
            "last": ("ElectraForMultipleChoice", {"summary_type": "last", "summary_use_proj": False}),
            "mean": ("ElectraForMultipleChoice", {"summary_type": "mean", "summary_activation": "tanh"}),
            "index": ("ElectraForMultipleChoice", {"summary_type": "cls_index", "summary_activation": ""}),
        },
        useless=("embeddings.position_ids",),
        published={"electra-small-discriminator": ("ElectraForPreTraining", 13_549_057)},
    ),
    "mpnet": Family(
        module="flaxmodels.models.mpnet",
        config={
            "vocab_size": 31,
            "hidden_size": 36,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 27,
            "max_position_embeddings": 19,
            "relative_attention_num_buckets": 33,
            "pad_token_id": 1,
            "layer_norm_eps": 1e-5,
            "hidden_dropout_prob": 0.2,
            "attention_probs_dropout_prob": 0.3,
            "num_labels": 5,
        },
        heads={
            "MPNetModel": {},
            "MPNetForMaskedLM": {},
            "MPNetForSequenceClassification": {},
            "MPNetForMultipleChoice": {},
            "MPNetForTokenClassification": {},
            "MPNetForQuestionAnswering": {"num_labels": 2},
        },
        decoders=(),
        variants={
            "untied": ("MPNetForMaskedLM", {"tie_word_embeddings": False, "hidden_act": "gelu_new"}),
            "another-padding": ("MPNetModel", {"pad_token_id": 2}),
        },
        useless=("embeddings.position_ids",),
        published={"all-mpnet-base-v2": ("MPNetModel", 109_486_464)},
    ),
    "modernbert": Family(
        module="flaxmodels.models.modernbert",
        config={
            "vocab_size": 31,
            "hidden_size": 36,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "intermediate_size": 27,
            "max_position_embeddings": 50,
            "local_attention": 7,
            "pad_token_id": 2,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "cls_token_id": 0,
            "sep_token_id": 1,
            "attention_dropout": 0.3,
            "embedding_dropout": 0.1,
            "mlp_dropout": 0.2,
            "classifier_dropout": 0.2,
            "num_labels": 5,
        },
        heads={
            "ModernBertModel": {},
            "ModernBertForMaskedLM": {},
            "ModernBertForSequenceClassification": {},
            "ModernBertForMultipleChoice": {},
            "ModernBertForTokenClassification": {},
            "ModernBertForQuestionAnswering": {"num_labels": 2},
        },
        decoders=(),
        variants={
            "untied": ("ModernBertForMaskedLM", {"tie_word_embeddings": False, "decoder_bias": False}),
            "biased": (
                "ModernBertForMaskedLM",
                {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True}
                | {"hidden_activation": "silu", "classifier_activation": "relu"},
            ),
            "mean": ("ModernBertForSequenceClassification", {"classifier_pooling": "mean"}),
            "mean-choice": ("ModernBertForMultipleChoice", {"classifier_pooling": "mean"}),
            "layers": (
                "ModernBertModel",
                {
                    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
                    "rope_parameters": {
                        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
                        "full_attention": {"rope_type": "linear", "rope_theta": 300.0, "factor": 2.5},
                    },
                },
            ),
        },
        published={"modernbert-base": ("ModernBertForMaskedLM", 149_655_232)},
    ),
}

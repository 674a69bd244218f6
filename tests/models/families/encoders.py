"""BERT and its kin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.family import Family


def roberta_like(name: str, module: str) -> Family:
    """RoBERTa, and the same under another name."""
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
    heads: dict[str, Mapping[str, Any]] = {f"{name}Model": {}} | {f"{name}For{task}": {} for task in tasks}
    heads |= {f"{name}ForCausalLM": {"is_decoder": True}, f"{name}ForQuestionAnswering": {"num_labels": 2}}
    # With padding on the left transformers counts cached positions from the padding on; we do not.
    return Family(module, config, heads, (), {"untied": (f"{name}ForMaskedLM", {"tie_word_embeddings": False})})


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
    ),
    "roberta": roberta_like("Roberta", "flaxmodels.models.roberta"),
    "xlm-roberta": roberta_like("XLMRoberta", "flaxmodels.models.xlm_roberta"),
}

"""The table of architectures. A further one is a further row: every test of `test_parity.py` then runs on it.

Sizes are awkward on purpose: odd, unequal, grouped heads, `head_dim` apart from `hidden_size / num_attention_heads`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import transformers


@dataclass(frozen=True)
class Family:
    """One model type.

    Attributes:
        module: where its classes are; transformers has them under the same names.
        config: values of the configuration, dropout among them.
        heads: every model class, with what its configuration needs beside `config`.
        decoders: those of them that decode with a cache.
        variants: further configurations by name: the class that they are tested with, and the changed values.
        older_names: parts of torch names, and what early checkpoints call them.
        useless: names, in the base model, of tensors that checkpoints may have for nothing.
    """

    module: str
    config: Mapping[str, Any]
    heads: Mapping[str, Mapping[str, Any]]
    decoders: tuple[str, ...]
    variants: Mapping[str, tuple[str, Mapping[str, Any]]]
    older_names: Mapping[str, str] = field(default_factory=dict)
    useless: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One model class with one configuration."""

    name: str
    family: Family
    head: str
    values: Mapping[str, Any]

    def __str__(self) -> str:
        return self.name

    @property
    def ours(self) -> Any:
        """The class under test."""
        return getattr(import_module(self.family.module), self.head)

    @property
    def theirs(self) -> Any:
        """Its counterpart in transformers."""
        return getattr(transformers, self.head)

    @property
    def is_decoder(self) -> bool:
        """Whether it decodes with a cache."""
        return self.head in self.family.decoders


def llama_like(
    name: str,
    changes: Mapping[str, Any],
    heads: int | Mapping[str, Mapping[str, Any]] = 4,
    variants: Mapping[str, tuple[str, Mapping[str, Any]]] | None = None,
) -> Family:
    """A descendant of Llama: its configuration beside that of all, and its heads or how many of the usual ones."""
    tasks = ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
    if isinstance(heads, int):
        heads = {name + task: {"num_labels": 2} if "Question" in task else {} for task in tasks[: heads + 1]}
    common = {
        "vocab_size": 35,
        "hidden_size": 36,
        "num_hidden_layers": 3,
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
    return Family(module, values, heads, tuple(head for head in heads if "CausalLM" in head), variants or {})


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
    # With padding on the left transformers counts cached positions from the padding on, which no one can mean.
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
    ),
    "mistral": llama_like(
        "Mistral",
        {"sliding_window": 3},
        variants={"no-window": ("MistralForCausalLM", {"sliding_window": None, "tie_word_embeddings": True})},
    ),
    "qwen2": llama_like(
        "Qwen2",
        {"head_dim": None},
        variants={
            "windows": ("Qwen2ForCausalLM", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1})
        },
    ),
    "qwen3": llama_like("Qwen3", {}, variants={"biased": ("Qwen3ForCausalLM", {"attention_bias": True})}),
    "smollm3": llama_like(
        "SmolLM3",
        {"head_dim": None, "no_rope_layer_interval": 2},
        variants={"windows": ("SmolLM3ForCausalLM", {"use_sliding_window": True, "sliding_window": 3})},
    ),
    "gemma": llama_like("Gemma", {}, heads=3),
    "gemma2": llama_like(
        "Gemma2",
        {
            "sliding_window": 3,
            "query_pre_attn_scalar": 11,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
        heads=3,
    ),
    "gemma3_text": llama_like(
        "Gemma3",
        {"sliding_window": 3, "query_pre_attn_scalar": 11, "layer_types": ["sliding_attention", "full_attention"] * 2}
        | {"num_hidden_layers": 4},
        heads={"Gemma3TextModel": {}, "Gemma3ForCausalLM": {}, "Gemma3TextForSequenceClassification": {}},
    ),
    "phi3": llama_like(
        "Phi3",
        {"head_dim": None, "hidden_size": 48, "resid_pdrop": 0.2, "sliding_window": 5}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}},
        heads=3,
    ),
    "olmo2": llama_like("Olmo2", {"head_dim": None}, heads=2),
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
    ),
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
"""Every architecture, by model type."""

HEADS = [
    Case(head, family, head, {**family.config, **extra})
    for family in FAMILIES.values()
    for head, extra in family.heads.items()
]
"""Every model class with the configuration of its family."""

CASES = HEADS + [
    Case(f"{head}-{name}", family, head, {**family.config, **changes})
    for family in FAMILIES.values()
    for name, (head, changes) in family.variants.items()
]
"""Every model class, and every variant."""


def _is_inherited(case: Case) -> bool:
    """Whether the head is that of another family, where it is tested; those of language models count as own."""
    if case not in HEADS or "LM" in case.head:
        return False
    head = next((vars(cls)["head"] for cls in case.ours.__mro__ if "head" in vars(cls)), None)
    return head is not None and head.__module__ not in (case.family.module, "flaxmodels.model")


DISTINCT = [case for case in CASES if not _is_inherited(case)]
"""All but heads of another family on the layers of this one: for tests that compile much."""

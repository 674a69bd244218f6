"""What tokenizers of a family have in common, which their files do not say.

A family is known by the "tokenizer_class" of `tokenizer_config.json`, or else by the "model_type" of `config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_MASK = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False, "special": True}
"""It takes the space before it, which the text that is masked begins with."""
_BERT = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}
_FAIRSEQ = {
    **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    **{"sep_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>", "mask_token": _MASK},
}
_GPT2 = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
_QWEN2 = {"eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
_T5 = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@dataclass(frozen=True)
class Family:
    """Tokenizers of one class of transformers.

    Attributes:
        vocabulary: "wordpiece", "byte pairs" or "sentencepiece", which says what files hold it.
        kind: how it is converted, a name in the module of its vocabulary.
        special_tokens: tokens by role, as files have them, where the files do not say others.
        has_segments: whether models take "token_type_ids".
        padding_side: where the files do not say another.
        settings: further ones, where the files do not say others.
    """

    vocabulary: str
    kind: str
    special_tokens: Mapping[str, Any]
    has_segments: bool = False
    padding_side: str = "right"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_input_names(self) -> list[str]:
        """What models take."""
        segments = ["token_type_ids"] if self.has_segments else []
        return ["input_ids", *segments, "attention_mask"]


BERT = Family("wordpiece", "bert", _BERT, has_segments=True)
_GPT = Family("byte pairs", "gpt2", _GPT2)
_ROBERTA = Family("byte pairs", "roberta", _FAIRSEQ)
_FAMILIES = {
    "BertTokenizer": BERT,
    "ElectraTokenizer": BERT,
    "DistilBertTokenizer": Family("wordpiece", "bert", _BERT),
    "MPNetTokenizer": Family("wordpiece", "mpnet", {**_FAIRSEQ, "unk_token": "[UNK]"}),
    "GPT2Tokenizer": _GPT,
    "RobertaTokenizer": _ROBERTA,
    "BartTokenizer": _ROBERTA,
    "CLIPTokenizer": Family(
        *("byte pairs", "clip", {**_GPT2, "bos_token": "<|startoftext|>", "pad_token": "<|endoftext|>"})
    ),
    "WhisperTokenizer": Family("byte pairs", "whisper", _GPT2),
    "Qwen2Tokenizer": Family(
        *("byte pairs", "qwen2", _QWEN2)
    ),
    "T5Tokenizer": Family("sentencepiece", "t5", _T5, settings={"extra_ids": 100}),
    "MT5Tokenizer": Family("sentencepiece", "t5", _T5, settings={"extra_ids": 0}),
    "AlbertTokenizer": Family(
        *("sentencepiece", "albert", {**_BERT, "unk_token": "<unk>", "pad_token": "<pad>"} | {
            "bos_token": "[CLS]", "eos_token": "[SEP]"}),
        has_segments=True,
    ),
    "XLMRobertaTokenizer": Family("sentencepiece", "xlm-roberta", _FAIRSEQ),
    "CamembertTokenizer": Family("sentencepiece", "camembert", _FAIRSEQ),
    "MBartTokenizer": Family("sentencepiece", "mbart", _FAIRSEQ, settings={"src_lang": "en_XX"}),
    "MBart50Tokenizer": Family("sentencepiece", "mbart50", _FAIRSEQ, settings={"src_lang": "en_XX"}),
    "PegasusTokenizer": Family("sentencepiece", "pegasus", {**_T5, "mask_token": "<mask_2>"}),
    "LlamaTokenizer": Family(
        *("sentencepiece", "llama", _LLAMA), padding_side="left", settings={"add_bos_token": True, "legacy": False}
    ),
    "GemmaTokenizer": Family(
        *("sentencepiece", "gemma", {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>",
                                     "pad_token": "<pad>", "mask_token": "<mask>"}),
        padding_side="left",
        settings={"add_bos_token": True},
    ),
}  # fmt: skip
_BY_MODEL_TYPE = {
    **{"bert": "BertTokenizer", "electra": "ElectraTokenizer", "distilbert": "DistilBertTokenizer"},
    **{"mpnet": "MPNetTokenizer", "gpt2": "GPT2Tokenizer", "gptj": "GPT2Tokenizer", "opt": "GPT2Tokenizer"},
    **{"roberta": "RobertaTokenizer", "roberta-prelayernorm": "RobertaTokenizer", "bart": "BartTokenizer"},
    **{"clip": "CLIPTokenizer", "clip_text_model": "CLIPTokenizer", "whisper": "WhisperTokenizer"},
    **{"qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "qwen3_moe": "Qwen2Tokenizer"},
    **{"t5": "T5Tokenizer", "mt5": "MT5Tokenizer", "umt5": "MT5Tokenizer", "albert": "AlbertTokenizer"},
    **{
        "camembert": "CamembertTokenizer",
        "xlm-roberta": "XLMRobertaTokenizer",
        "mbart": "MBartTokenizer",
        "pegasus": "PegasusTokenizer",
    },
    **{"llama": "LlamaTokenizer", "mistral": "LlamaTokenizer", "mixtral": "LlamaTokenizer", "phi3": "LlamaTokenizer"},
    **{"gemma": "GemmaTokenizer", "gemma2": "GemmaTokenizer", "gemma3_text": "GemmaTokenizer"},
}


def family_of(tokenizer_class: str | None, model_type: Any = None) -> Family | None:
    """The family of a class of transformers, or else of a type of model; None if it is not known."""
    name = tokenizer_class.removesuffix("Fast") if tokenizer_class else _BY_MODEL_TYPE.get(str(model_type))
    return _FAMILIES.get(name) if name else None


def known_classes(vocabulary: str) -> str:
    """Names of the classes with such a vocabulary, for errors."""
    return ", ".join(name for name, family in _FAMILIES.items() if family.vocabulary == vocabulary)

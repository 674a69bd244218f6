"""The table of architectures: which classes a model type has, and for which tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """One model type: the module that defines it, its configuration, and its class for each task.

    Attributes:
        module: import path.
        config: name of the configuration class.
        tasks: from the name of an `Auto...` class to that of the class it chooses.
        others: public classes that no task chooses.
    """

    module: str
    config: str
    tasks: dict[str, str]
    others: tuple[str, ...] = ()

    def load(self, name: str) -> Any:
        """The class of that name; what its models have in common where the module has no `...PreTrainedModel`."""
        module = import_module(self.module)
        if name.endswith(_BASE) and not hasattr(module, name):
            return _common_base([getattr(module, model) for model in _models_in(self.module)])
        return getattr(module, name)

    @property
    def names(self) -> list[str]:
        """All public names."""
        return [self.config, *dict.fromkeys(self.tasks.values()), *self.others]


_BASE = "PreTrainedModel"


def _models_in(module: str) -> list[str]:
    """Names of the model classes that a module has."""
    found = (architecture for architecture in ARCHITECTURES.values() if architecture.module == module)
    names = (name for each in found for name in (*each.tasks.values(), *each.others))
    return [name for name in dict.fromkeys(names) if not name.endswith(_BASE)]


def _common_base(classes: Sequence[type]) -> type:
    """The nearest class that all are or descend from."""
    return next(base for base in classes[0].__mro__ if all(issubclass(cls, base) for cls in classes))


def _of(
    module: str, name: str, tasks: Sequence[str], others: Sequence[str] = (), *, base: str = "", **own: str
) -> Architecture:
    """An architecture whose classes are called `{name}Config`, `{name}Model` and `{name}For{task}`.

    `own` gives the tasks whose class has another name, `others` are public classes that no task chooses, and `base`
    stands for `name` in `{name}PreTrainedModel`.
    """
    classes = {"AutoModel": f"{name}Model"} | {f"AutoModelFor{task}": f"{name}For{task}" for task in tasks}
    classes |= {f"AutoModelFor{task}": chosen for task, chosen in own.items()}
    further = (f"{base or name}{_BASE}", *others)
    return Architecture(f"flaxmodels.models.{module}", f"{name}Config", classes, further)


_ENCODER = ("MaskedLM", "SequenceClassification", "MultipleChoice", "TokenClassification", "QuestionAnswering")
_BOTH = ("CausalLM", *_ENCODER)
_T5 = ("SequenceClassification", "TokenClassification", "QuestionAnswering")
_DECODER = ("CausalLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")

ARCHITECTURES: dict[str, Architecture] = {
    "albert": _of("albert", "Albert", ("PreTraining", *_ENCODER)),
    "bart": _of(
        "bart",
        "Bart",
        ("CausalLM", "SequenceClassification", "QuestionAnswering"),
        Seq2SeqLM="BartForConditionalGeneration",
    ),
    "beit": _of(
        "beit",
        "Beit",
        ("ImageClassification", "SemanticSegmentation"),
        ("BeitForMaskedImageModeling",),
        Backbone="BeitBackbone",
    ),
    "bert": _of(
        "bert",
        "Bert",
        ("PreTraining", *_ENCODER, "NextSentencePrediction"),
        ("BertForCausalLM",),
        CausalLM="BertLMHeadModel",
    ),
    "camembert": _of("camembert", "Camembert", _BOTH),
    "convnext": _of("convnext", "ConvNext", ("ImageClassification",), Backbone="ConvNextBackbone"),
    "bloom": _of("bloom", "Bloom", _DECODER),
    "deit": _of(
        "deit",
        "DeiT",
        ("ImageClassification", "MaskedImageModeling"),
        ("DeiTForImageClassificationWithTeacher",),
    ),
    "dinov2": _of("dinov2", "Dinov2", ("ImageClassification",), Backbone="Dinov2Backbone"),
    "clip": _of("clip", "CLIP", ("ImageClassification",), ZeroShotImageClassification="CLIPModel"),
    "clip_text_model": _of(
        "clip", "CLIPText", (), ("CLIPTextModelWithProjection",), base="CLIP", TextEncoding="CLIPTextModel"
    ),
    "clip_vision_model": _of("clip", "CLIPVision", (), ("CLIPVisionModelWithProjection",), base="CLIP"),
    "distilbert": _of("distilbert", "DistilBert", _ENCODER),
    "electra": _of("electra", "Electra", ("PreTraining", *_BOTH)),
    "gemma": _of("gemma", "Gemma", _DECODER[:3]),
    "gemma2": _of("gemma2", "Gemma2", _DECODER[:3]),
    "gemma3_text": _of(
        "gemma3", "Gemma3Text", ("SequenceClassification",), base="Gemma3", CausalLM="Gemma3ForCausalLM"
    ),
    "gpt2": _of("gpt2", "GPT2", _DECODER[1:], ("GPT2DoubleHeadsModel",), CausalLM="GPT2LMHeadModel"),
    "gpt_neox": _of("gpt_neox", "GPTNeoX", _DECODER),
    "gpt_oss": _of("gpt_oss", "GptOss", _DECODER[:3]),
    "gptj": _of("gptj", "GPTJ", ("CausalLM", "SequenceClassification", "QuestionAnswering")),
    "granite": _of("granite", "Granite", _DECODER[:1]),
    "llama": _of("llama", "Llama", _DECODER),
    "marian": _of("marian", "Marian", ("CausalLM",), Seq2SeqLM="MarianMTModel"),
    "mbart": _of(
        "mbart",
        "MBart",
        ("CausalLM", "SequenceClassification", "QuestionAnswering"),
        Seq2SeqLM="MBartForConditionalGeneration",
    ),
    "mistral": _of("mistral", "Mistral", _DECODER),
    "mt5": _of("mt5", "MT5", _T5, Seq2SeqLM="MT5ForConditionalGeneration", TextEncoding="MT5EncoderModel"),
    "modernbert": _of("modernbert", "ModernBert", _ENCODER),
    "mpnet": _of("mpnet", "MPNet", _ENCODER),
    "mixtral": _of("mixtral", "Mixtral", _DECODER),
    "olmo2": _of("olmo2", "Olmo2", _DECODER[:2]),
    "opt": _of("opt", "OPT", ("CausalLM", "SequenceClassification", "QuestionAnswering")),
    "pegasus": _of("pegasus", "Pegasus", ("CausalLM",), Seq2SeqLM="PegasusForConditionalGeneration"),
    "phi3": _of("phi3", "Phi3", _DECODER[:3]),
    "qwen2": _of("qwen2", "Qwen2", _DECODER),
    "qwen3": _of("qwen3", "Qwen3", _DECODER),
    "resnet": _of("resnet", "ResNet", ("ImageClassification",), Backbone="ResNetBackbone"),
    "qwen3_moe": _of("qwen3_moe", "Qwen3Moe", _DECODER),
    "roberta": _of("roberta", "Roberta", _BOTH),
    "roberta-prelayernorm": _of("roberta_prelayernorm", "RobertaPreLayerNorm", _BOTH),
    "siglip": _of("siglip", "Siglip", ("ImageClassification",), ZeroShotImageClassification="SiglipModel"),
    "siglip_text_model": _of("siglip", "SiglipText", (), base="Siglip", TextEncoding="SiglipTextModel"),
    "siglip_vision_model": _of("siglip", "SiglipVision", (), base="Siglip"),
    "smollm3": _of("smollm3", "SmolLM3", _DECODER),
    "t5": _of(
        "t5",
        "T5",
        _T5,
        PreTraining="T5ForConditionalGeneration",
        Seq2SeqLM="T5ForConditionalGeneration",
        TextEncoding="T5EncoderModel",
    ),
    "umt5": _of("umt5", "UMT5", _T5, Seq2SeqLM="UMT5ForConditionalGeneration", TextEncoding="UMT5EncoderModel"),
    "vit": _of("vit", "ViT", ("ImageClassification", "MaskedImageModeling")),
    "wav2vec2": _of(
        "wav2vec2",
        "Wav2Vec2",
        ("PreTraining", "CTC", "AudioFrameClassification"),
        AudioClassification="Wav2Vec2ForSequenceClassification",
        AudioXVector="Wav2Vec2ForXVector",
    ),
    "whisper": _of(
        "whisper", "Whisper", ("CausalLM", "AudioClassification"), SpeechSeq2Seq="WhisperForConditionalGeneration"
    ),
    "xlm-roberta": _of("xlm_roberta", "XLMRoberta", _BOTH),
}
"""The architectures of the library, by model type."""

"""Which architectures exist, which class does which task, and the `Auto...` classes that choose among them."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from flaxmodels.checkpoint.mapping import check_mapping
from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import ConfigError
from flaxmodels.files.resolve import resolve, split_hub_kwargs
from flaxmodels.model import PreTrainedModel


@dataclass(frozen=True)
class Architecture:
    """One model type: the module that defines it, its configuration, and its class for each task.

    Attributes:
        module: import path.
        config: name of the configuration class.
        tasks: from the name of an `Auto...` class to that of the class it chooses.
        aliases: further public names of classes.
    """

    module: str
    config: str
    tasks: dict[str, str]
    aliases: dict[str, str] = field(default_factory=dict)

    def load(self, name: str) -> Any:
        """The class of that name."""
        return getattr(import_module(self.module), self.aliases.get(name, name))

    @property
    def names(self) -> list[str]:
        """All public names."""
        return [self.config, *dict.fromkeys(self.tasks.values()), *self.aliases]


ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(
        "flaxmodels.models.bert",
        "BertConfig",
        {
            "AutoModel": "BertModel",
            "AutoModelForPreTraining": "BertForPreTraining",
            "AutoModelForMaskedLM": "BertForMaskedLM",
            "AutoModelForCausalLM": "BertLMHeadModel",
            "AutoModelForNextSentencePrediction": "BertForNextSentencePrediction",
            "AutoModelForSequenceClassification": "BertForSequenceClassification",
            "AutoModelForMultipleChoice": "BertForMultipleChoice",
            "AutoModelForTokenClassification": "BertForTokenClassification",
            "AutoModelForQuestionAnswering": "BertForQuestionAnswering",
        },
        aliases={"BertForCausalLM": "BertLMHeadModel", "BertPreTrainedModel": "BertPreTrainedModel"},
    ),
    "roberta": Architecture(
        "flaxmodels.models.roberta",
        "RobertaConfig",
        {
            "AutoModel": "RobertaModel",
            "AutoModelForMaskedLM": "RobertaForMaskedLM",
            "AutoModelForCausalLM": "RobertaForCausalLM",
            "AutoModelForSequenceClassification": "RobertaForSequenceClassification",
            "AutoModelForMultipleChoice": "RobertaForMultipleChoice",
            "AutoModelForTokenClassification": "RobertaForTokenClassification",
            "AutoModelForQuestionAnswering": "RobertaForQuestionAnswering",
        },
        aliases={"RobertaPreTrainedModel": "RobertaPreTrainedModel"},
    ),
    "xlm-roberta": Architecture(
        "flaxmodels.models.xlm_roberta",
        "XLMRobertaConfig",
        {
            "AutoModel": "XLMRobertaModel",
            "AutoModelForMaskedLM": "XLMRobertaForMaskedLM",
            "AutoModelForCausalLM": "XLMRobertaForCausalLM",
            "AutoModelForSequenceClassification": "XLMRobertaForSequenceClassification",
            "AutoModelForMultipleChoice": "XLMRobertaForMultipleChoice",
            "AutoModelForTokenClassification": "XLMRobertaForTokenClassification",
            "AutoModelForQuestionAnswering": "XLMRobertaForQuestionAnswering",
        },
        aliases={"XLMRobertaPreTrainedModel": "XLMRobertaPreTrainedModel"},
    ),
    "distilbert": Architecture(
        "flaxmodels.models.distilbert",
        "DistilBertConfig",
        {
            "AutoModel": "DistilBertModel",
            "AutoModelForMaskedLM": "DistilBertForMaskedLM",
            "AutoModelForSequenceClassification": "DistilBertForSequenceClassification",
            "AutoModelForMultipleChoice": "DistilBertForMultipleChoice",
            "AutoModelForTokenClassification": "DistilBertForTokenClassification",
            "AutoModelForQuestionAnswering": "DistilBertForQuestionAnswering",
        },
        aliases={"DistilBertPreTrainedModel": "DistilBertPreTrainedModel"},
    ),
    "albert": Architecture(
        "flaxmodels.models.albert",
        "AlbertConfig",
        {
            "AutoModel": "AlbertModel",
            "AutoModelForPreTraining": "AlbertForPreTraining",
            "AutoModelForMaskedLM": "AlbertForMaskedLM",
            "AutoModelForSequenceClassification": "AlbertForSequenceClassification",
            "AutoModelForMultipleChoice": "AlbertForMultipleChoice",
            "AutoModelForTokenClassification": "AlbertForTokenClassification",
            "AutoModelForQuestionAnswering": "AlbertForQuestionAnswering",
        },
        aliases={"AlbertPreTrainedModel": "AlbertPreTrainedModel"},
    ),
    "llama": Architecture(
        "flaxmodels.models.llama",
        "LlamaConfig",
        {
            "AutoModel": "LlamaModel",
            "AutoModelForCausalLM": "LlamaForCausalLM",
            "AutoModelForSequenceClassification": "LlamaForSequenceClassification",
            "AutoModelForTokenClassification": "LlamaForTokenClassification",
            "AutoModelForQuestionAnswering": "LlamaForQuestionAnswering",
        },
        aliases={"LlamaPreTrainedModel": "LlamaPreTrainedModel"},
    ),
    "mistral": Architecture(
        "flaxmodels.models.mistral",
        "MistralConfig",
        {
            "AutoModel": "MistralModel",
            "AutoModelForCausalLM": "MistralForCausalLM",
            "AutoModelForSequenceClassification": "MistralForSequenceClassification",
            "AutoModelForTokenClassification": "MistralForTokenClassification",
            "AutoModelForQuestionAnswering": "MistralForQuestionAnswering",
        },
        aliases={"MistralPreTrainedModel": "MistralPreTrainedModel"},
    ),
    "qwen2": Architecture(
        "flaxmodels.models.qwen2",
        "Qwen2Config",
        {
            "AutoModel": "Qwen2Model",
            "AutoModelForCausalLM": "Qwen2ForCausalLM",
            "AutoModelForSequenceClassification": "Qwen2ForSequenceClassification",
            "AutoModelForTokenClassification": "Qwen2ForTokenClassification",
            "AutoModelForQuestionAnswering": "Qwen2ForQuestionAnswering",
        },
        aliases={"Qwen2PreTrainedModel": "Qwen2PreTrainedModel"},
    ),
    "qwen3": Architecture(
        "flaxmodels.models.qwen3",
        "Qwen3Config",
        {
            "AutoModel": "Qwen3Model",
            "AutoModelForCausalLM": "Qwen3ForCausalLM",
            "AutoModelForSequenceClassification": "Qwen3ForSequenceClassification",
            "AutoModelForTokenClassification": "Qwen3ForTokenClassification",
            "AutoModelForQuestionAnswering": "Qwen3ForQuestionAnswering",
        },
        aliases={"Qwen3PreTrainedModel": "Qwen3PreTrainedModel"},
    ),
    "smollm3": Architecture(
        "flaxmodels.models.smollm3",
        "SmolLM3Config",
        {
            "AutoModel": "SmolLM3Model",
            "AutoModelForCausalLM": "SmolLM3ForCausalLM",
            "AutoModelForSequenceClassification": "SmolLM3ForSequenceClassification",
            "AutoModelForTokenClassification": "SmolLM3ForTokenClassification",
            "AutoModelForQuestionAnswering": "SmolLM3ForQuestionAnswering",
        },
        aliases={"SmolLM3PreTrainedModel": "SmolLM3PreTrainedModel"},
    ),
    "gemma": Architecture(
        "flaxmodels.models.gemma",
        "GemmaConfig",
        {
            "AutoModel": "GemmaModel",
            "AutoModelForCausalLM": "GemmaForCausalLM",
            "AutoModelForSequenceClassification": "GemmaForSequenceClassification",
            "AutoModelForTokenClassification": "GemmaForTokenClassification",
        },
        aliases={"GemmaPreTrainedModel": "GemmaPreTrainedModel"},
    ),
    "gemma2": Architecture(
        "flaxmodels.models.gemma2",
        "Gemma2Config",
        {
            "AutoModel": "Gemma2Model",
            "AutoModelForCausalLM": "Gemma2ForCausalLM",
            "AutoModelForSequenceClassification": "Gemma2ForSequenceClassification",
            "AutoModelForTokenClassification": "Gemma2ForTokenClassification",
        },
        aliases={"Gemma2PreTrainedModel": "Gemma2PreTrainedModel"},
    ),
    "phi3": Architecture(
        "flaxmodels.models.phi3",
        "Phi3Config",
        {
            "AutoModel": "Phi3Model",
            "AutoModelForCausalLM": "Phi3ForCausalLM",
            "AutoModelForSequenceClassification": "Phi3ForSequenceClassification",
            "AutoModelForTokenClassification": "Phi3ForTokenClassification",
        },
        aliases={"Phi3PreTrainedModel": "Phi3PreTrainedModel"},
    ),
    "olmo2": Architecture(
        "flaxmodels.models.olmo2",
        "Olmo2Config",
        {
            "AutoModel": "Olmo2Model",
            "AutoModelForCausalLM": "Olmo2ForCausalLM",
            "AutoModelForSequenceClassification": "Olmo2ForSequenceClassification",
        },
        aliases={"Olmo2PreTrainedModel": "Olmo2PreTrainedModel"},
    ),
    "gemma3_text": Architecture(
        "flaxmodels.models.gemma3",
        "Gemma3TextConfig",
        {
            "AutoModel": "Gemma3TextModel",
            "AutoModelForCausalLM": "Gemma3ForCausalLM",
            "AutoModelForSequenceClassification": "Gemma3TextForSequenceClassification",
        },
        aliases={"Gemma3PreTrainedModel": "Gemma3PreTrainedModel"},
    ),
    "gpt2": Architecture(
        "flaxmodels.models.gpt2",
        "GPT2Config",
        {
            "AutoModel": "GPT2Model",
            "AutoModelForCausalLM": "GPT2LMHeadModel",
            "AutoModelForSequenceClassification": "GPT2ForSequenceClassification",
            "AutoModelForTokenClassification": "GPT2ForTokenClassification",
            "AutoModelForQuestionAnswering": "GPT2ForQuestionAnswering",
        },
        aliases={"GPT2PreTrainedModel": "GPT2PreTrainedModel"},
    ),
    "bart": Architecture(
        "flaxmodels.models.bart",
        "BartConfig",
        {
            "AutoModel": "BartModel",
            "AutoModelForSeq2SeqLM": "BartForConditionalGeneration",
            "AutoModelForSequenceClassification": "BartForSequenceClassification",
            "AutoModelForQuestionAnswering": "BartForQuestionAnswering",
        },
        aliases={"BartPreTrainedModel": "BartPreTrainedModel"},
    ),
}
"""The architectures of the library, by model type."""

_CUSTOM: dict[tuple[str, str], type] = {}


def find_class(name: str) -> Any | None:
    """The public class of that name, its old `Flax...` name included; `None` if there is none."""
    plain = name.removeprefix("Flax")
    for architecture in ARCHITECTURES.values():
        if plain in architecture.names:
            return architecture.load(plain)
    return AUTO_CLASSES.get(plain)


def _class_for(auto: str, model_type: str | None) -> type:
    if found := _CUSTOM.get((auto, model_type or "")):
        return found
    if model_type not in ARCHITECTURES:
        known = sorted({*ARCHITECTURES, *(kind for _, kind in _CUSTOM)})
        raise ConfigError(f"model_type {model_type!r} is not known: expected one of {', '.join(known)}")
    architecture = ARCHITECTURES[model_type]
    name = architecture.config if auto == "AutoConfig" else architecture.tasks.get(auto)
    if name is None:
        tasks = ", ".join(architecture.tasks)
        raise ConfigError(f"model_type {model_type!r} has no class for {auto}: it has {tasks}")
    return architecture.load(name)


class AutoConfig:
    """Chooses the configuration class by `model_type`."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **kwargs: Any) -> PreTrainedConfig:
        """The configuration of a folder, a file or a Hub id."""
        hub, overrides = split_hub_kwargs(kwargs)
        values = resolve(name_or_path, **hub).config()
        return _class_for("AutoConfig", values.get("model_type")).from_dict(values, **overrides)  # type: ignore[attr-defined]

    @classmethod
    def for_model(cls, model_type: str, **values: Any) -> PreTrainedConfig:
        """A configuration of that type with the given values."""
        return _class_for("AutoConfig", model_type)(**values)

    @classmethod
    def register(cls, model_type: str, config_class: type[PreTrainedConfig]) -> None:
        """Make `config_class` known under `model_type`."""
        _register("AutoConfig", model_type, config_class)


class AutoModel:
    """Chooses the model class for a task by the `model_type` of the configuration. This one: no head."""

    def __init__(self, *args: Any, **kwargs: Any):
        raise TypeError(f"{type(self).__name__} is made by from_pretrained() or from_config()")

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        """Load the model of a folder, a file or a Hub id: `PreTrainedModel.from_pretrained` of its class."""
        if config is None:
            hub, _ = split_hub_kwargs(kwargs)
            config = resolve(name_or_path, **hub).named(kwargs.get("gguf_file")).config()
        return cls._class(config).from_pretrained(name_or_path, *args, config=config, **kwargs)

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> Any:
        """A freshly initialised model."""
        return cls._class(config)(config, **kwargs)

    @classmethod
    def register(cls, config_class: type[PreTrainedConfig], model_class: type[PreTrainedModel]) -> None:
        """Make `model_class` the choice for configurations of `config_class`.

        Raises:
            ValueError: the mapping between its parameters and torch's names is not a bijection.
        """
        check_mapping(model_class.abstract(config_class()))
        _register(cls.__name__, config_class.model_type, model_class)

    @classmethod
    def _class(cls, config: Any) -> Any:
        model_type = config.get("model_type") if isinstance(config, dict) else config.model_type
        return _class_for(cls.__name__, model_type)


def _register(auto: str, model_type: str, new: type) -> None:
    if model_type in ARCHITECTURES or (auto, model_type) in _CUSTOM:
        raise ConfigError(f"{auto} has a class for model_type {model_type!r} already: choose another model_type")
    _CUSTOM[auto, model_type] = new


_TASKS = (
    "PreTraining",
    "MaskedLM",
    "CausalLM",
    "Seq2SeqLM",
    "NextSentencePrediction",
    "SequenceClassification",
    "MultipleChoice",
    "TokenClassification",
    "QuestionAnswering",
)
AUTO_CLASSES: dict[str, type] = {"AutoConfig": AutoConfig, "AutoModel": AutoModel} | {
    f"AutoModelFor{task}": type(
        f"AutoModelFor{task}", (AutoModel,), {"__doc__": f"Chooses the model class with a head for {task}."}
    )
    for task in _TASKS
}
"""All `Auto...` classes, by name."""

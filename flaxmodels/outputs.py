"""What models return: frozen pytrees that are read by attribute, by key, or like the tuple of what they hold."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar, dataclass_transform

import jax

from flaxmodels.nn.cache import Cache

Output = TypeVar("Output", bound="ModelOutput")


@dataclass_transform(kw_only_default=True, frozen_default=True)
class ModelOutput:
    """Base of all outputs. A subclass is a frozen dataclass and a JAX pytree by being defined."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)
        jax.tree_util.register_dataclass(cls, list(cls._ordered()), [])

    @classmethod
    def _ordered(cls) -> tuple[str, ...]:
        """Names of the fields: what an output always has comes before what it has if asked for."""
        every = fields(cls)  # pyright: ignore[reportArgumentType]  # subclasses are dataclasses
        return tuple(field.name for field in sorted(every, key=lambda field: field.default is None))

    def keys(self) -> tuple[str, ...]:
        """Names of the values that are present; what a class always has comes first."""
        return tuple(name for name in self._ordered() if getattr(self, name) is not None)

    def to_tuple(self) -> tuple[Any, ...]:
        """The values that are present, in order; those that are outputs as tuples too."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())

    def values(self) -> tuple[Any, ...]:
        """The values that are present, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Names and values of what is present, in order."""
        return tuple(zip(self.keys(), self.values(), strict=True))

    def to(self, kind: type[Output], **values: Any) -> Output:
        """A `kind` with `values` and whatever else of this output it has fields for: what a head returns."""
        shared = set(kind._ordered()) & set(self._ordered())
        return kind(**{name: getattr(self, name) for name in shared} | values)

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self):
        return iter(self.keys())

    def __contains__(self, key: str) -> bool:
        return key in self.keys()

    def __len__(self) -> int:
        return len(self.keys())


Layers = tuple[jax.Array, ...]
"""One array a layer (hidden states: the embeddings' first, so one more)."""


class BaseModelOutput(ModelOutput):
    """`last_hidden_state` `[batch, q_len, hidden]`; `hidden_states` the same for each layer, the embeddings' first;
    `attentions` `[batch, heads, q_len, kv_len]` for each layer; `past_key_values` the cache with these tokens in it.
    """

    last_hidden_state: jax.Array
    past_key_values: Cache | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    cross_attentions: Layers | None = None


class BaseModelOutputWithPooling(ModelOutput):
    """As `BaseModelOutput`, with `pooler_output` `[batch, hidden]`: one vector for the whole sequence."""

    last_hidden_state: jax.Array
    pooler_output: jax.Array | None = None
    past_key_values: Cache | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    cross_attentions: Layers | None = None


class Wav2Vec2BaseModelOutput(ModelOutput):
    """`last_hidden_state` `[batch, frames, hidden]`; `extract_features` `[batch, frames, channels]`, the normalised
    features of the audio that the encoder read; `hidden_states` and `attentions` as in `BaseModelOutput`.
    """

    last_hidden_state: jax.Array
    extract_features: jax.Array
    hidden_states: Layers | None = None
    attentions: Layers | None = None


class _OfLayers(ModelOutput):
    """What an encoder's layers give beside the output of a head."""

    hidden_states: Layers | None = None
    attentions: Layers | None = None


class _OfTwoTowers(ModelOutput):
    """What an encoder and a decoder give beside the output of a head."""

    past_key_values: Cache | None = None
    decoder_hidden_states: Layers | None = None
    decoder_attentions: Layers | None = None
    cross_attentions: Layers | None = None
    encoder_last_hidden_state: jax.Array | None = None
    encoder_hidden_states: Layers | None = None
    encoder_attentions: Layers | None = None


class Seq2SeqModelOutput(_OfTwoTowers):
    """Of an encoder and a decoder: `last_hidden_state` `[batch, q_len, hidden]` and what is named `decoder_...` are the
    decoder's; `encoder_last_hidden_state` `[batch, source_len, hidden]`; `cross_attentions`
    `[batch, heads, q_len, source_len]` for each layer of the decoder.
    """

    last_hidden_state: jax.Array


class Seq2SeqLMOutput(_OfTwoTowers):
    """`logits` `[batch, q_len, vocab]` of the next token at each position of the decoder's sequence."""

    logits: jax.Array


class Seq2SeqSequenceClassifierOutput(_OfTwoTowers):
    """`logits` `[batch, num_labels]`."""

    logits: jax.Array


class Seq2SeqQuestionAnsweringOutput(_OfTwoTowers):
    """`start_logits` and `end_logits`, `[batch, q_len]`."""

    start_logits: jax.Array
    end_logits: jax.Array


class CausalLMOutput(ModelOutput):
    """`logits` `[batch, q_len, vocab]` of the next token at each position."""

    logits: jax.Array
    past_key_values: Cache | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    cross_attentions: Layers | None = None


class DoubleHeadsOutput(ModelOutput):
    """`logits` `[batch, num_choices, q_len, vocab]` of the next token at each position of each sequence, and
    `mc_logits` `[batch, num_choices]` of the choices.
    """

    logits: jax.Array
    mc_logits: jax.Array
    past_key_values: Cache | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


class MoeModelOutput(ModelOutput):
    """As `BaseModelOutput`, with `router_logits` float32 `[batch * q_len, experts]` for each layer that has experts."""

    last_hidden_state: jax.Array
    past_key_values: Cache | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    router_logits: Layers | None = None


class MoeCausalLMOutput(ModelOutput):
    """As `CausalLMOutput`, with `router_logits` as in `MoeModelOutput`, and `aux_loss`, a number that is the smaller
    the more evenly the tokens are spread over the experts: both if router logits are asked for.
    """

    logits: jax.Array
    aux_loss: jax.Array | None = None
    past_key_values: Cache | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    router_logits: Layers | None = None


class MaskedLMOutput(_OfLayers):
    """`logits` `[batch, q_len, vocab]` of the token at each position."""

    logits: jax.Array


class PreTrainingOutput(_OfLayers):
    """`prediction_logits` `[batch, q_len, vocab]` and `seq_relationship_logits` `[batch, 2]`."""

    prediction_logits: jax.Array
    seq_relationship_logits: jax.Array


class ReplacedTokensOutput(_OfLayers):
    """`logits` `[batch, q_len]`, above 0 where a token seems to have been replaced."""

    logits: jax.Array


class SentenceOrderOutput(_OfLayers):
    """`prediction_logits` `[batch, q_len, vocab]` and `sop_logits` `[batch, num_labels]`."""

    prediction_logits: jax.Array
    sop_logits: jax.Array


class SequenceClassifierOutput(_OfLayers):
    """`logits` `[batch, num_labels]`."""

    logits: jax.Array


class TokenClassifierOutput(_OfLayers):
    """`logits` `[batch, q_len, num_labels]`."""

    logits: jax.Array


class MultipleChoiceOutput(_OfLayers):
    """`logits` `[batch, num_choices]`."""

    logits: jax.Array


class QuestionAnsweringOutput(_OfLayers):
    """`start_logits` and `end_logits`, `[batch, q_len]`."""

    start_logits: jax.Array
    end_logits: jax.Array


class ImageModelOutput(ModelOutput):
    """Of a convolutional network: `last_hidden_state` `[batch, channels, height, width]`; `pooler_output` its mean over
    space, as transformers shapes it; `hidden_states` like the first, for the stem and each stage; `batch_stats` the
    running statistics after a batch of training.
    """

    last_hidden_state: jax.Array
    pooler_output: jax.Array
    hidden_states: Layers | None = None
    batch_stats: dict[str, Any] | None = None


class ImageClassifierOutput(_OfLayers):
    """`logits` `[batch, num_labels]`; `batch_stats` as in `ImageModelOutput`."""

    logits: jax.Array
    batch_stats: dict[str, Any] | None = None


class ImageClassifierWithTeacherOutput(_OfLayers):
    """`logits` `[batch, num_labels]`, the mean of those of the class token and of the distillation token."""

    logits: jax.Array
    cls_logits: jax.Array
    distillation_logits: jax.Array


class SemanticSegmenterOutput(_OfLayers):
    """`logits` `[batch, num_labels, height, width]`, smaller than the image; in training also those of an auxiliary
    head, and `batch_stats` as in `ImageModelOutput`.
    """

    logits: jax.Array
    auxiliary_logits: jax.Array | None = None
    batch_stats: dict[str, Any] | None = None


class MaskedImageModelingOutput(_OfLayers):
    """`reconstruction` `[batch, channels, height, width]`, the image; `loss`, if patches were masked, their error."""

    reconstruction: jax.Array
    loss: jax.Array | None = None


class BackboneOutput(_OfLayers):
    """`feature_maps`, `[batch, channels, height, width]` of each stage that was asked for; `batch_stats` as in
    `ImageModelOutput`.
    """

    feature_maps: Layers
    batch_stats: dict[str, Any] | None = None


class TextEmbeddingOutput(_OfLayers):
    """`text_embeds` `[batch, projection]`: one vector for a text, beside `last_hidden_state` `[batch, len, hidden]`."""

    text_embeds: jax.Array
    last_hidden_state: jax.Array


class ImageEmbeddingOutput(_OfLayers):
    """`image_embeds` `[batch, projection]`, and `last_hidden_state` `[batch, patches, hidden]` of the image."""

    image_embeds: jax.Array
    last_hidden_state: jax.Array


class ImageTextOutput(ModelOutput):
    """How well images and texts fit: `logits_per_image` `[images, texts]`, and its transpose `logits_per_text`.

    `text_embeds` `[texts, projection]` and `image_embeds` `[images, projection]` are of length one; the outputs of the
    towers, which may be of other batch sizes, hold them unscaled as `pooler_output`.
    """

    logits_per_image: jax.Array
    logits_per_text: jax.Array
    text_embeds: jax.Array
    image_embeds: jax.Array
    text_model_output: BaseModelOutputWithPooling
    vision_model_output: BaseModelOutputWithPooling


class Wav2Vec2ForPreTrainingOutput(_OfLayers):
    """`projected_states` and `projected_quantized_states`, `[batch, frames, features]`, which the contrastive loss
    compares; `codevector_perplexity` `[]`, of the choices among code vectors.
    """

    projected_states: jax.Array
    projected_quantized_states: jax.Array
    codevector_perplexity: jax.Array


class XVectorOutput(_OfLayers):
    """`logits` and `embeddings`, `[batch, features]`, of the voice that speaks."""

    logits: jax.Array
    embeddings: jax.Array

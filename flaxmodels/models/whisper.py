"""Whisper (arXiv 2212.04356): an encoder of audio and a decoder of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.bases.encoder_decoder import EncoderDecoderBase, EncoderDecoderConfig, EncoderDecoderModel, TextStack
from flaxmodels.bases.encoder_decoder_heads import DecoderOnlyForCausalLM, EncoderDecoderForConditionalGeneration
from flaxmodels.bases.transformer import LayerSpec, pre_norm
from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution.inputs import Input, last_hidden_state
from flaxmodels.fields import (
    Activation,
    Count,
    Layers,
    Length,
    Rate,
    Scale,
    Size,
    SpecialId,
    SpecialIds,
    TokenId,
    VocabSize,
)
from flaxmodels.generation import whisper
from flaxmodels.generation.config import GenerationConfig
from flaxmodels.models.bart import BartLayer, bart_layer_spec
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.cache import Cache
from flaxmodels.nn.conv import Conv1d
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.embedding import Embedding
from flaxmodels.nn.heads import weighted_layers
from flaxmodels.nn.initializers import Initializer, constant, normal
from flaxmodels.nn.module import Module, fresh, param
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.spec_augment import span_mask
from flaxmodels.nn.stack import Stack, StackOutput
from flaxmodels.outputs import BaseModelOutput, Seq2SeqModelOutput, SequenceClassifierOutput
from flaxmodels.parameters import Params
from flaxmodels.policy import Policy

STRIDE = 2
"""Frames of the input for each position of the encoder."""


class WhisperConfig(EncoderDecoderConfig):
    """Configuration of Whisper; the defaults are those of whisper-tiny.en."""

    model_type = "whisper"
    attribute_map = {
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
        "max_position_embeddings": "max_target_positions",
    }
    multiples = (("d_model", "encoder_attention_heads"), ("d_model", "decoder_attention_heads"))

    vocab_size: VocabSize = 51865
    num_mel_bins: Size = 80
    encoder_layers: Layers = 4
    encoder_attention_heads: Size = 6
    decoder_layers: Layers = 4
    decoder_attention_heads: Size = 6
    decoder_ffn_dim: Size = 1536
    encoder_ffn_dim: Size = 1536
    encoder_layerdrop: Rate = 0.0
    decoder_layerdrop: Rate = 0.0
    decoder_start_token_id: TokenId | None = 50257
    use_cache: bool = True
    activation_function: Activation = "gelu"
    d_model: Size = 384
    dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    activation_dropout: Rate = 0.0
    init_std: Scale = 0.02
    scale_embedding: bool = False
    max_source_positions: Length = 1500
    max_target_positions: Length = 448
    pad_token_id: SpecialId | None = 50256
    bos_token_id: SpecialId | None = 50256
    eos_token_id: SpecialIds | None = 50256
    suppress_tokens: Sequence[SpecialId] | None = None
    begin_suppress_tokens: Sequence[SpecialId] | None = (220, 50256)
    use_weighted_layer_sum: bool = False
    classifier_proj_size: Size = 256
    apply_spec_augment: bool = False
    mask_time_prob: Rate = 0.05
    mask_time_length: Length = 10
    mask_time_min_masks: Count = 2
    mask_feature_prob: Rate = 0.0
    mask_feature_length: Length = 10
    mask_feature_min_masks: Count = 0
    median_filter_width: Size = 7

    def validation_errors(self) -> list[str]:
        found = super().validation_errors()
        if self.d_model % 2:
            found.append(f"d_model={self.d_model} is odd, but positions are pairs of sines and cosines")
        return found

    @property
    def embedding_init(self) -> Initializer:
        return normal(self.init_std)

    def layer_spec(self, *, decodes: bool) -> LayerSpec:
        """The numbers of a layer of the encoder, or of the decoder."""
        return bart_layer_spec(self, decodes=decodes, without_bias=("key",))


class WhisperLayer(BartLayer):
    """A layer with norms before its parts, without biases of keys."""

    residual = staticmethod(pre_norm)


def sinusoids(key: jax.Array, shape: Any, dtype: Any = None, out_sharding: Any = None) -> jax.Array:
    """Positions `[length, features]`: sines, then cosines, of wavelengths from 2 pi to 10000 * 2 pi."""
    length, half = shape[0], shape[1] // 2
    angles = np.arange(length)[:, None] * np.exp(-np.log(10000) / max(half - 1, 1) * np.arange(half))[None]
    return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), dtype)


class WhisperEncoder(Module):
    """From log-mel spectra, by two convolutions, to hidden states. Its positions are not trained."""

    def __init__(self, config: WhisperConfig, policy: Policy):
        self.dropout_rate, self.source_shape = config.dropout, source_shape(config)
        init, spec = normal(config.init_std), config.layer_spec(decodes=False)
        self.conv1 = Conv1d(config.num_mel_bins, config.d_model, 3, policy, padding=1, init=init)
        self.conv2 = Conv1d(config.d_model, config.d_model, 3, policy, stride=STRIDE, padding=1, init=init)
        self.embed_positions = Embedding(config.max_source_positions, config.d_model, policy, init=sinusoids)
        self.layers = Stack(lambda: WhisperLayer(spec, policy), config.encoder_layers, policy)
        self.layer_norm = spec.norm(policy)

    def __call__(
        self,
        input_features: jax.Array | None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutput:
        """Encode float `[batch, num_mel_bins, 2 * max_source_positions]`.

        Raises:
            FlaxModelsError: an input of another shape, or none.
        """
        if input_features is None or input_features.shape[1:] != self.source_shape:
            shape = None if input_features is None else input_features.shape
            mel, frames = self.source_shape
            raise FlaxModelsError(
                f"input_features: expected [batch, {mel}, {frames}], got {shape}; fill shorter audio with silence, as "
                "the feature extractor does"
            )
        frames = get_activation("gelu")(self.conv1(jnp.swapaxes(jnp.asarray(input_features), 1, 2)))
        frames = get_activation("gelu")(self.conv2(frames))
        positions = jax.lax.stop_gradient(self.embed_positions.embedding[...]).astype(frames.dtype)
        keys = split_key(dropout_rng, 2)
        outputs = self.layers(
            dropout(frames + positions[None], self.dropout_rate, keys[0]),
            dropout_rng=keys[1],
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        return BaseModelOutput(**outputs.normalised(self.layer_norm)._asdict())


class WhisperDecoder(TextStack):
    """From tokens to hidden states, with attention to `encoder_hidden_states` if there are any."""

    def __init__(self, config: WhisperConfig, policy: Policy):
        self.decodes, self.dropout_rate = True, config.dropout
        init, spec = normal(config.init_std), config.layer_spec(decodes=True)
        self.embed_tokens = Embedding(config.vocab_size, config.d_model, policy, init=init)
        self.embed_positions = Embedding(config.max_target_positions, config.d_model, policy, init=init)
        self.layers = Stack(lambda: WhisperLayer(spec, policy, crosses=True), config.decoder_layers, policy)
        self.layer_norm = spec.norm(policy)

    def finish(self, outputs: StackOutput, dropout_rng: jax.Array | None) -> StackOutput:
        return outputs.normalised(self.layer_norm)


def source_shape(config: WhisperConfig) -> tuple[int, int]:
    """Mel bands and frames of what the encoder reads: 30 seconds."""
    return config.num_mel_bins, STRIDE * config.max_source_positions


def augmented(
    input_features: jax.Array, attention_mask: jax.Array | None, config: WhisperConfig, key: jax.Array
) -> jax.Array:
    """The spectra `[batch, bands, frames]` with spans of time, and of bands, silenced."""
    lengths = None if attention_mask is None else attention_mask.sum(-1)
    batch, bands, frames = input_features.shape
    time_key, band_key = jax.random.split(key)
    if config.mask_time_prob > 0:
        spans = (config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks)
        silent = span_mask(time_key, (batch, frames), *spans, lengths)
        input_features = jnp.where(silent[:, None, :], 0.0, input_features)
    if config.mask_feature_prob > 0:
        spans = (config.mask_feature_prob, config.mask_feature_length, config.mask_feature_min_masks)
        silent = span_mask(band_key, (batch, bands), *spans)
        input_features = jnp.where(silent[:, :, None], 0.0, input_features)
    return input_features


class WhisperModel(EncoderDecoderBase):
    """Encoder and decoder without a head."""

    config_class = WhisperConfig
    base_model_prefix = "model"
    main_input_name = "input_features"
    tp_plan = {"(q_proj|k_proj|v_proj|fc1|proj_out)": COLUMN, "(out_proj|fc2|embed_tokens)": ROW}
    input_embeddings = "decoder.embed_tokens"
    expected_inputs = {"attention_mask": Input("zeros and ones", "batch frames")}

    def setup(self, config: WhisperConfig, policy: Policy) -> None:
        self.encoder = WhisperEncoder(config, policy)
        self.decoder = WhisperDecoder(config, policy)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # inputs are of another name
        self,
        input_features: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        decoder_input_ids: jax.Array | None = None,
        decoder_attention_mask: jax.Array | None = None,
        decoder_position_ids: jax.Array | None = None,
        encoder_outputs: Any = None,
        past_key_values: Cache | None = None,
        decoder_inputs_embeds: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> Seq2SeqModelOutput:
        """Encode, and decode with attention to what was encoded.

        Args:
            input_features: log-mel spectra, float `[batch, num_mel_bins, 2 * max_source_positions]`.
            attention_mask: `[batch, 2 * max_source_positions]`, 0 after the audio. Silence is read as well, so that
                this matters for SpecAugment alone.
            decoder_input_ids: int `[batch, q_len]`, or `decoder_inputs_embeds`.
            decoder_attention_mask, decoder_position_ids, encoder_outputs, past_key_values: as in
                `EncoderDecoderBase.forward`.
        """
        options: dict[str, Any] = {
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
        }
        augment_key, encoder_key, decoder_key = split_key(dropout_rng, 3)
        if encoder_outputs is None and not (past_key_values is not None and past_key_values[0][1] is not None):
            if input_features is not None and self.config.apply_spec_augment and augment_key is not None:
                input_features = augmented(jnp.asarray(input_features), attention_mask, self.config, augment_key)
            encoder_outputs = self.encoder(input_features, **options, dropout_rng=encoder_key)
        return super().forward(
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            decoder_position_ids=decoder_position_ids,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            decoder_inputs_embeds=decoder_inputs_embeds,
            **options,
            dropout_rng=decoder_key,
        )


class WhisperForConditionalGeneration(EncoderDecoderForConditionalGeneration):
    """Transcription and translation: the next token of the text. `generate` takes the settings of Whisper."""

    base_class = WhisperModel
    output_projection = "proj_out"

    @property
    def source_shape(self) -> tuple[int, int]:
        """Mel bands and frames that the encoder reads."""
        return source_shape(self.config)

    def empty_prompt(self, batch_size: int, prompt_len: int) -> dict[str, np.ndarray]:
        return {self.main_input_name: np.zeros((batch_size, *self.source_shape), np.float32)}

    def begin_decoding(
        self, encoder: dict[str, np.ndarray], settings: GenerationConfig, decoder_input_ids: Any, params: Params | None
    ) -> tuple[GenerationConfig, Any]:
        def detect() -> np.ndarray:
            return self.detect_language(**encoder, generation_config=settings, params=params)

        batch = len(encoder[self.main_input_name])
        return whisper.begin(settings, decoder_input_ids, batch, self.config.max_target_positions, detect)

    def detect_language(
        self, input_features: Any, generation_config: Any = None, params: Params | None = None
    ) -> np.ndarray:
        """The token of the language that is spoken, int `[batch]`: the likeliest of `lang_to_id` after the start."""
        settings = GenerationConfig.from_any(generation_config or self.generation_config)
        if not settings.lang_to_id:
            raise FlaxModelsError("detect_language() needs lang_to_id in generation_config")
        start = np.full((len(input_features), 1), settings.decoder_start_token_id)
        logits = self(input_features, decoder_input_ids=start, params=params, train=False).logits[:, -1]
        languages = np.array(sorted(settings.lang_to_id.values()))
        return languages[np.asarray(logits[:, languages].argmax(-1))]


class WhisperDecoderWrapper(EncoderDecoderModel):
    """The decoder alone, under the names that it has in a whole model."""

    base_class = WhisperModel
    main_input_name = "input_ids"
    input_embeddings = "decoder.embed_tokens"
    position_embeddings = "decoder.embed_positions"

    def setup(self, config: WhisperConfig, policy: Policy) -> None:
        self.decoder = WhisperDecoder(config, policy)

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        encoder_outputs: Any = None,
        past_key_values: Cache | None = None,
        inputs_embeds: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutput:
        """Decode.

        Args:
            input_ids: int `[batch, q_len]`; or `inputs_embeds` `[batch, q_len, hidden]` in its place.
            attention_mask: `[batch, kv_len]`, 0 for padding; with a cache of all tokens from the first on.
            encoder_outputs: what an encoder returned, or its last hidden states `[batch, source_len, hidden]`.
            past_key_values: from `init_cache` or an earlier output.
            position_ids: int `[batch, q_len]`; 0, 1, ... after the cache.
        """
        return self.decoder(
            input_ids,
            attention_mask,
            position_ids,
            inputs_embeds,
            last_hidden_state(encoder_outputs),
            past_key_values=past_key_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            dropout_rng=dropout_rng,
        )


class WhisperForCausalLM(DecoderOnlyForCausalLM):
    """The decoder as a language model, with cross-attention where `encoder_outputs` are given."""

    base_class = WhisperDecoderWrapper
    output_projection = "proj_out"
    config_changes = {"is_encoder_decoder": False}


class WhisperForAudioClassification(EncoderDecoderModel):
    """A label for a recording, by the mean over time of the encoder's output, or of all its layers."""

    base_class = WhisperModel
    input_embeddings = "encoder.conv1"

    def setup(self, config: WhisperConfig, policy: Policy):
        init, states = normal(config.init_std), config.encoder_layers + 1
        self.encoder = WhisperEncoder(config, policy)
        if config.use_weighted_layer_sum:
            self.layer_weights = fresh(param((states,), policy.param_dtype, constant(1 / states)))
        self.projector = fresh(Linear(config.d_model, config.classifier_proj_size, policy, init=init))
        self.classifier = fresh(Linear(config.classifier_proj_size, config.num_labels, policy, init=init))

    def forward(
        self,
        input_features: jax.Array | None = None,
        encoder_outputs: Any = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> SequenceClassifierOutput:
        """Classify.

        Args:
            input_features: float `[batch, num_mel_bins, 2 * max_source_positions]`.
            encoder_outputs: what the encoder returned, in their place; with all its hidden states if
                `use_weighted_layer_sum`.
        """
        weighted = self.config.use_weighted_layer_sum
        encoded: Any = encoder_outputs
        if encoded is None:
            encoded = self.encoder(
                input_features,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states or weighted,
                dropout_rng=dropout_rng,
            )
        states = encoded.last_hidden_state
        if weighted:
            states = weighted_layers(self.layer_weights[...], encoded.hidden_states)
        logits = self.classifier(self.projector(states).mean(1))
        return encoded.to(SequenceClassifierOutput, logits=logits)

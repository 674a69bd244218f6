"""Models that read audio."""

from __future__ import annotations

from typing import Any

import numpy as np
from models.family import MASK, Family


def whisper_batch(config: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Spectra and texts; of the decoder alone, texts and what an encoder would return."""
    ids = rng.choice([token for token in range(config.vocab_size) if token != config.pad_token_id], MASK.shape)
    if not config.is_encoder_decoder:
        encoder_outputs = rng.normal(size=(len(MASK), 5, config.d_model)).astype(np.float32)
        return {"input_ids": ids, "attention_mask": MASK, "encoder_outputs": encoder_outputs}
    spectra = rng.normal(size=(len(MASK), config.num_mel_bins, 2 * config.max_source_positions)).astype(np.float32)
    mask = np.sort(MASK, axis=1)[:, ::-1].copy()  # a position that sees no other has no gradient here, and one in torch
    return {"input_features": spectra, "decoder_input_ids": ids, "decoder_attention_mask": mask}


def wav2vec2_batch(config: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Sounds of different lengths, and frames to be masked."""
    lengths = np.array([120, 80, 101])
    mask = (np.arange(lengths.max())[None] < lengths[:, None]).astype(np.int64)
    values = rng.normal(size=mask.shape).astype(np.float32) * mask
    batch = {"input_values": values.astype(np.float32), "attention_mask": mask}
    if config.mask_time_prob > 0:
        batch["mask_time_indices"] = rng.random((len(mask), config.frames(lengths.max()))) < 0.4
    return batch


FAMILIES = {
    "whisper": Family(
        module="flaxmodels.models.whisper",
        config={
            "vocab_size": 61,
            "num_mel_bins": 5,
            "max_source_positions": 11,
            "max_target_positions": 29,
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
            "classifier_proj_size": 14,
            "decoder_start_token_id": 40,
            "pad_token_id": 39,
            "bos_token_id": 39,
            "eos_token_id": 39,
            "begin_suppress_tokens": [3, 39],
            "num_labels": 5,
        },
        heads={
            "WhisperModel": {},
            "WhisperForConditionalGeneration": {},
            "WhisperForCausalLM": {"is_encoder_decoder": False},
            "WhisperForAudioClassification": {},
        },
        decoders=("WhisperForCausalLM",),
        variants={
            "untied": (
                "WhisperForConditionalGeneration",
                {"tie_word_embeddings": False, "activation_function": "relu"},
            ),
            "augmented": (
                "WhisperModel",
                {
                    "apply_spec_augment": True,
                    "mask_time_length": 3,
                    "mask_feature_prob": 0.3,
                    "mask_feature_length": 2,
                    "scale_embedding": True,
                },
            ),
            "all-layers": ("WhisperForAudioClassification", {"use_weighted_layer_sum": True}),
        },
        inputs=whisper_batch,
        published={"whisper-tiny": ("WhisperForConditionalGeneration", 37_760_640)},
    ),
    "wav2vec2": Family(
        module="flaxmodels.models.wav2vec2",
        config={
            "vocab_size": 17,
            "hidden_size": 36,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 27,
            "conv_dim": [7, 6, 8],
            "conv_kernel": [4, 3, 2],
            "conv_stride": [3, 2, 2],
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 3,
            "hidden_dropout": 0.2,
            "feat_proj_dropout": 0.1,
            "mask_time_length": 3,
            "mask_feature_prob": 0.2,
            "mask_feature_length": 4,
            "num_codevectors_per_group": 5,
            "num_codevector_groups": 2,
            "codevector_dim": 14,
            "proj_codevector_dim": 11,
            "classifier_proj_size": 13,
            "tdnn_dim": [10, 9, 8],
            "tdnn_kernel": [3, 2, 1],
            "tdnn_dilation": [1, 2, 1],
            "xvector_output_dim": 12,
            "num_labels": 5,
        },
        heads={
            "Wav2Vec2Model": {},
            "Wav2Vec2ForPreTraining": {},
            "Wav2Vec2ForCTC": {},
            "Wav2Vec2ForSequenceClassification": {},
            "Wav2Vec2ForAudioFrameClassification": {},
            "Wav2Vec2ForXVector": {},
        },
        decoders=(),
        variants={
            "stable": (
                "Wav2Vec2ForCTC",
                {
                    "feat_extract_norm": "layer",
                    "do_stable_layer_norm": True,
                    "conv_bias": True,
                    "num_conv_pos_embeddings": 5,
                    "adapter_attn_dim": 10,
                    "layer_norm_eps": 1e-3,
                },
            ),
            "adapted": ("Wav2Vec2ForCTC", {"add_adapter": True, "output_hidden_size": 18, "num_adapter_layers": 2}),
            "adapted-equal": (
                "Wav2Vec2ForXVector",
                {"add_adapter": True, "num_adapter_layers": 1, "tdnn_kernel": [1, 2, 1]},
            ),
            "unmasked": (
                "Wav2Vec2Model",
                {
                    "mask_time_prob": 0.0,
                    "mask_feature_prob": 0.0,
                    "hidden_act": "relu",
                    "feat_extract_activation": "gelu_new",
                },
            ),
            "unaugmented": ("Wav2Vec2Model", {"apply_spec_augment": False}),
            "all-layers": (
                "Wav2Vec2ForSequenceClassification",
                {"use_weighted_layer_sum": True, "do_stable_layer_norm": True},
            ),
            "all-layers-of-frames": ("Wav2Vec2ForAudioFrameClassification", {"use_weighted_layer_sum": True}),
            "all-layers-of-a-voice": ("Wav2Vec2ForXVector", {"use_weighted_layer_sum": True}),
        },
        older_names={
            "parametrizations.weight.original0": "weight_g",
            "parametrizations.weight.original1": "weight_v",
        },
        inputs=wav2vec2_batch,
        published={"wav2vec2-base-960h": ("Wav2Vec2ForCTC", 94_396_320)},
    ),
}

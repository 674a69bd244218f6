"""Vision transformers. Images are odd in size where an architecture takes such, and channels are not three."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from models.family import Family

BATCH = 3


def images(config: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random pixels of the size that the configuration names, channels first."""
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return {"pixel_values": rng.normal(size=(BATCH, config.num_channels, height, width)).astype(np.float32)}


def masks(config: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A third of the patches masked."""
    rows, columns = config.grid(config.image_size)
    return {"bool_masked_pos": rng.random((BATCH, rows * columns)) < 0.3}


def hidden_tokens(extra: int) -> Any:
    """An attention mask that hides some of the patches, after `extra` tokens in front of them."""

    def inputs(config: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
        rows, columns = config.grid(config.image_size)
        mask = (rng.random((BATCH, extra + rows * columns)) < 0.7).astype(np.int64)
        mask[:, 0] = 1
        return {"attention_mask": mask}

    return inputs


COMMON: Mapping[str, Any] = {
    "hidden_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "layer_norm_eps": 1e-5,
    "image_size": 26,
    "patch_size": 5,
    "num_channels": 2,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.3,
    "num_labels": 5,
}
VIT: Mapping[str, Any] = {**COMMON, "intermediate_size": 27, "encoder_stride": 5}
WHOLE_PATCHES = {"image_size": 20}


def vit_like(name: str, module: str, published: Mapping[str, tuple[str, int]], tokens: int, *others: str) -> Family:
    """ViT and DeiT, which has one more token."""
    model, classifier, painter = f"{name}Model", f"{name}ForImageClassification", f"{name}ForMaskedImageModeling"
    return Family(
        module=module,
        config=VIT,
        heads={model: {}, classifier: {}, painter: WHOLE_PATCHES} | {other: {} for other in others},
        decoders=(),
        variants={
            "no-qkv-bias": (model, {"qkv_bias": False, "pooler_output_size": 11, "pooler_act": "relu"}),
            "oblong": (model, {"image_size": [16, 23], "patch_size": [5, 3], "hidden_act": "gelu_new"}),
            "no-labels": (classifier, {"num_labels": 0}),
        },
        inputs=images,
        head_inputs={painter: masks, classifier: hidden_tokens(tokens)},
        published=published,
    )


FAMILIES = {
    "vit": vit_like(
        "ViT",
        "flaxmodels.models.vit",
        {"vit-base-patch16-224": ("ViTForImageClassification", 86_567_656)},
        1,
    ),
    "deit": vit_like(
        "DeiT",
        "flaxmodels.models.deit",
        {"deit-base-distilled-patch16-224": ("DeiTForImageClassificationWithTeacher", 87_338_192)},
        2,
        "DeiTForImageClassificationWithTeacher",
    ),
    "beit": Family(
        module="flaxmodels.models.beit",
        config={
            **COMMON,
            "vocab_size": 17,
            "intermediate_size": 27,
            "layer_scale_init_value": 0.3,
            "drop_path_rate": 0.2,
            "use_relative_position_bias": True,
            "num_hidden_layers": 4,
            "out_indices": [1, 2, 3, 4],
            "pool_scales": [1, 2, 3],
            "auxiliary_channels": 7,
        },
        heads={
            "BeitModel": {},
            "BeitForImageClassification": {},
            "BeitForMaskedImageModeling": {"use_mask_token": True, "use_absolute_position_embeddings": True},
            "BeitBackbone": {"out_indices": [0, 1]},
            "BeitForSemanticSegmentation": {},
        },
        decoders=(),
        variants={
            "shared": (
                "BeitModel",
                {"use_shared_relative_position_bias": True, "use_mean_pooling": False, "layer_scale_init_value": 0.0},
            ),
            "oblong": ("BeitModel", {"use_relative_position_bias": False, "image_size": [16, 23]}),
            "flat": ("BeitBackbone", {"out_indices": [-2, -1], "reshape_hidden_states": False}),
            "pyramid": ("BeitBackbone", {"add_fpn": True}),
            "joined": (
                "BeitForSemanticSegmentation",
                {"auxiliary_concat_input": True, "auxiliary_num_convs": 2},
            ),
        },
        useless=("encoder.layer.0.attention.attention.relative_position_bias.relative_position_index",),
        inputs=images,
        head_inputs={"BeitForMaskedImageModeling": masks, "BeitForImageClassification": hidden_tokens(1)},
        published={
            "beit-base-patch16-224": ("BeitForImageClassification", 86_530_984),
            "beit-base-finetuned-ade-640-640": ("BeitForSemanticSegmentation", 163_407_980),
        },
    ),
    "dinov2": Family(
        module="flaxmodels.models.dinov2",
        config={**COMMON, "mlp_ratio": 2, "layerscale_value": 0.7, "drop_path_rate": 0.1},
        heads={
            "Dinov2Model": {},
            "Dinov2ForImageClassification": {},
            "Dinov2Backbone": {"out_indices": [0, 2]},
        },
        decoders=(),
        variants={
            "swiglu": ("Dinov2Model", {"use_swiglu_ffn": True, "qkv_bias": False}),
            "no-mask": ("Dinov2Backbone", {"use_mask_token": False, "apply_layernorm": False}),
            "flat": ("Dinov2Backbone", {"out_features": ["stage1"], "reshape_hidden_states": False}),
        },
        inputs=images,
        head_inputs={"Dinov2Model": masks, "Dinov2ForImageClassification": hidden_tokens(1)},
        published={"dinov2-base": ("Dinov2Model", 86_580_480)},
    ),
}

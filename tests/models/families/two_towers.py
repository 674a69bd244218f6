"""CLIP and its kin: models of texts and images, and their towers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from models.family import MASK, Family

TEXT = {
    "vocab_size": 31,
    "hidden_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 27,
    "max_position_embeddings": 9,
    "attention_dropout": 0.2,
}
VISION = {
    "hidden_size": 30,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 25,
    "num_channels": 2,
    "image_size": 14,
    "patch_size": 4,
    "attention_dropout": 0.2,
}
CLIP_TEXT = TEXT | {"projection_dim": 13, "pad_token_id": 29, "bos_token_id": 28, "eos_token_id": 5}
CLIP_VISION = VISION | {"projection_dim": 13}
CLIP = {"text_config": CLIP_TEXT, "vision_config": CLIP_VISION, "projection_dim": 17, "num_labels": 5}
SIGLIP_TEXT = TEXT | {"projection_size": 30, "pad_token_id": 1}
SIGLIP = {"text_config": SIGLIP_TEXT, "vision_config": VISION, "num_labels": 5}


def texts(config: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A padded batch in which the token with the highest id and the end token are at different positions."""
    ids = rng.integers(6, 28, MASK.shape)
    for row, (highest, end, again) in enumerate([(2, 5, 6), (1, 3, 4), (6, 4, 5)]):
        ids[row, highest] = 30
        ids[row, [end, again]] = config.eos_token_id if config.model_type == "clip_text_model" else 5
    ids[1][MASK[1] == 0] = config.pad_token_id
    return {"input_ids": ids, "attention_mask": MASK, "position_ids": rng.integers(0, 9, MASK.shape)}


def images(config: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two images, channels first."""
    shape = (2, config.num_channels, config.image_size, config.image_size)
    return {"pixel_values": rng.normal(size=shape).astype(np.float32)}


def texts_and_images(config: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return texts(config.text_config, rng) | images(config.vision_config, rng)


def family(module: str, config: Mapping[str, Any], heads: tuple[str, ...], inputs: Any, **options: Any) -> Family:
    """A row whose classes all take the same configuration."""
    options = {"variants": {}, "useless": ("embeddings.position_ids",)} | options
    return Family(f"flaxmodels.models.{module}", config, {head: {} for head in heads}, (), inputs=inputs, **options)


FAMILIES = {
    "clip": family(
        "clip",
        CLIP,
        ("CLIPModel", "CLIPForImageClassification"),
        texts_and_images,
        variants={
            "gelu": ("CLIPModel", {"text_config": CLIP_TEXT | {"hidden_act": "gelu"}}),
            "no-labels": ("CLIPForImageClassification", {"num_labels": 0}),
        },
        useless=("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"),
        published={"clip-vit-base-patch32": ("CLIPModel", 151_277_313)},
    ),
    "clip_text_model": family(
        "clip",
        CLIP_TEXT,
        ("CLIPTextModel", "CLIPTextModelWithProjection"),
        texts,
        variants={"highest-id": ("CLIPTextModelWithProjection", {"eos_token_id": 2})},
    ),
    "clip_vision_model": family("clip", CLIP_VISION, ("CLIPVisionModel", "CLIPVisionModelWithProjection"), images),
    "siglip": family(
        "siglip",
        SIGLIP,
        ("SiglipModel", "SiglipForImageClassification"),
        texts_and_images,
        useless=("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"),
        published={"siglip-base-patch16-224": ("SiglipModel", 203_155_970)},
    ),
    "siglip_text_model": family(
        "siglip",
        SIGLIP_TEXT,
        ("SiglipTextModel",),
        texts,
        variants={"no-projection": ("SiglipTextModel", {"projection_size": None, "hidden_act": "quick_gelu"})},
    ),
    "siglip_vision_model": family(
        "siglip",
        VISION,
        ("SiglipVisionModel",),
        images,
        variants={"no-head": ("SiglipVisionModel", {"vision_use_head": False})},
    ),
}

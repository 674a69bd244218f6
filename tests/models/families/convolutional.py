"""Convolutional networks."""

from __future__ import annotations

from typing import Any

import numpy as np
from models.family import Family


def images(config: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """As transformers takes them, taller than wide."""
    return {"pixel_values": rng.normal(size=(3, config.num_channels, 46, 38)).astype(np.float32)}


FAMILIES = {
    "resnet": Family(
        module="flaxmodels.models.resnet",
        config={
            "num_channels": 2,
            "embedding_size": 6,
            "hidden_sizes": [12, 12, 20],
            "depths": [2, 1, 2],
            "num_labels": 5,
        },
        heads={"ResNetModel": {}, "ResNetForImageClassification": {}, "ResNetBackbone": {}},
        decoders=(),
        variants={
            "basic": ("ResNetForImageClassification", {"layer_type": "basic", "hidden_act": "gelu"}),
            "early": ("ResNetModel", {"downsample_in_bottleneck": True, "downsample_in_first_stage": True}),
            "stages": ("ResNetBackbone", {"out_features": ["stem", "stage2"]}),
        },
        inputs=images,
        has_dropout=False,
        published={"resnet-50": ("ResNetForImageClassification", 25_557_032)},
    ),
    "convnext": Family(
        module="flaxmodels.models.convnext",
        config={
            "num_channels": 2,
            "num_stages": 3,
            "hidden_sizes": [6, 10, 14],
            "depths": [2, 3, 1],
            "patch_size": 3,
            "drop_path_rate": 0.9,
            "num_labels": 5,
        },
        heads={"ConvNextModel": {}, "ConvNextForImageClassification": {}, "ConvNextBackbone": {}},
        decoders=(),
        variants={
            "unscaled": ("ConvNextForImageClassification", {"layer_scale_init_value": 0.0, "hidden_act": "relu"}),
            "stages": ("ConvNextBackbone", {"out_indices": [0, 2]}),
        },
        inputs=images,
        published={"convnext-tiny-224": ("ConvNextForImageClassification", 28_589_128)},
    ),
}

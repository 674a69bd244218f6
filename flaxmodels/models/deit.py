"""DeiT (arXiv 2012.12877): ViT with a second token before the patches, which learns from a teacher.

Parameter names are those of the published checkpoints, as in `vit`.
"""

from __future__ import annotations

from typing import Any

import jax

from flaxmodels.bases.parts import set_base
from flaxmodels.bases.vision import (
    PatchEmbeddings,
    VisionForImageClassification,
    VisionForMaskedImageModeling,
    VisionPreTrainedModel,
    image_classifier,
)
from flaxmodels.models.vit import ViTConfig, ViTModel
from flaxmodels.outputs import ImageClassifierWithTeacherOutput
from flaxmodels.policy import Policy


class DeiTConfig(ViTConfig):
    """Configuration of DeiT; the defaults are those of facebook/deit-base-distilled-patch16-224."""

    model_type = "deit"


class DeiTEmbeddings(PatchEmbeddings):
    """The patches of an image after a class token and a distillation token."""

    tokens = ("cls_token", "distillation_token")


class DeiTModel(ViTModel):
    """The encoder without a head, and the pooler unless `add_pooling_layer=False`."""

    config_class = DeiTConfig
    base_model_prefix = "deit"
    embeddings_class = DeiTEmbeddings


class DeiTForImageClassification(VisionForImageClassification):
    base_class = DeiTModel


class DeiTForMaskedImageModeling(VisionForMaskedImageModeling):
    base_class = DeiTModel


class DeiTForImageClassificationWithTeacher(VisionPreTrainedModel):
    """Classification of an image by the mean of what its first two tokens say."""

    base_class = DeiTModel

    def setup(self, config: Any, policy: Policy) -> None:
        set_base(self, config, policy, add_pooling_layer=False)
        self.cls_classifier = image_classifier(config.hidden_size, config, policy)
        self.distillation_classifier = image_classifier(config.hidden_size, config, policy)

    def head(
        self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None
    ) -> ImageClassifierWithTeacherOutput:
        cls_logits = self.cls_classifier(outputs.last_hidden_state[:, 0])
        distillation_logits = self.distillation_classifier(outputs.last_hidden_state[:, 1])
        return outputs.to(
            ImageClassifierWithTeacherOutput,
            logits=(cls_logits + distillation_logits) / 2,
            cls_logits=cls_logits,
            distillation_logits=distillation_logits,
        )

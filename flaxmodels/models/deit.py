"""DeiT (arXiv 2012.12877): ViT with a second token in front of the patches, which learns from a teacher.

Parameter names are those of the published checkpoints; numerics follow the reference implementation in transformers
(`DeiTModel`, `DeiTFor...`).
"""

from __future__ import annotations

from typing import Any

from flaxmodels.models.vit import (
    ViTConfig,
    ViTEmbeddings,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
    ViTPreTrainedModel,
    image_classifier,
)
from flaxmodels.nn.policy import Policy
from flaxmodels.outputs import ImageClassifierWithTeacherOutput


class DeiTConfig(ViTConfig):
    """Configuration of DeiT; the defaults are those of facebook/deit-base-distilled-patch16-224."""

    model_type = "deit"


class DeiTEmbeddings(ViTEmbeddings):
    tokens = ("cls_token", "distillation_token")


class DeiTPreTrainedModel(ViTPreTrainedModel):
    """Base of the DeiT models. All take the inputs of `ViTModel.forward`."""

    config_class = DeiTConfig
    base_model_prefix = "deit"


class DeiTModel(DeiTPreTrainedModel, ViTModel):
    """The encoder without a head, and the pooler unless `add_pooling_layer=False`."""

    embeddings_class = DeiTEmbeddings


DeiTPreTrainedModel.base_class = DeiTModel


class DeiTForImageClassification(DeiTPreTrainedModel, ViTForImageClassification):
    """Classification of an image by its first token."""


class DeiTForMaskedImageModeling(DeiTPreTrainedModel, ViTForMaskedImageModeling):
    """The pixels of an image, of which patches were masked (SimMIM, arXiv 2111.09886)."""


class DeiTForImageClassificationWithTeacher(DeiTPreTrainedModel):
    """Classification of an image by the mean of what its first two tokens say."""

    def build(self, config: Any, policy: Policy):
        self.set_base(config, policy, add_pooling_layer=False)
        self.cls_classifier = image_classifier(config.hidden_size, config, policy)
        self.distillation_classifier = image_classifier(config.hidden_size, config, policy)

    def head(self, outputs, inputs, dropout_rng):
        by_class = self.cls_classifier(outputs.last_hidden_state[:, 0])
        by_distillation = self.distillation_classifier(outputs.last_hidden_state[:, 1])
        return outputs.to(
            ImageClassifierWithTeacherOutput,
            logits=(by_class + by_distillation) / 2,
            cls_logits=by_class,
            distillation_logits=by_distillation,
        )

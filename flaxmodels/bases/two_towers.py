"""Two towers (arXiv 2103.00020), for texts and for images, whose vectors are near where they belong together."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from flaxmodels.bases.towers import TowersPreTrainedModel, VisionTower
from flaxmodels.config import PreTrainedConfig
from flaxmodels.execution.inputs import Input
from flaxmodels.fields import Scale
from flaxmodels.model import called_like_forward
from flaxmodels.nn.dense import Linear, matmul
from flaxmodels.nn.dropout import split_key
from flaxmodels.nn.initializers import normal
from flaxmodels.nn.module import fresh
from flaxmodels.outputs import ImageClassifierOutput, ImageTextOutput
from flaxmodels.policy import Policy


class TwoTowersConfig(PreTrainedConfig):
    """What a configuration of both towers has; theirs are given as such or as dicts."""

    text_config: Any = None
    vision_config: Any = None
    initializer_factor: Scale = 1.0


class TwoTowers(TowersPreTrainedModel):
    """A tower for texts and one for images, and how near their vectors are to each other."""

    input_embeddings = "text_model.embeddings.token_embedding"
    position_embeddings = "text_model.embeddings.position_embedding"
    expected_inputs = {"pixel_values": Input("floats", "images channels height width", "images height width channels")}
    text_model: Any
    vision_model: Any
    logit_scale: Any

    def forward(
        self,
        input_ids: jax.Array,
        pixel_values: jax.Array,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        *,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> ImageTextOutput:
        """Compare each of some texts with each of some images.

        Args:
            input_ids, attention_mask, position_ids: `[texts, q_len]`, as the text tower takes them.
            pixel_values: `[images, channels, height, width]`, or channels last.
            interpolate_pos_encoding: as the vision tower takes it.

        Raises:
            FlaxModelsError: images of another size than the model's, without `interpolate_pos_encoding`.
        """
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        keys = split_key(dropout_rng, 2)
        text = self.encode_text(input_ids, attention_mask, position_ids, dropout_rng=keys[0], **options)
        options["interpolate_pos_encoding"] = interpolate_pos_encoding
        image = self.encode_image(pixel_values, dropout_rng=keys[1], **options)
        text_embeds, image_embeds = _unit_length(text.pooler_output), _unit_length(image.pooler_output)
        dtype, logits = text.last_hidden_state.dtype, self.similarity(text_embeds, image_embeds)
        return ImageTextOutput(
            logits_per_image=logits.T.astype(dtype),
            logits_per_text=logits.astype(dtype),
            text_embeds=text_embeds.astype(dtype),
            image_embeds=image_embeds.astype(dtype),
            text_model_output=text,
            vision_model_output=image,
        )

    def encode_text(self, *args: Any, **inputs: Any) -> Any:
        """The output of the text tower, with vectors that can be compared as `pooler_output`."""
        return self.text_model.forward(*args, **inputs)

    def encode_image(self, *args: Any, **inputs: Any) -> Any:
        """The output of the vision tower, with vectors that can be compared as `pooler_output`."""
        return self.vision_model.forward(*args, **inputs)

    def similarity(self, text_embeds: jax.Array, image_embeds: jax.Array) -> jax.Array:
        """The logits `[texts, images]` of vectors of unit length, all float32."""
        scale = jnp.exp(self.logit_scale[...].astype(jnp.float32)).reshape(())
        return matmul(text_embeds, image_embeds, contract=1) * scale  # [texts, size], [images, size]

    @called_like_forward
    def get_text_features(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        *,
        dropout_rng: jax.Array | None = None,
    ) -> jax.Array:
        """The vectors of texts, `[texts, projection]`, which `text_embeds` are with unit length."""
        return self.encode_text(input_ids, attention_mask, position_ids, dropout_rng=dropout_rng).pooler_output

    @called_like_forward
    def get_image_features(
        self,
        pixel_values: jax.Array,
        *,
        interpolate_pos_encoding: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> jax.Array:
        """The vectors of images, `[images, projection]`, which `image_embeds` are with unit length.

        Raises:
            FlaxModelsError: images of another size than the model's, without `interpolate_pos_encoding`.
        """
        options: dict[str, Any] = {"interpolate_pos_encoding": interpolate_pos_encoding, "dropout_rng": dropout_rng}
        return self.encode_image(pixel_values, **options).pooler_output


def _unit_length(vectors: jax.Array) -> jax.Array:
    vectors = vectors.astype(jnp.float32)
    return vectors / jnp.sqrt(jnp.square(vectors).sum(-1, keepdims=True))


class TowerForImageClassification(TowersPreTrainedModel):
    """A label for an image, by the mean of its patches in the vision tower.

    Attributes:
        vision_class: class of the tower.
        first_patch: number of tokens before the patches.
    """

    input_embeddings = "vision_model.embeddings.patch_embedding"
    main_input_name = "pixel_values"
    vision_class: ClassVar[type[VisionTower]]
    first_patch: ClassVar[int]

    def setup(self, config: TwoTowersConfig, policy: Policy) -> None:
        self.vision_model = self.vision_class.as_submodule(config.vision_config, policy)
        width = config.vision_config.hidden_size
        init = normal(width**-0.5 * config.initializer_factor)
        self.classifier = fresh(Linear(width, config.num_labels, policy, init=init)) if config.num_labels else None

    @property
    def base_forward(self) -> Any:
        return self.vision_model.forward

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> ImageClassifierOutput:
        mean = outputs.last_hidden_state[:, self.first_patch :].mean(1)
        return outputs.to(ImageClassifierOutput, logits=mean if self.classifier is None else self.classifier(mean))

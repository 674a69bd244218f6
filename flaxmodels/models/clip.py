"""CLIP (arXiv 2103.00020): a tower for texts and one for images, whose vectors are near where they belong together."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import doc

from flaxmodels.bases.towers import (
    ImageEmbeddings,
    TextEmbeddings,
    TextTower,
    TowerConfig,
    TowerEncoder,
    TowersPreTrainedModel,
    VisionTower,
)
from flaxmodels.bases.transformer import LayerSpec
from flaxmodels.bases.two_towers import TowerForImageClassification, TwoTowers, TwoTowersConfig
from flaxmodels.config import PreTrainedConfig
from flaxmodels.fields import ABSENT, Length, Pixels, Scale, Size, SpecialId, TokenId, VocabSize
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.initializers import constant, normal
from flaxmodels.nn.masks import decoder_mask
from flaxmodels.nn.module import param
from flaxmodels.outputs import ImageEmbeddingOutput, TextEmbeddingOutput
from flaxmodels.policy import Policy

WRONG_END = 2
"""The `eos_token_id` of early configurations, which is not that of the tokenizer: its end token has the highest id."""


class CLIPTextConfig(TowerConfig):
    """Configuration of the text tower; the defaults are those of clip-vit-base-patch32."""

    model_type = "clip_text_model"
    base_config_key = "text_config"

    vocab_size: VocabSize = 49408
    hidden_size: Size = 512
    intermediate_size: Size = 2048
    projection_dim: Size = 512
    num_attention_heads: Size = 8
    max_position_embeddings: Length = 77
    initializer_range: Scale = 0.02
    initializer_factor: Scale = 1.0
    pad_token_id: SpecialId | None = 1
    bos_token_id: SpecialId | None = 49406
    # Fields are checked when they are set, so that none can hold what the one of this name elsewhere may.
    eos_token_id: Annotated[TokenId, doc("one token, whose position gives the vector of a text")] = 49407  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def layer_spec(self) -> LayerSpec:
        return _narrowed(super().layer_spec, self)


class CLIPVisionConfig(TowerConfig):
    """Configuration of the vision tower; the defaults are those of clip-vit-base-patch32."""

    model_type = "clip_vision_model"
    base_config_key = "vision_config"

    projection_dim: Size = 512
    num_channels: Size = 3
    image_size: Pixels = 224
    patch_size: Pixels = 32
    initializer_range: Scale = 0.02
    initializer_factor: Scale = 1.0

    @property
    def layer_spec(self) -> LayerSpec:
        return _narrowed(super().layer_spec, self)


def _narrowed(spec: LayerSpec, config: CLIPTextConfig | CLIPVisionConfig) -> LayerSpec:
    """With initialisers that are the narrower the deeper the tower, as in the original implementation."""
    width, factor = config.hidden_size, config.initializer_factor
    inits = {"attn_out": normal(width**-0.5 * factor), "mlp_in": normal((2 * width) ** -0.5 * factor)}
    return replace(spec, init=normal((2 * width * config.num_hidden_layers) ** -0.5 * factor), inits=inits)


class CLIPConfig(TwoTowersConfig):
    """Configuration of CLIP; the defaults are those of clip-vit-base-patch32.

    Early files repeat the towers' values as `text_config_dict` and `vision_config_dict`, which then count, together
    with the defaults of what they leave out.
    """

    model_type = "clip"
    sub_configs = {"text_config": CLIPTextConfig, "vision_config": CLIPVisionConfig}

    projection_dim: Size = 512
    logit_scale_init_value: float = 2.6592
    text_config_dict: dict[str, Any] | None = ABSENT
    vision_config_dict: dict[str, Any] | None = ABSENT

    def __init__(self, /, **values: Any):
        for name, kind in self.sub_configs.items():
            given, counting = values.get(name) or {}, values.get(f"{name}_dict")
            given = given.to_dict() if isinstance(given, PreTrainedConfig) else given
            if isinstance(counting, dict) and isinstance(given, dict):
                del values[f"{name}_dict"]
                values[name] = given | kind().to_dict() | counting
        super().__init__(**values)


class CLIPTextModel(TextTower):
    """The text tower. It also loads from a checkpoint of both."""

    config_class = CLIPTextConfig

    def setup(self, config: CLIPTextConfig, policy: Policy) -> None:
        self.embeddings = TextEmbeddings(config, policy, normal(0.02 * config.initializer_factor))
        self.encoder = TowerEncoder(config, policy)
        self.final_layer_norm = config.layer_spec.norm(policy)

    def mask(self, attention_mask: jax.Array | None, q_len: int) -> jax.Array | None:
        """What each token may attend to: those before it."""
        return decoder_mask(attention_mask, q_len, None)

    def pool(self, hidden_states: jax.Array, input_ids: jax.Array) -> jax.Array:
        """The state of the first end token, `[batch, hidden]`."""
        end = self.config.eos_token_id
        position = jnp.argmax(input_ids if end == WRONG_END else input_ids == end, axis=-1)
        return jnp.take_along_axis(hidden_states, position[:, None, None], axis=1)[:, 0]


class CLIPVisionModel(VisionTower):
    """The vision tower. It also loads from a checkpoint of both."""

    config_class = CLIPVisionConfig

    def setup(self, config: CLIPVisionConfig, policy: Policy) -> None:
        init = normal(config.initializer_range * config.initializer_factor)
        class_init = normal(config.hidden_size**-0.5 * config.initializer_factor)
        self.embeddings = ImageEmbeddings(config, policy, patch_init=init, position_init=init, class_init=class_init)
        self.pre_layrnorm = config.layer_spec.norm(policy)
        self.encoder = TowerEncoder(config, policy)
        self.post_layernorm = config.layer_spec.norm(policy)

    def embed(self, pixel_values: jax.Array, interpolate_pos_encoding: bool) -> jax.Array:
        return self.pre_layrnorm(super().embed(pixel_values, interpolate_pos_encoding))

    def pool(self, hidden_states: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        return hidden_states, self.post_layernorm(hidden_states[:, 0])


def projection(config: Any, size: int, policy: Policy) -> Linear:
    """From the vector of a tower to one of `size` features in the space that texts and images share."""
    init = normal(config.hidden_size**-0.5 * config.initializer_factor)
    return Linear(config.hidden_size, size, policy, use_bias=False, init=init)


class CLIPModel(TwoTowers):
    """Both towers, their vectors projected into one space, and how near these are to each other there."""

    config_class = CLIPConfig
    base_model_prefix = "clip"

    def setup(self, config: CLIPConfig, policy: Policy) -> None:
        self.text_model = CLIPTextModel.as_submodule(config.text_config, policy)
        self.vision_model = CLIPVisionModel.as_submodule(config.vision_config, policy)
        self.visual_projection = projection(config.vision_config, config.projection_dim, policy)
        self.text_projection = projection(config.text_config, config.projection_dim, policy)
        self.logit_scale = param((), policy.param_dtype, constant(config.logit_scale_init_value))

    def encode_text(self, *args: Any, **inputs: Any) -> Any:
        outputs = super().encode_text(*args, **inputs)
        return replace(outputs, pooler_output=self.text_projection(outputs.pooler_output))

    def encode_image(self, *args: Any, **inputs: Any) -> Any:
        outputs = super().encode_image(*args, **inputs)
        return replace(outputs, pooler_output=self.visual_projection(outputs.pooler_output))


class CLIPTextModelWithProjection(TowersPreTrainedModel):
    """The text tower, its vectors projected into the space that texts and images share."""

    base_class = CLIPTextModel
    flax_prefix = ""

    def setup(self, config: CLIPTextConfig, policy: Policy) -> None:
        self.text_model = CLIPTextModel.as_submodule(config, policy)
        self.text_projection = projection(config, config.projection_dim, policy)

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> TextEmbeddingOutput:
        return outputs.to(TextEmbeddingOutput, text_embeds=self.text_projection(outputs.pooler_output))


class CLIPVisionModelWithProjection(TowersPreTrainedModel):
    """The vision tower, its vectors projected into the space that texts and images share."""

    base_class = CLIPVisionModel
    flax_prefix = ""

    def setup(self, config: CLIPVisionConfig, policy: Policy) -> None:
        self.vision_model = CLIPVisionModel.as_submodule(config, policy)
        self.visual_projection = projection(config, config.projection_dim, policy)

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> ImageEmbeddingOutput:
        return outputs.to(ImageEmbeddingOutput, image_embeds=self.visual_projection(outputs.pooler_output))


class CLIPForImageClassification(TowerForImageClassification):
    """A label for an image, by the mean of its patches in the vision tower."""

    base_class = CLIPModel
    vision_class = CLIPVisionModel
    first_patch = 1

"""CLIP (arXiv 2103.00020): a tower for texts and one for images, whose vectors are near where they belong together.

Parameter names and numerics follow the reference implementation in transformers (`CLIPModel`, `CLIPTextModel`, ...).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import doc
from jax.nn.initializers import Initializer, constant, normal

from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import FlaxModelsError
from flaxmodels.fields import (
    ABSENT,
    Activation,
    Epsilon,
    Layers,
    Length,
    Pixels,
    Rate,
    Scale,
    Size,
    SpecialId,
    TokenId,
    VocabSize,
)
from flaxmodels.model import PreTrainedModel, called_like_forward
from flaxmodels.nn.conv import Conv2d, channels_last
from flaxmodels.nn.dropout import split_key
from flaxmodels.nn.inputs import Input
from flaxmodels.nn.linear import Embedding, LayerNorm, Linear, matmul
from flaxmodels.nn.masks import decoder_mask
from flaxmodels.nn.mlp import MLP
from flaxmodels.nn.module import Module, fresh, param
from flaxmodels.nn.multihead import MultiHeadAttention
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.resize import resize_bicubic
from flaxmodels.nn.stack import BlockOutput, Stack
from flaxmodels.outputs import (
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    ImageEmbeddingOutput,
    ImageTextOutput,
    TextEmbeddingOutput,
)

WRONG_END = 2
"""The `eos_token_id` of early configurations, which is not that of the tokenizer: its end token has the highest id."""


class TowerConfig(PreTrainedConfig):
    """What the configurations of all towers have, here and in models that are built on this one."""

    multiples = (("hidden_size", "num_attention_heads"),)

    hidden_size: Size = 768
    intermediate_size: Size = 3072
    num_hidden_layers: Layers = 12
    num_attention_heads: Size = 12
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5
    attention_dropout: Rate = 0.0

    def problems(self) -> list[str]:
        found = super().problems()
        image, patch = (vars(self).get(name, 1) for name in ("image_size", "patch_size"))
        return [*found, f"image_size={image} is smaller than patch_size={patch}"] if image < patch else found


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
    eos_token_id: Annotated[TokenId, doc("one token, whose place gives the vector of a text")] = 49407


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


class TwoTowersConfig(PreTrainedConfig):
    """What a configuration of both towers has; theirs are given as such or as dicts."""

    text_config: Any = None
    vision_config: Any = None
    initializer_factor: Scale = 1.0


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


class BlockInits(NamedTuple):
    """What draws the kernels of a block: of attention's inputs and its output, and of the two dense layers."""

    qkv: Initializer
    out: Initializer
    fc1: Initializer
    fc2: Initializer


def block_inits(config: CLIPTextConfig | CLIPVisionConfig) -> BlockInits:
    """Narrower the deeper the tower, as in the original implementation."""
    width, factor = config.hidden_size, config.initializer_factor
    narrow = normal((2 * width * config.num_hidden_layers) ** -0.5 * factor)
    return BlockInits(narrow, normal(width**-0.5 * factor), normal((2 * width) ** -0.5 * factor), narrow)


def tower_mlp(config: TowerConfig, policy: Policy, inits: BlockInits) -> MLP:
    """The feed-forward network of a block."""
    return MLP(
        config.hidden_size,
        config.intermediate_size,
        policy,
        activation=config.hidden_act,
        init=inits.fc1,
        out_init=inits.fc2,
    )


class CLIPEncoderLayer(Module):
    def __init__(self, config: TowerConfig, policy: Policy, inits: BlockInits):
        self.self_attn = MultiHeadAttention(
            config.hidden_size,
            config.num_attention_heads,
            policy,
            dropout_rate=config.attention_dropout,
            init=inits.qkv,
            out_init=inits.out,
        )
        self.layer_norm1 = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps)
        self.mlp = tower_mlp(config, policy, inits)
        self.layer_norm2 = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps)

    def __call__(
        self,
        hidden_states: jax.Array,
        *,
        mask: jax.Array | None = None,
        cache: None = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BlockOutput:
        options = {"output_attentions": output_attentions, "dropout_rng": dropout_rng}
        mixed, weights, _ = self.self_attn(self.layer_norm1(hidden_states), mask, **options)
        hidden_states = hidden_states + mixed
        return BlockOutput(hidden_states + self.mlp(self.layer_norm2(hidden_states)), cache, weights)


class CLIPEncoder(Module):
    def __init__(self, config: TowerConfig, policy: Policy, inits: BlockInits):
        self.layers = Stack(lambda: CLIPEncoderLayer(config, policy, inits), config.num_hidden_layers, policy)


class CLIPTextEmbeddings(Module):
    def __init__(self, config: Any, policy: Policy, init: Initializer):
        self.token_embedding = Embedding(config.vocab_size, config.hidden_size, policy, init=init)
        self.position_embedding = Embedding(config.max_position_embeddings, config.hidden_size, policy, init=init)

    def __call__(self, input_ids, position_ids):
        positions = jnp.arange(input_ids.shape[1])[None] if position_ids is None else position_ids
        return self.token_embedding(input_ids) + self.position_embedding(positions)


class CLIPVisionEmbeddings(Module):
    """The patches of an image with their positions, behind a class token if `class_init` says what draws it."""

    def __init__(
        self,
        config: Any,
        policy: Policy,
        *,
        patch_init: Initializer,
        position_init: Initializer,
        patch_bias: bool = False,
        class_init: Initializer | None = None,
    ):
        self.channels, self.image_size = config.num_channels, config.image_size
        self.side = config.image_size // config.patch_size
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = None if class_init is None else param((width,), policy.param_dtype, class_init)
        self.patch_embedding = Conv2d(
            self.channels, width, patch, policy, stride=patch, use_bias=patch_bias, init=patch_init
        )
        count = self.side**2 + (class_init is not None)
        self.position_embedding = Embedding(count, width, policy, init=position_init)

    def __call__(self, pixel_values: jax.Array, interpolate_pos_encoding: bool) -> jax.Array:
        image = channels_last(pixel_values, self.channels)
        batch, height, width, _ = image.shape
        if not interpolate_pos_encoding and (height, width) != (self.image_size, self.image_size):
            raise FlaxModelsError(
                f"images of {height}x{width} pixels: the model's are {self.image_size}x{self.image_size}. "
                "Resize them, or pass interpolate_pos_encoding=True."
            )
        patches = self.patch_embedding(image)
        tokens = patches.reshape(batch, -1, patches.shape[-1])
        if self.class_embedding is not None:
            first = self.class_embedding[...].astype(tokens.dtype)[None, None]
            tokens = jnp.concatenate([jnp.broadcast_to(first, (batch, 1, tokens.shape[-1])), tokens], axis=1)
        return tokens + self.positions(patches.shape[1], patches.shape[2]).astype(tokens.dtype)[None]

    def positions(self, rows: int, columns: int) -> jax.Array:
        """`[tokens, hidden]` for a grid of patches: the table, resized if its own grid is another."""
        table = self.position_embedding.embedding[...]
        if (rows, columns) == (self.side, self.side):
            return table
        others = table.shape[0] - self.side**2
        grid = table[others:].reshape(1, self.side, self.side, -1).astype(jnp.float32)
        resized = resize_bicubic(grid, rows, columns).reshape(rows * columns, -1)
        return jnp.concatenate([table[:others], resized.astype(table.dtype)])


class CLIPPreTrainedModel(PreTrainedModel):
    """Base of the CLIP models."""

    config_class = CLIPConfig
    base_model_prefix = "clip"
    ignored_names = (r"embeddings\.position_ids$",)
    tp_plan = {"(q_proj|k_proj|v_proj|fc1)": COLUMN, "(out_proj|fc2|token_embedding)": ROW}
    text_class: ClassVar[Any]
    vision_class: ClassVar[Any]
    """The towers of the model."""
    config: Any


class CLIPTextModel(CLIPPreTrainedModel):
    """The text tower. It also loads from a checkpoint of both."""

    input_embeddings = "embeddings.token_embedding"
    position_embeddings = "embeddings.position_embedding"

    config_class = CLIPTextConfig
    base_model_prefix = flax_prefix = "text_model"

    def build(self, config: CLIPTextConfig, policy: Policy):
        self.embeddings = CLIPTextEmbeddings(config, policy, normal(0.02 * config.initializer_factor))
        self.encoder = CLIPEncoder(config, policy, block_inits(config))
        self.final_layer_norm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps)

    def forward(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutputWithPooling:
        """Encode texts.

        Args:
            input_ids: int `[batch, q_len]`.
            attention_mask: `[batch, q_len]`, 0 for padding.
            position_ids: int `[batch, q_len]`; 0, 1, ... if not given.
        """
        outputs = self.encoder.layers(
            self.embeddings(input_ids, position_ids),
            dropout_rng=dropout_rng,
            output_hidden_states=output_hidden_states,
            mask=self.mask(attention_mask, input_ids.shape[1]),
            output_attentions=output_attentions,
        )
        last = self.final_layer_norm(outputs.last_hidden_state)
        outputs = outputs._replace(last_hidden_state=last)
        return BaseModelOutputWithPooling(**outputs._asdict(), pooler_output=self.pool(last, input_ids))

    def mask(self, attention_mask: jax.Array | None, q_len: int) -> jax.Array | None:
        """What each token may look at: those before it."""
        return decoder_mask(attention_mask, q_len, None)

    def pool(self, hidden_states: jax.Array, input_ids: jax.Array) -> jax.Array:
        """The state of the first end token, `[batch, hidden]`."""
        end = self.config.eos_token_id
        place = jnp.argmax(input_ids if end == WRONG_END else input_ids == end, axis=-1)
        return jnp.take_along_axis(hidden_states, place[:, None, None], axis=1)[:, 0]


class CLIPVisionModel(CLIPPreTrainedModel):
    """The vision tower. It also loads from a checkpoint of both."""

    input_embeddings = "embeddings.patch_embedding"

    config_class = CLIPVisionConfig
    base_model_prefix = flax_prefix = "vision_model"
    main_input_name = "pixel_values"

    def build(self, config: CLIPVisionConfig, policy: Policy):
        init = normal(config.initializer_range * config.initializer_factor)
        class_init = normal(config.hidden_size**-0.5 * config.initializer_factor)
        self.embeddings = CLIPVisionEmbeddings(
            config, policy, patch_init=init, position_init=init, class_init=class_init
        )
        self.pre_layrnorm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps)
        self.encoder = CLIPEncoder(config, policy, block_inits(config))
        self.post_layernorm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps)

    def forward(
        self,
        pixel_values: jax.Array,
        *,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            pixel_values: `[batch, channels, height, width]`, or `[batch, height, width, channels]`.
            interpolate_pos_encoding: allow images of other sizes, to which the table of positions is resized.
        """
        outputs = self.encoder.layers(
            self.embed(pixel_values, interpolate_pos_encoding),
            dropout_rng=dropout_rng,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        last, pooled = self.pool(outputs.last_hidden_state)
        return BaseModelOutputWithPooling(**outputs._replace(last_hidden_state=last)._asdict(), pooler_output=pooled)

    def embed(self, pixel_values: jax.Array, interpolate_pos_encoding: bool) -> jax.Array:
        """What the encoder reads, `[batch, tokens, hidden]`."""
        return self.pre_layrnorm(self.embeddings(pixel_values, interpolate_pos_encoding))

    def pool(self, hidden_states: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """The last hidden states, from those that the encoder gives, and one vector for an image."""
        return hidden_states, self.post_layernorm(hidden_states[:, 0])


CLIPPreTrainedModel.text_class = CLIPTextModel
CLIPPreTrainedModel.vision_class = CLIPVisionModel


def _projection(config: Any, features: int, policy: Policy) -> Linear:
    """From the vector of a tower to `features` that both towers share."""
    init = normal(config.hidden_size**-0.5 * config.initializer_factor)
    return Linear(config.hidden_size, features, policy, use_bias=False, init=init)


class CLIPModel(CLIPPreTrainedModel):
    """Both towers, their vectors projected into one space, and how near these are to each other there."""

    input_embeddings = "text_model.embeddings.token_embedding"
    position_embeddings = "text_model.embeddings.position_embedding"
    expected_inputs = {"pixel_values": Input("floats", "images channels height width", "images height width channels")}

    def build(self, config: CLIPConfig, policy: Policy):
        self.text_model = self.text_class.part(config.text_config, policy)
        self.vision_model = self.vision_class.part(config.vision_config, policy)
        self.visual_projection = _projection(config.vision_config, config.projection_dim, policy)
        self.text_projection = _projection(config.text_config, config.projection_dim, policy)
        self.logit_scale = param((), policy.param_dtype, constant(config.logit_scale_init_value))

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
        """The output of the text tower, with its vectors projected."""
        outputs = self.text_model.forward(*args, **inputs)
        return replace(outputs, pooler_output=self.text_projection(outputs.pooler_output))

    def encode_image(self, *args: Any, **inputs: Any) -> Any:
        """The output of the vision tower, with its vectors projected."""
        outputs = self.vision_model.forward(*args, **inputs)
        return replace(outputs, pooler_output=self.visual_projection(outputs.pooler_output))

    def similarity(self, text_embeds: jax.Array, image_embeds: jax.Array) -> jax.Array:
        """The logits `[texts, images]` of vectors of unit length, all float32."""
        scale = jnp.exp(self.logit_scale[...].astype(jnp.float32)).reshape(())
        return matmul(text_embeds, image_embeds, contract=1) * scale

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
        """The vectors of images, `[images, projection]`, which `image_embeds` are with unit length."""
        options: dict[str, Any] = {"interpolate_pos_encoding": interpolate_pos_encoding, "dropout_rng": dropout_rng}
        return self.encode_image(pixel_values, **options).pooler_output


def _unit_length(vectors: jax.Array) -> jax.Array:
    vectors = vectors.astype(jnp.float32)
    return vectors / jnp.sqrt(jnp.square(vectors).sum(-1, keepdims=True))


class CLIPTextModelWithProjection(CLIPPreTrainedModel):
    """The text tower, its vectors projected into the space that texts and images share."""

    config_class = CLIPTextConfig
    base_model_prefix = "text_model"

    def build(self, config: CLIPTextConfig, policy: Policy):
        self.text_model = CLIPTextModel.part(config, policy)
        self.text_projection = _projection(config, config.projection_dim, policy)

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(TextEmbeddingOutput, text_embeds=self.text_projection(outputs.pooler_output))


class CLIPVisionModelWithProjection(CLIPPreTrainedModel):
    """The vision tower, its vectors projected into the space that texts and images share."""

    config_class = CLIPVisionConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"

    def build(self, config: CLIPVisionConfig, policy: Policy):
        self.vision_model = CLIPVisionModel.part(config, policy)
        self.visual_projection = _projection(config, config.projection_dim, policy)

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(ImageEmbeddingOutput, image_embeds=self.visual_projection(outputs.pooler_output))


class CLIPForImageClassification(CLIPPreTrainedModel):
    """A label for an image, by the mean of its patches in the vision tower."""

    input_embeddings = "vision_model.embeddings.patch_embedding"

    main_input_name = "pixel_values"
    first_patch: ClassVar[int] = 1
    """Behind the class token."""

    def build(self, config: TwoTowersConfig, policy: Policy):
        self.vision_model = self.vision_class.part(config.vision_config, policy)
        width = config.vision_config.hidden_size
        init = normal(width**-0.5 * config.initializer_factor)
        self.classifier = fresh(Linear(width, config.num_labels, policy, init=init)) if config.num_labels else None

    @property
    def features(self) -> Any:
        return self.vision_model.forward

    def head(self, outputs, inputs, dropout_rng):
        mean = outputs.last_hidden_state[:, self.first_patch :].mean(1)
        return outputs.to(ImageClassifierOutput, logits=mean if self.classifier is None else self.classifier(mean))

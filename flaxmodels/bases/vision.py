"""Vision transformers (arXiv 2010.11929): the patches of an image as tokens, layers, and the heads of their tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from flaxmodels.bases.parts import set_base
from flaxmodels.bases.transformer import DropoutRates, LayerSpec, TransformerLayer
from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution.inputs import Input
from flaxmodels.fields import Activation, Epsilon, ImageSize, Layers, Rate, Scale, Size
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.conv import Conv2d, channels_last, pixel_shuffle
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.initializers import normal, truncated_normal, zeros
from flaxmodels.nn.masks import padding_mask
from flaxmodels.nn.module import Module, ModuleList, fresh, param
from flaxmodels.nn.resize import resize_positions
from flaxmodels.nn.stack import Stack
from flaxmodels.outputs import (
    BackboneOutput,
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    MaskedImageModelingOutput,
)
from flaxmodels.policy import Policy


class PatchConfig(PreTrainedConfig):
    """What the configurations of all encoders of patches have; the defaults are those of ViT-B."""

    multiples = (("hidden_size", "num_attention_heads"),)

    hidden_size: Size = 768
    num_hidden_layers: Layers = 12
    num_attention_heads: Size = 12
    hidden_act: Activation = "gelu"
    hidden_dropout_prob: Rate = 0.0
    attention_probs_dropout_prob: Rate = 0.0
    initializer_range: Scale = 0.02
    layer_norm_eps: Epsilon = 1e-12
    image_size: ImageSize = 224
    patch_size: ImageSize = 16
    num_channels: Size = 3

    def validation_errors(self) -> list[str]:
        found = super().validation_errors()
        if min(self.grid(self.image_size)) < 1:
            found.append(f"image_size={self.image_size} is smaller than patch_size={self.patch_size}")
        return found

    def grid(self, size: ImageSize) -> tuple[int, int]:
        """How many patches an image of that size has, in rows and in columns; what is left over is cut off."""
        (height, width), (rows, columns) = height_and_width(size), height_and_width(self.patch_size)
        return height // rows, width // columns

    @property
    def layer_spec(self) -> LayerSpec:
        """The numbers of a layer."""
        dropped, weights = self.hidden_dropout_prob, self.attention_probs_dropout_prob
        return LayerSpec.from_config(
            self,
            without_bias=() if getattr(self, "qkv_bias", True) else ("query", "key", "value"),
            head_dim=self.features_per_head,
            rates=DropoutRates(weights=weights, attention=dropped, mlp=dropped),
        )


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """Both, of a size that may be one number for both."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class PatchProjection(Module):
    """From the pixels of each patch to its features."""

    def __init__(self, config: PatchConfig, policy: Policy):
        size, init = height_and_width(config.patch_size), truncated_normal(config.initializer_range)
        self.projection = Conv2d(config.num_channels, config.hidden_size, size, policy, stride=size, init=init)

    def __call__(self, images: jax.Array) -> jax.Array:
        """`[batch, height, width, channels]` to `[batch, rows, columns, hidden]`."""
        return self.projection(images)


class PatchEmbeddings(Module):
    """The patches of an image after the tokens that stand for all of it, with their positions.

    Attributes:
        tokens: names of the tokens before the patches.
        always_interpolates: whether images of any size are taken; else only if a call asks for it.
        mask_token_axes: number of axes of the embedding that stands for patches that are masked.
    """

    tokens: ClassVar[tuple[str, ...]] = ("cls_token",)
    always_interpolates: ClassVar[bool] = False
    mask_token_axes: ClassVar[int] = 3

    def __init__(self, config: PatchConfig, policy: Policy, *, masks: bool, positions: bool = True):
        init, hidden = truncated_normal(config.initializer_range), config.hidden_size
        self.dropout_rate, self.dtype = config.hidden_dropout_prob, policy.dtype
        self.image_size, self.grid = height_and_width(config.image_size), config.grid(config.image_size)
        for name in self.tokens:
            setattr(self, name, param((1, 1, hidden), policy.param_dtype, init))
        mask_shape = (1,) * (self.mask_token_axes - 1) + (hidden,)
        self.mask_token = fresh(param(mask_shape, policy.param_dtype, zeros)) if masks else None
        self.patch_embeddings = PatchProjection(config, policy)
        length = len(self.tokens) + self.grid[0] * self.grid[1]
        self.position_embeddings = param((1, length, hidden), policy.param_dtype, init) if positions else None

    def __call__(
        self,
        images: jax.Array,
        bool_masked_pos: jax.Array | None,
        interpolates: bool,
        dropout_rng: jax.Array | None,
    ) -> jax.Array:
        """`[batch, height, width, channels]` to `[batch, tokens, hidden]`.

        Raises:
            FlaxModelsError: images of another size than the model's, which may not be interpolated; a mask of another
                number of patches, or of a model without a mask token.
        """
        patches = self.patch_embeddings(images)
        batch, rows, columns, hidden = patches.shape
        patches = self._masked(patches.reshape(batch, rows * columns, hidden), bool_masked_pos)
        tokens = (getattr(self, name)[...].astype(self.dtype) for name in self.tokens)
        hidden_states = jnp.concatenate([*(jnp.broadcast_to(each, (batch, 1, hidden)) for each in tokens), patches], 1)
        if self.position_embeddings is not None:
            height, width = images.shape[1:3]
            self._check_size(height, width, interpolates)
            positions = resize_positions(self.position_embeddings[...][0], self.grid, rows, columns)
            hidden_states = hidden_states + positions.astype(self.dtype)[None]
        return dropout(hidden_states, self.dropout_rate, dropout_rng)

    def _masked(self, patches: jax.Array, bool_masked_pos: jax.Array | None) -> jax.Array:
        """`[batch, patches, hidden]` with the mask token in place of those that are masked."""
        if bool_masked_pos is None:
            return patches
        if bool_masked_pos.size != patches.shape[0] * patches.shape[1]:
            raise FlaxModelsError(
                f"bool_masked_pos: expected [batch, patches] = {patches.shape[:2]}, got {bool_masked_pos.shape}"
            )
        if self.mask_token is None:
            raise FlaxModelsError("bool_masked_pos: this model has no mask token")
        token = self.mask_token[...].astype(self.dtype).reshape(1, 1, -1)
        return jnp.where(bool_masked_pos.astype(bool).reshape(len(patches), -1, 1), token, patches)

    def _check_size(self, height: int, width: int, interpolates: bool) -> None:
        if (height, width) != self.image_size and not (interpolates or self.always_interpolates):
            raise FlaxModelsError(
                f"pixel_values: expected images of {self.image_size[0]} x {self.image_size[1]}, got {height} x {width}"
                ": pass interpolate_pos_encoding=True"
            )


class VisionPreTrainedModel(PreTrainedModel):
    """Base of the vision transformers."""

    config: Any

    def patches(self, hidden_states: jax.Array, pixel_values: jax.Array) -> jax.Array:
        """The hidden states of the patches alone, where they are in the image: `[batch, rows, columns, hidden]`."""
        height, width = channels_last(pixel_values, self.config.num_channels).shape[1:3]
        base: Any = self.base_model
        first = len(base.embeddings.tokens)
        return hidden_states[:, first:].reshape(len(hidden_states), *self.config.grid((height, width)), -1)

    def backbone_output(
        self,
        outputs: BaseModelOutputWithPooling,
        pixel_values: jax.Array,
        *,
        norm: Callable[[jax.Array], jax.Array] | None = None,
        keep_states: bool = False,
    ) -> BackboneOutput:
        """The hidden states of the stages that a `BackboneConfig` chooses, after a `norm` if given.

        They are `[batch, hidden, rows, columns]`, or `[batch, tokens, hidden]` with `reshape_hidden_states=False`.
        """
        states = outputs.hidden_states
        assert states is not None
        chosen = tuple(states[stage] for stage in self.config.chosen_stages)
        chosen = chosen if norm is None else tuple(map(norm, chosen))
        if self.config.reshape_hidden_states:
            chosen = tuple(jnp.moveaxis(self.patches(stage, pixel_values), -1, 1) for stage in chosen)
        return outputs.to(BackboneOutput, feature_maps=chosen, hidden_states=states if keep_states else None)


class VisionModel(VisionPreTrainedModel):
    """An encoder of patches without a head.

    Attributes:
        embeddings_class: class of the embeddings.
        layer_class: class of the layers.
    """

    main_input_name = "pixel_values"
    expected_inputs = {"attention_mask": Input("zeros and ones", "batch tokens", "batch tokens tokens")}
    input_embeddings = "embeddings.patch_embeddings"
    embeddings_class: ClassVar[type[PatchEmbeddings]] = PatchEmbeddings
    layer_class: ClassVar[type[TransformerLayer]]
    embeddings: PatchEmbeddings
    layernorm: Any
    encoder: Any

    def make_layers(self, config: Any, policy: Policy) -> Stack:
        """The layers."""
        spec = config.layer_spec
        return Stack(lambda: self.layer_class(spec, policy), config.num_hidden_layers, policy)

    def encode(
        self,
        pixel_values: jax.Array,
        bool_masked_pos: jax.Array | None,
        interpolate_pos_encoding: bool,
        attention_mask: jax.Array | None,
        *,
        dropout_rng: jax.Array | None = None,
        **options: Any,
    ) -> BaseModelOutputWithPooling:
        """What `forward` returns, whose arguments these are; `options` are those of the layers."""
        images = channels_last(pixel_values, self.config.num_channels)
        keys = split_key(dropout_rng, 2)
        outputs = self.encoder.layer(
            self.embeddings(images, bool_masked_pos, interpolate_pos_encoding, keys[0]),
            dropout_rng=keys[1],
            mask=None if attention_mask is None else padding_mask(attention_mask),
            **options,
            **self.layer_inputs(images, trains=dropout_rng is not None),
        )
        last = outputs.last_hidden_state if self.layernorm is None else self.layernorm(outputs.last_hidden_state)
        outputs = outputs._replace(last_hidden_state=last)
        return BaseModelOutputWithPooling(pooler_output=self.pool(last), **outputs._asdict())

    def layer_inputs(self, images: jax.Array, *, trains: bool) -> dict[str, Any]:
        """What the layers of the architecture get beside the hidden states and the mask."""
        return {}

    def pool(self, hidden_states: jax.Array) -> jax.Array | None:
        """One vector for each image, `[batch, hidden]`, of the last hidden states."""
        raise NotImplementedError


def image_classifier(hidden_size: int, config: PatchConfig, policy: Policy) -> Callable[[jax.Array], jax.Array]:
    """From `hidden_size` features to labels; the features themselves if `num_labels` is 0."""
    if config.num_labels == 0:
        return lambda features: features
    return Linear(hidden_size, config.num_labels, policy, init=normal(config.initializer_range))


class VisionForImageClassification(VisionPreTrainedModel):
    """Classification of an image by its first token.

    Attributes:
        base_options: what the `setup` of the base model is told.
    """

    base_options: ClassVar[Mapping[str, bool]] = {"add_pooling_layer": False}

    def setup(self, config: Any, policy: Policy) -> None:
        set_base(self, config, policy, **self.base_options)
        self.classifier = image_classifier(self.num_features, config, policy)

    @property
    def num_features(self) -> int:
        """Number of features of what `summarise` returns."""
        return self.config.hidden_size

    def summarise(self, outputs: Any) -> jax.Array:
        """One vector for each image, `[batch, features]`."""
        return outputs.last_hidden_state[:, 0]

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> ImageClassifierOutput:
        return outputs.to(ImageClassifierOutput, logits=self.classifier(self.summarise(outputs)))


class VisionForMaskedImageModeling(VisionPreTrainedModel):
    """The pixels of an image, of which patches were masked (SimMIM, arXiv 2111.09886)."""

    def setup(self, config: Any, policy: Policy) -> None:
        set_base(self, config, policy, add_pooling_layer=False, use_mask_token=True)
        pixels, init = config.encoder_stride**2 * config.num_channels, normal(config.initializer_range)
        self.decoder = ModuleList([Conv2d(config.hidden_size, pixels, 1, policy, init=init)])

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> MaskedImageModelingOutput:
        patches = self.patches(outputs.last_hidden_state, inputs["pixel_values"])
        reconstruction = pixel_shuffle(self.decoder[0](patches), self.config.encoder_stride)
        masked, loss = inputs.get("bool_masked_pos"), None
        if masked is not None:
            images = channels_last(inputs["pixel_values"], self.config.num_channels)
            masked = masked.reshape(patches.shape[:3])
            loss = _masked_error(images, reconstruction, masked, height_and_width(self.config.patch_size))
        return outputs.to(MaskedImageModelingOutput, reconstruction=jnp.moveaxis(reconstruction, -1, 1), loss=loss)


def _masked_error(images: jax.Array, reconstruction: jax.Array, masked: jax.Array, patch: tuple[int, int]) -> jax.Array:
    """The mean absolute error of the pixels in masked patches, in the dtype of `reconstruction`."""
    if images.shape != reconstruction.shape:
        raise FlaxModelsError(
            f"bool_masked_pos: images {images.shape[1:]} are reconstructed as {reconstruction.shape[1:]}: expected "
            "encoder_stride and patch_size to be equal, and the images to consist of whole patches"
        )
    mask = masked.astype(jnp.float32).repeat(patch[0], 1).repeat(patch[1], 2)[..., None]
    error = jnp.abs(images.astype(jnp.float32) - reconstruction.astype(jnp.float32)) * mask
    return (error.sum() / (mask.sum() + 1e-5) / images.shape[-1]).astype(reconstruction.dtype)

"""Vision Transformer (arXiv 2010.11929): an encoder of the patches of an image.

Parameter names are those of the published checkpoints, which transformers 4 has in its modules and transformers 5
in its files; numerics follow the reference implementation there (`ViTModel`, `ViTFor...`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.nn.initializers import normal, truncated_normal, zeros

from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import FlaxModelsError
from flaxmodels.fields import Activation, Epsilon, ImageSize, Layers, Pixels, Rate, Scale, Size
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.attention import dot_product_attention, merge_heads, split_heads
from flaxmodels.nn.conv import Conv2d, channels_last, pixel_shuffle
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.inputs import Input
from flaxmodels.nn.linear import LayerNorm, Linear
from flaxmodels.nn.masks import padding_mask
from flaxmodels.nn.module import Module, ModuleList, fresh, param
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.resize import resize_bicubic
from flaxmodels.nn.stack import BlockOutput, Stack
from flaxmodels.outputs import (
    BackboneOutput,
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    MaskedImageModelingOutput,
)

"""Of an image: its height and width, or one number for both."""


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

    def problems(self) -> list[str]:
        found = super().problems()
        if min(self.grid(self.image_size)) < 1:
            found.append(f"image_size={self.image_size} is smaller than patch_size={self.patch_size}")
        return found

    def grid(self, size: ImageSize) -> tuple[int, int]:
        """How many patches an image of that size has, in rows and in columns; what is left over is cut off."""
        (height, width), (rows, columns) = _pair(size), _pair(self.patch_size)
        return height // rows, width // columns

    @property
    def projection_biases(self) -> tuple[bool, bool, bool]:
        """Whether queries, keys and values have a bias."""
        uses_bias = getattr(self, "qkv_bias", True)
        return uses_bias, uses_bias, uses_bias


class ViTConfig(PatchConfig):
    """Configuration of ViT; the defaults are those of google/vit-base-patch16-224."""

    model_type = "vit"
    intermediate_size: Size = 3072
    qkv_bias: bool = True
    encoder_stride: Pixels = 16
    pooler_output_size: Size | None = None
    pooler_act: Activation = "tanh"


def _pair(size: ImageSize) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class ViTPatchEmbeddings(Module):
    def __init__(self, config: PatchConfig, policy: Policy):
        size, init = _pair(config.patch_size), truncated_normal(config.initializer_range)
        self.projection = Conv2d(config.num_channels, config.hidden_size, size, policy, stride=size, init=init)

    def __call__(self, images):
        """`[batch, height, width, channels]` to `[batch, rows, columns, hidden]`."""
        return self.projection(images)


class ViTEmbeddings(Module):
    """The patches behind the tokens that stand for the whole image, with their positions."""

    tokens: ClassVar[tuple[str, ...]] = ("cls_token",)
    always_interpolates: ClassVar[bool] = False
    mask_token_axes: ClassVar[int] = 3

    def __init__(self, config: PatchConfig, policy: Policy, *, masks: bool, positions: bool = True):
        init, features = truncated_normal(config.initializer_range), config.hidden_size
        self.dropout_rate, self.dtype = config.hidden_dropout_prob, policy.dtype
        self.size, self.grid = _pair(config.image_size), config.grid(config.image_size)
        for name in self.tokens:
            setattr(self, name, param((1, 1, features), policy.param_dtype, init))
        mask_shape = (1,) * (self.mask_token_axes - 1) + (features,)
        self.mask_token = fresh(param(mask_shape, policy.param_dtype, zeros)) if masks else None
        self.patch_embeddings = ViTPatchEmbeddings(config, policy)
        length = len(self.tokens) + self.grid[0] * self.grid[1]
        self.position_embeddings = param((1, length, features), policy.param_dtype, init) if positions else None

    def __call__(self, images, bool_masked_pos, interpolates, dropout_rng):
        patches = self.patch_embeddings(images)
        batch, rows, columns, features = patches.shape
        hidden_states = patches.reshape(batch, rows * columns, features)
        if bool_masked_pos is not None:
            if bool_masked_pos.size != batch * rows * columns:
                raise FlaxModelsError(
                    f"bool_masked_pos: expected [batch, patches] = {(batch, rows * columns)}, got "
                    f"{bool_masked_pos.shape}"
                )
            masked = bool_masked_pos.astype(bool).reshape(batch, -1, 1)
            hidden_states = jnp.where(masked, self._mask(), hidden_states)
        tokens = (getattr(self, name)[...].astype(self.dtype) for name in self.tokens)
        tokens = (jnp.broadcast_to(token, (batch, 1, features)) for token in tokens)
        hidden_states = jnp.concatenate([*tokens, hidden_states], axis=1)
        if self.position_embeddings is not None:
            if images.shape[1:3] != self.size and not (interpolates or self.always_interpolates):
                raise FlaxModelsError(
                    f"pixel_values: expected images of {self.size[0]} x {self.size[1]}, got {images.shape[1]} x "
                    f"{images.shape[2]}: pass interpolate_pos_encoding=True"
                )
            hidden_states = hidden_states + self._positions(self.position_embeddings[...], rows, columns).astype(
                self.dtype
            )
        return dropout(hidden_states, self.dropout_rate, dropout_rng)

    def _mask(self) -> jax.Array:
        if self.mask_token is None:
            raise FlaxModelsError("bool_masked_pos: this model has no mask token")
        return self.mask_token[...].astype(self.dtype).reshape(1, 1, -1)

    def _positions(self, table: jax.Array, rows: int, columns: int) -> jax.Array:
        """`[1, tokens, hidden]`: those of the tokens in front as they are, those of patches stretched to the grid."""
        front, patches = table[:, : len(self.tokens)], table[:, len(self.tokens) :]
        stretched = resize_bicubic(patches.reshape(1, *self.grid, -1), rows, columns)
        return jnp.concatenate([front, stretched.reshape(1, rows * columns, -1)], axis=1)


class ViTSelfAttention(Module):
    def __init__(self, config: PatchConfig, policy: Policy):
        init = normal(config.initializer_range)
        self.heads, self.implementation = config.num_attention_heads, policy.attn_implementation
        self.dropout_rate = config.attention_probs_dropout_prob
        features = self.heads * config.features_per_head
        self.query, self.key, self.value = (
            Linear(config.hidden_size, features, policy, use_bias=use_bias, init=init)
            for use_bias in config.projection_biases
        )

    def __call__(self, hidden_states, mask, bias, output_attentions, dropout_rng):
        layers = (self.query, self.key, self.value)
        query, key, value = (split_heads(layer(hidden_states), self.heads) for layer in layers)
        mixed, weights = dot_product_attention(
            query,
            key,
            value,
            mask,
            bias=bias,
            implementation=self.implementation,
            return_weights=output_attentions,
            dropout_rate=self.dropout_rate,
            dropout_rng=dropout_rng,
        )
        return merge_heads(mixed), weights


class ViTDense(Module):
    def __init__(self, in_features: int, out_features: int, config: PatchConfig, policy: Policy):
        self.dense = Linear(in_features, out_features, policy, init=normal(config.initializer_range))


class ViTAttention(Module):
    def __init__(self, config: PatchConfig, policy: Policy):
        self.attention = ViTSelfAttention(config, policy)
        features = config.num_attention_heads * config.features_per_head
        self.output = ViTDense(features, config.hidden_size, config, policy)

    def __call__(self, hidden_states, mask, bias, output_attentions, dropout_rng):
        mixed, weights = self.attention(hidden_states, mask, bias, output_attentions, dropout_rng)
        return self.output.dense(mixed), weights


class ViTLayer(Module):
    """Attention and a feed-forward network, with a norm in front of each."""

    norms: ClassVar[tuple[str, str]] = ("layernorm_before", "layernorm_after")

    def __init__(self, config: Any, policy: Policy):
        self.dropout_rate = config.hidden_dropout_prob
        self.activation = get_activation(config.hidden_act)
        self.attention = ViTAttention(config, policy)
        for name in self.norms:
            setattr(self, name, LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps))
        self.add_feed_forward(config, policy)

    def add_feed_forward(self, config: Any, policy: Policy) -> None:
        """Make the layers of `feed_forward`."""
        self.intermediate = ViTDense(config.hidden_size, config.intermediate_size, config, policy)
        self.output = ViTDense(config.intermediate_size, config.hidden_size, config, policy)

    def feed_forward(self, hidden_states: jax.Array) -> jax.Array:
        """What works on each token alone."""
        return self.output.dense(self.activation(self.intermediate.dense(hidden_states)))

    def branch(
        self, number: int, hidden_states: jax.Array, drop_path_rate: float | jax.Array, dropout_rng: jax.Array | None
    ) -> jax.Array:
        """What is added to the residual stream, of the output of attention (1) or of the feed-forward network (2)."""
        return dropout(hidden_states, self.dropout_rate, dropout_rng)

    def __call__(
        self,
        hidden_states: jax.Array,
        *,
        mask: jax.Array | None = None,
        bias: jax.Array | None = None,
        drop_path_rate: float | jax.Array = 0.0,
        cache: None = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BlockOutput:
        keys = split_key(dropout_rng, 3)
        before, after = (getattr(self, name) for name in self.norms)
        mixed, weights = self.attention(before(hidden_states), mask, bias, output_attentions, keys[0])
        hidden_states = hidden_states + self.branch(1, mixed, drop_path_rate, keys[1])
        inner = self.feed_forward(after(hidden_states))
        return BlockOutput(hidden_states + self.branch(2, inner, drop_path_rate, keys[2]), attention=weights)


class ViTEncoder(Module):
    def __init__(self, config: PatchConfig, policy: Policy, layer_class: type[ViTLayer]):
        self.layer = Stack(lambda: layer_class(config, policy), config.num_hidden_layers, policy)


class ViTPooler(Module):
    """The first token's hidden state through a dense layer and an activation."""

    def __init__(self, config: ViTConfig, policy: Policy):
        features = config.pooler_output_size or config.hidden_size
        self.activation = get_activation(config.pooler_act)
        self.dense = Linear(config.hidden_size, features, policy, init=normal(config.initializer_range))

    def __call__(self, hidden_states):
        return self.activation(self.dense(hidden_states[:, 0]))


class ViTPreTrainedModel(PreTrainedModel):
    """Base of the ViT models. All take the inputs of `ViTModel.forward`."""

    config_class = ViTConfig
    base_model_prefix = "vit"
    main_input_name = "pixel_values"
    expected_inputs = {"attention_mask": Input("zeros and ones", "batch tokens", "batch tokens tokens")}
    tp_plan = {"(attention/(query|key|value)|intermediate/dense)": COLUMN, "output/dense": ROW}
    other_names = {
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "encoder.layer.": "layers.",
    }
    base_class: ClassVar[Any]
    """The base model that a model with a head is built on."""
    config: Any

    def set_base(self, config: Any, policy: Policy, **options: Any) -> None:
        """Make the base model, under the name that it has in checkpoints."""
        setattr(self, self.base_model_prefix, self.base_class.part(config, policy, **options))

    def patches(self, hidden_states: jax.Array, pixel_values: jax.Array) -> jax.Array:
        """The hidden states of the patches alone, where they are in the image: `[batch, rows, columns, hidden]`."""
        height, width = channels_last(pixel_values, self.config.num_channels).shape[1:3]
        base: Any = self.base_model
        front = len(base.embeddings.tokens)
        return hidden_states[:, front:].reshape(len(hidden_states), *self.config.grid((height, width)), -1)

    def backbone_output(
        self,
        outputs: BaseModelOutputWithPooling,
        pixel_values: jax.Array,
        *,
        norm: Callable[[jax.Array], jax.Array] | None = None,
        keep_states: bool = False,
    ) -> BackboneOutput:
        """The hidden states of the stages that a `BackboneConfig` chooses, with a `norm` behind them if given.

        They are `[batch, hidden, rows, columns]`, or `[batch, tokens, hidden]` with `reshape_hidden_states=False`.
        """
        states = outputs.hidden_states
        assert states is not None
        chosen = tuple(states[stage] for stage in self.config.chosen_stages)
        chosen = chosen if norm is None else tuple(map(norm, chosen))
        if self.config.reshape_hidden_states:
            chosen = tuple(jnp.moveaxis(self.patches(stage, pixel_values), -1, 1) for stage in chosen)
        return outputs.to(BackboneOutput, feature_maps=chosen, hidden_states=states if keep_states else None)


class ViTModel(ViTPreTrainedModel):
    """The encoder without a head, and the pooler unless `add_pooling_layer=False`."""

    input_embeddings = "embeddings.patch_embeddings"

    embeddings_class: ClassVar[type[ViTEmbeddings]] = ViTEmbeddings
    layer_class: ClassVar[type[ViTLayer]] = ViTLayer

    def build(self, config: Any, policy: Policy, *, add_pooling_layer: bool = True, use_mask_token: bool = False):
        self.embeddings = self.embeddings_class(config, policy, masks=use_mask_token)
        self.encoder = ViTEncoder(config, policy, self.layer_class)
        self.layernorm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps)
        self.pooler = fresh(ViTPooler(config, policy)) if add_pooling_layer else None

    def forward(
        self,
        pixel_values: jax.Array,
        bool_masked_pos: jax.Array | None = None,
        interpolate_pos_encoding: bool = False,
        attention_mask: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> Any:
        """Encode.

        Args:
            pixel_values: `[batch, channels, height, width]` or `[batch, height, width, channels]`.
            bool_masked_pos: `[batch, patches]`, true for patches whose place a mask token takes.
            interpolate_pos_encoding: stretch the positions to images of another size than `config.image_size`.
            attention_mask: `[batch, tokens]`, 0 for tokens that none looks at.
        """
        images = channels_last(pixel_values, self.config.num_channels)
        keys = split_key(dropout_rng, 2)
        outputs = self.encoder.layer(
            self.embeddings(images, bool_masked_pos, interpolate_pos_encoding, keys[0]),
            dropout_rng=keys[1],
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            mask=None if attention_mask is None else padding_mask(attention_mask),
            **self.layer_inputs(images, trains=dropout_rng is not None),
        )
        last = outputs.last_hidden_state if self.layernorm is None else self.layernorm(outputs.last_hidden_state)
        outputs = outputs._replace(last_hidden_state=last)
        return BaseModelOutputWithPooling(pooler_output=self.pool(last), **outputs._asdict())

    def layer_inputs(self, images: jax.Array, *, trains: bool) -> dict[str, Any]:
        """What the layers of the architecture get beside the hidden states and the mask."""
        return {}

    def pool(self, hidden_states: jax.Array) -> jax.Array | None:
        """One vector for the image, `[batch, features]`, of the last hidden states."""
        return None if self.pooler is None else self.pooler(hidden_states)


ViTPreTrainedModel.base_class = ViTModel


def image_classifier(features: int, config: PatchConfig, policy: Policy) -> Callable[[jax.Array], jax.Array]:
    """From features to labels; the features themselves if `num_labels` is 0."""
    if config.num_labels == 0:
        return lambda features: features
    return Linear(features, config.num_labels, policy, init=normal(config.initializer_range))


class ViTForImageClassification(ViTPreTrainedModel):
    """Classification of an image by its first token."""

    def build(self, config: Any, policy: Policy):
        self.set_base(config, policy, add_pooling_layer=False)
        self.classifier = image_classifier(config.hidden_size, config, policy)

    def head(self, outputs, inputs, dropout_rng):
        return outputs.to(ImageClassifierOutput, logits=self.classifier(outputs.last_hidden_state[:, 0]))


class ViTForMaskedImageModeling(ViTPreTrainedModel):
    """The pixels of an image, of which patches were masked (SimMIM, arXiv 2111.09886)."""

    def build(self, config: Any, policy: Policy):
        self.set_base(config, policy, add_pooling_layer=False, use_mask_token=True)
        features, init = config.encoder_stride**2 * config.num_channels, normal(config.initializer_range)
        self.decoder = ModuleList([Conv2d(config.hidden_size, features, 1, policy, init=init)])

    def head(self, outputs, inputs, dropout_rng):
        patches = self.patches(outputs.last_hidden_state, inputs["pixel_values"])
        reconstruction = pixel_shuffle(self.decoder[0](patches), self.config.encoder_stride)
        masked, loss = inputs.get("bool_masked_pos"), None
        if masked is not None:
            images = channels_last(inputs["pixel_values"], self.config.num_channels)
            masked = masked.reshape(patches.shape[:3])
            loss = _masked_error(images, reconstruction, masked, _pair(self.config.patch_size))
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

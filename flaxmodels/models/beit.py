"""BEiT (arXiv 2106.08254): ViT with layer scale, and relative positions in place of absolute ones.

Parameter names are those of the published checkpoints, as in `vit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Len
from flax import nnx

from flaxmodels.bases.backbone import BackboneConfig
from flaxmodels.bases.parts import place, set_base
from flaxmodels.bases.transformer import LayerSpec
from flaxmodels.bases.vision import PatchConfig, PatchEmbeddings, VisionForImageClassification, VisionPreTrainedModel
from flaxmodels.errors import ConfigError
from flaxmodels.fields import MAX_LAYERS, FurtherLayers, Rate, Scale, Size, VocabSize
from flaxmodels.models.vit import ViTLayer, ViTModel
from flaxmodels.nn.conv import ConvTranspose2d, channels_first
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.initializers import normal, truncated_normal
from flaxmodels.nn.module import Module, fresh, param
from flaxmodels.nn.norms import BatchNorm
from flaxmodels.nn.resize import resize_bilinear
from flaxmodels.nn.segmentation import FCNHead, UperHead
from flaxmodels.nn.stack import Stack
from flaxmodels.outputs import BackboneOutput, MaskedLMOutput, SemanticSegmenterOutput
from flaxmodels.policy import Policy

SPECIAL_DISTANCES = 3
"""Rows at the end of a table of relative positions: class token to patch, patch to class token, the token to itself."""
PYRAMID_LEVELS = 4
"""Feature maps of a pyramid."""
AUXILIARY_LEVEL = 2
"""The one that the auxiliary head of segmentation reads."""


class BeitConfig(BackboneConfig, PatchConfig):
    """Configuration of BEiT; the defaults are those of transformers."""

    model_type = "beit"
    attribute_map = {"segmentation_indices": "out_indices"}

    vocab_size: VocabSize = 8192
    intermediate_size: Size = 3072
    use_mask_token: bool = False
    use_absolute_position_embeddings: bool = False
    use_relative_position_bias: bool = False
    use_shared_relative_position_bias: bool = False
    layer_scale_init_value: Scale = 0.1
    drop_path_rate: Rate = 0.1
    use_mean_pooling: bool = True
    pool_scales: Annotated[Sequence[Size], Len(0, MAX_LAYERS)] = (1, 2, 3, 6)
    use_auxiliary_head: bool = True
    auxiliary_loss_weight: Scale = 0.4
    auxiliary_channels: Size = 256
    auxiliary_num_convs: FurtherLayers = 1
    auxiliary_concat_input: bool = False
    semantic_loss_ignore_index: int = 255
    add_fpn: bool = False
    reshape_hidden_states: bool = True

    def validation_errors(self) -> list[str]:
        found = super().validation_errors()
        rows, columns = self.grid(self.image_size)
        if rows != columns and (self.use_relative_position_bias or self.use_shared_relative_position_bias):
            found.append(f"image_size={self.image_size}: relative positions are implemented for square images only")
        if self.add_fpn and len(self.chosen_stages) != PYRAMID_LEVELS:
            found.append(f"add_fpn=True needs four out_indices, not {self.out_indices}")
        if self.add_fpn and not self.reshape_hidden_states:
            found.append("add_fpn=True needs reshape_hidden_states=True")
        return found

    @property
    def layer_spec(self) -> LayerSpec:
        scale = self.layer_scale_init_value if self.layer_scale_init_value > 0 else None
        return replace(super().layer_spec, without_bias=("key",), layer_scale=scale)


class BeitEmbeddings(PatchEmbeddings):
    """The patches of an image of any size after a class token."""

    always_interpolates = True


class BeitRelativePositionBias(Module):
    """A learned bias of each head for each distance between two patches."""

    def __init__(self, config: BeitConfig, policy: Policy):
        self.grid = config.grid(config.image_size)
        distances = _distances(*self.grid) + SPECIAL_DISTANCES
        init = truncated_normal(config.initializer_range)
        shape = (distances, config.num_attention_heads)
        self.relative_position_bias_table = param(shape, policy.param_dtype, init)

    def __call__(self, grid: tuple[int, int]) -> jax.Array:
        """float32 `[1, heads, tokens, tokens]` for a grid of patches, to which the table is stretched."""
        table = self.relative_position_bias_table[...].astype(jnp.float32)
        between, special = table[:-SPECIAL_DISTANCES], table[-SPECIAL_DISTANCES:]
        rows, columns = self.grid
        between = between.reshape(1, 2 * rows - 1, 2 * columns - 1, -1)
        between = resize_bilinear(between, 2 * grid[0] - 1, 2 * grid[1] - 1).reshape(_distances(*grid), -1)
        biases = jnp.concatenate([between, special])[_relative_positions(*grid)]
        return jnp.moveaxis(biases, -1, 0)[None]


def _distances(rows: int, columns: int) -> int:
    return (2 * rows - 1) * (2 * columns - 1)


@lru_cache(maxsize=16)
def _relative_positions(rows: int, columns: int) -> np.ndarray:
    """int `[tokens, tokens]`: which row of the table is for a query and a key. The class token comes first."""
    patches = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")).reshape(2, -1)
    down, right = patches[:, :, None] - patches[:, None, :]
    positions = np.empty((rows * columns + 1,) * 2, int)
    positions[1:, 1:] = (down + rows - 1) * (2 * columns - 1) + right + columns - 1
    positions[0, :] = _distances(rows, columns)
    positions[:, 0] = _distances(rows, columns) + 1
    positions[0, 0] = _distances(rows, columns) + 2
    return positions


class BeitLayer(ViTLayer):
    """A layer of ViT with scales of both branches and a bias of attention scores."""

    names = {**ViTLayer.names, "attn_scale": "lambda_1", "mlp_scale": "lambda_2"}
    bias_path: ClassVar[str] = "attention.attention.relative_position_bias"

    def __init__(self, config: BeitConfig, policy: Policy):
        super().__init__(config.layer_spec, policy)
        self.has_bias = config.use_relative_position_bias
        if self.has_bias:
            place(self, self.bias_path, BeitRelativePositionBias(config, policy))

    def attend(
        self, hidden_states: jax.Array, *, grid: tuple[int, int] = (0, 0), bias: jax.Array | None = None, **options: Any
    ) -> tuple[jax.Array, jax.Array | None, Any]:
        """As in `TransformerLayer`; `grid` are the rows and columns of the patches, `bias` that of all layers."""
        if self.has_bias:
            own = attrgetter(self.bias_path)(self)(grid)
            bias = own if bias is None else own + bias
        return super().attend(hidden_states, bias=bias, **options)


class BeitPooler(Module):
    """The norm of the mean of all patches, or the first token as it is."""

    def __init__(self, config: BeitConfig, policy: Policy):
        self.layernorm = config.layer_spec.norm(policy) if config.use_mean_pooling else None

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        """`[batch, tokens, hidden]` to `[batch, hidden]`."""
        return hidden_states[:, 0] if self.layernorm is None else self.layernorm(hidden_states[:, 1:].mean(1))


class BeitModel(ViTModel):
    """The encoder without a head, and the pooler unless `add_pooling_layer=False`.

    Positions are stretched to images of any size, with or without `interpolate_pos_encoding`.
    """

    config_class = BeitConfig
    prunable_layers = ""  # a bias of positions has all heads
    base_model_prefix = "beit"
    keys_to_ignore_on_load = (r"relative_position_index$",)
    key_aliases = {
        "attention.attention.relative_position_bias": "relative_position_bias",
        "encoder.relative_position_bias": "shared_position_bias",
        **ViTModel.key_aliases,
    }

    def setup(  # pyright: ignore[reportIncompatibleMethodOverride]  # its caller is the constructor of the same class
        self, config: BeitConfig, policy: Policy, *, add_pooling_layer: bool = True
    ):
        positions, shared = config.use_absolute_position_embeddings, config.use_shared_relative_position_bias
        self.embeddings = BeitEmbeddings(config, policy, masks=config.use_mask_token, positions=positions)
        place(self, "encoder.layer", self.make_layers(config, policy))
        self.encoder.relative_position_bias = BeitRelativePositionBias(config, policy) if shared else None
        self.layernorm = None if config.use_mean_pooling else config.layer_spec.norm(policy)
        self.pooler = fresh(BeitPooler(config, policy)) if add_pooling_layer else None

    def make_layers(self, config: BeitConfig, policy: Policy) -> Stack:
        return Stack(lambda: BeitLayer(config, policy), config.num_hidden_layers, policy)

    def layer_inputs(self, images: jax.Array, *, trains: bool) -> dict[str, Any]:
        height, width = images.shape[1:3]
        grid, shared = self.config.grid((height, width)), self.encoder.relative_position_bias
        inputs = {"grid": grid, "bias": None if shared is None else shared(grid)}
        if trains and self.config.drop_path_rate > 0:
            rates = jnp.linspace(0.0, self.config.drop_path_rate, self.config.num_hidden_layers)
            inputs |= {"per_layer": {"drop_path_rate": rates}}
        return inputs


class BeitForMaskedImageModeling(VisionPreTrainedModel):
    """A visual token for each patch, of which some were masked: `logits` `[batch, patches, vocab]`."""

    base_class = BeitModel

    def setup(self, config: BeitConfig, policy: Policy) -> None:
        set_base(self, config, policy, add_pooling_layer=False)
        self.layernorm = config.layer_spec.norm(policy)
        init = normal(config.initializer_range)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, policy, init=init)

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> MaskedLMOutput:
        return outputs.to(MaskedLMOutput, logits=self.lm_head(self.layernorm(outputs.last_hidden_state)[:, 1:]))


class BeitForImageClassification(VisionForImageClassification):
    """Classification of an image by the mean of its patches, or by its first token."""

    base_class = BeitModel
    base_options = {}

    def summarise(self, outputs: Any) -> jax.Array:
        return outputs.pooler_output


class BeitUpsampling(Module):
    """A map with four times as many rows and columns."""

    torch_names = {"conv_transpose1": "0", "normalization": "1", "conv_transpose2": "3"}

    def __init__(self, config: BeitConfig, policy: Policy):
        self.conv_transpose1 = _doubling(config, policy)
        self.normalization = BatchNorm(config.hidden_size, policy)
        self.conv_transpose2 = _doubling(config, policy)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = jax.nn.gelu(self.normalization(self.conv_transpose1(x), train), approximate=False)
        return self.conv_transpose2(x)


def _doubling(config: BeitConfig, policy: Policy) -> ConvTranspose2d:
    features, init = config.hidden_size, normal(config.initializer_range)
    return ConvTranspose2d(features, features, 2, policy, stride=2, init=init)


class BeitPyramid(Module):
    """Four maps of one size as a pyramid, the finest first: 4, 2, 1 and 1/2 times as many rows and columns."""

    torch_names = {"fpn2": "fpn2.0"}

    def __init__(self, config: BeitConfig, policy: Policy):
        self.fpn1 = BeitUpsampling(config, policy)
        self.fpn2 = _doubling(config, policy)

    def __call__(self, maps: Sequence[jax.Array], train: bool) -> tuple[jax.Array, ...]:
        finest, finer, same, coarse = maps
        return self.fpn1(finest, train), self.fpn2(finer), same, nnx.max_pool(coarse, (2, 2), (2, 2))


class BeitBackbone(BeitModel):
    """The feature maps of chosen stages, see `BackboneConfig`; as a pyramid if `config.add_fpn`."""

    torch_names = {"fpn": ""}

    def setup(  # pyright: ignore[reportIncompatibleMethodOverride]  # its caller is the constructor of the same class
        self, config: BeitConfig, policy: Policy
    ):
        super().setup(config, policy, add_pooling_layer=False)
        self.fpn = fresh(BeitPyramid(config, policy)) if config.add_fpn else None

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # as torch's, of another output
        self,
        pixel_values: jax.Array,
        bool_masked_pos: jax.Array | None = None,
        interpolate_pos_encoding: bool = False,
        attention_mask: jax.Array | None = None,
        *,
        train: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BackboneOutput:
        """Encode: as `ViTModel.forward`, with the output of `backbone_output`. `train` is for the norm of a pyramid."""
        outputs = super().forward(
            pixel_values,
            bool_masked_pos,
            attention_mask=attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=True,
            dropout_rng=dropout_rng,
        )
        found = self.backbone_output(outputs, pixel_values, keep_states=output_hidden_states)
        if self.fpn is None:
            return found
        maps = self.fpn([jnp.moveaxis(each, 1, -1) for each in found.feature_maps], train)
        return replace(found, feature_maps=tuple(map(channels_first, maps)))


class BeitForSemanticSegmentation(VisionPreTrainedModel):
    """A label for every pixel, from a pyramid of the stages of which `config.out_indices` names four, the stem as 1."""

    base_class = BeitModel
    torch_names = {"fpn": ""}
    beit: BeitModel

    def setup(self, config: BeitConfig, policy: Policy):
        if len(config.out_indices or ()) != PYRAMID_LEVELS:
            raise ConfigError(f"BeitForSemanticSegmentation needs four out_indices, not {config.out_indices}")
        labels, init = config.num_labels, normal(config.initializer_range)
        set_base(self, config, policy, add_pooling_layer=False)
        self.fpn = BeitPyramid(config, policy)
        self.decode_head = UperHead(config.hidden_size, labels, PYRAMID_LEVELS, config.pool_scales, policy, init=init)
        self.auxiliary_head = (
            FCNHead(
                config.hidden_size,
                config.auxiliary_channels,
                labels,
                config.auxiliary_num_convs,
                policy,
                joins=config.auxiliary_concat_input,
                init=init,
            )
            if config.use_auxiliary_head
            else None
        )

    @property
    def base_forward(self):
        return self.forward

    def forward(
        self,
        pixel_values: jax.Array,
        interpolate_pos_encoding: bool = False,
        *,
        train: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> SemanticSegmenterOutput:
        """Label; inputs as of `ViTModel.forward`. With `train` norms are by the batch and the auxiliary head runs."""
        outputs = self.beit.forward(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_attentions=output_attentions,
            output_hidden_states=True,
            dropout_rng=dropout_rng,
        )
        states = tuple(outputs.hidden_states or ())
        maps = [self.patches(states[number - 1], pixel_values) for number in self.config.out_indices]
        maps = self.fpn(maps, train)
        auxiliary = self.auxiliary_head(maps[AUXILIARY_LEVEL], train) if train and self.auxiliary_head else None
        return outputs.to(
            SemanticSegmenterOutput,
            logits=channels_first(self.decode_head(maps, train)),
            auxiliary_logits=None if auxiliary is None else channels_first(auxiliary),
            hidden_states=states if output_hidden_states else None,
        )

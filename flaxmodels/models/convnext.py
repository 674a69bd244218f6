"""ConvNeXt (arXiv 2201.03545): a convolutional network with the blocks of a transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.bases.backbone import BackboneConfig
from flaxmodels.bases.parts import set_base
from flaxmodels.fields import Activation, Depths, Epsilon, Layers, Pixels, Rate, Scale, Size
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.conv import Conv2d, channels_first, channels_last
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.dropout import drop_path, split_key
from flaxmodels.nn.initializers import constant, normal
from flaxmodels.nn.module import Module, ModuleList, fresh, param
from flaxmodels.nn.norms import LayerNorm
from flaxmodels.nn.stack import BlockOutput, Stack
from flaxmodels.outputs import BackboneOutput, ImageClassifierOutput, ImageModelOutput
from flaxmodels.policy import Policy

EPSILON = 1e-6
"""Of all norms but the last."""


class ConvNextConfig(BackboneConfig):
    """Configuration of ConvNeXt; the defaults are those of ConvNeXt tiny."""

    model_type = "convnext"
    attribute_map = {"num_hidden_layers": "num_stages"}
    lengths = (("depths", "num_stages"), ("hidden_sizes", "num_stages"))

    num_channels: Size = 3
    patch_size: Pixels = 4
    num_stages: Layers = 4
    hidden_sizes: Sequence[Size] = [96, 192, 384, 768]
    depths: Depths = [3, 3, 9, 3]
    hidden_act: Activation = "gelu"
    initializer_range: Scale = 0.02
    layer_norm_eps: Epsilon = 1e-12
    layer_scale_init_value: Scale = 1e-6
    drop_path_rate: Rate = 0.0
    image_size: Pixels = 224

    @property
    def stage_count(self) -> int:
        return self.num_stages


class ConvNextLayer(Module):
    """A wide depthwise convolution and an MLP of each pixel, with a residual connection."""

    def __init__(self, config: ConvNextConfig, policy: Policy, width: int):
        init = normal(config.initializer_range)
        self.activation = get_activation(config.hidden_act)
        self.dwconv = Conv2d(width, width, 7, policy, padding=3, groups=width, init=init)
        self.layernorm = LayerNorm(width, policy, epsilon=EPSILON)
        self.pwconv1 = Linear(width, 4 * width, policy, init=init)
        self.pwconv2 = Linear(4 * width, width, policy, init=init)
        scale = config.layer_scale_init_value
        self.layer_scale_parameter = param((width,), policy.param_dtype, constant(scale)) if scale > 0 else None

    def __call__(
        self, x: jax.Array, *, drop_rate: jax.Array, cache: None = None, dropout_rng: Any = None
    ) -> BlockOutput:
        y = self.layernorm(self.dwconv(x))
        y = self.pwconv2(self.activation(self.pwconv1(y)))
        if self.layer_scale_parameter is not None:
            y = y * self.layer_scale_parameter[...].astype(y.dtype)[None, None, None]
        return BlockOutput(x + drop_path(y, drop_rate, dropout_rng))


class ConvNextStage(Module):
    """Blocks of one width, after a norm and a convolution that halves the image in all stages but the first."""

    def __init__(self, config: ConvNextConfig, policy: Policy, number: int):
        inner, outer = config.hidden_sizes[max(number - 1, 0)], config.hidden_sizes[number]
        norm = LayerNorm(inner, policy, epsilon=EPSILON)
        conv = Conv2d(inner, outer, 2, policy, stride=2, init=normal(config.initializer_range))
        self.downsampling_layer = ModuleList([norm, conv] if number else [])
        self.layers = Stack(lambda: ConvNextLayer(config, policy, outer), config.depths[number], policy)

    def __call__(self, x: jax.Array, drop_rates: jax.Array, dropout_rng: jax.Array | None) -> jax.Array:
        for layer in self.downsampling_layer:
            x = layer(x)
        return self.layers(x, per_layer={"drop_rate": drop_rates}, dropout_rng=dropout_rng).last_hidden_state


class ConvNextEmbeddings(Module):
    """Patches, and a norm."""

    def __init__(self, config: ConvNextConfig, policy: Policy):
        size, width = config.patch_size, config.hidden_sizes[0]
        init = normal(config.initializer_range)
        self.patch_embeddings = Conv2d(config.num_channels, width, size, policy, stride=size, init=init)
        self.layernorm = LayerNorm(width, policy, epsilon=EPSILON)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layernorm(self.patch_embeddings(x))


class ConvNextEncoder(Module):
    def __init__(self, config: ConvNextConfig, policy: Policy):
        self.config = config
        self.stages = ModuleList(ConvNextStage(config, policy, number) for number in range(config.num_stages))

    def __call__(self, x: jax.Array, dropout_rng: jax.Array | None) -> list[jax.Array]:
        """The input and the output of each stage."""
        depths, states = self.config.depths, [x]
        rates = jnp.linspace(0.0, self.config.drop_path_rate, sum(depths))
        for number, (stage, key) in enumerate(zip(self.stages, split_key(dropout_rng, len(depths)), strict=True)):
            first = sum(depths[:number])
            states.append(stage(states[-1], rates[first : first + depths[number]], key))
        return states


class ConvNextModel(PreTrainedModel):
    """The network without a head."""

    config_class = ConvNextConfig
    base_model_prefix = "convnext"
    main_input_name = "pixel_values"
    config: Any

    def setup(self, config: ConvNextConfig, policy: Policy) -> None:
        self.embeddings = ConvNextEmbeddings(config, policy)
        self.encoder = ConvNextEncoder(config, policy)
        self.layernorm = LayerNorm(config.hidden_sizes[-1], policy, epsilon=config.layer_norm_eps)

    def encode(self, pixel_values: jax.Array, dropout_rng: jax.Array | None) -> list[jax.Array]:
        """The embedded images and the output of each stage, `[batch, height, width, channels]`."""
        images = channels_last(pixel_values, self.config.num_channels)
        return self.encoder(self.embeddings(images), dropout_rng)

    def forward(
        self,
        pixel_values: jax.Array,
        *,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> ImageModelOutput:
        """Encode images.

        Args:
            pixel_values: float `[batch, channels, height, width]`, or with the channels last.
        """
        states = self.encode(pixel_values, dropout_rng)
        return ImageModelOutput(
            last_hidden_state=channels_first(states[-1]),
            pooler_output=self.layernorm(states[-1].mean((1, 2))),
            hidden_states=tuple(map(channels_first, states)) if output_hidden_states else None,
        )


class ConvNextForImageClassification(PreTrainedModel):
    """Classification of images by the normalised mean of their last feature map."""

    base_class = ConvNextModel

    def setup(self, config: ConvNextConfig, policy: Policy) -> None:
        set_base(self, config, policy)
        init = normal(config.initializer_range)
        self.classifier = Linear(config.hidden_sizes[-1], config.num_labels, policy, init=init)

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> ImageClassifierOutput:
        return outputs.to(ImageClassifierOutput, logits=self.classifier(outputs.pooler_output))


class ConvNextBackbone(ConvNextModel):
    """The feature maps of the stages that the configuration asks for, each with a norm of its own."""

    def setup(self, config: ConvNextConfig, policy: Policy) -> None:
        self.embeddings = ConvNextEmbeddings(config, policy)
        self.encoder = ConvNextEncoder(config, policy)
        self.hidden_states_norms = fresh(Module())
        widths = [config.hidden_sizes[0], *config.hidden_sizes]
        for number in config.chosen_stages:
            norm = LayerNorm(widths[number], policy, epsilon=EPSILON)
            setattr(self.hidden_states_norms, config.stages[number], norm)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # as torch's, of another output
        self,
        pixel_values: jax.Array,
        *,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BackboneOutput:
        """Encode images; takes what `ConvNextModel.forward` takes."""
        states, stages = self.encode(pixel_values, dropout_rng), self.config.stages
        maps = tuple(
            channels_first(getattr(self.hidden_states_norms, stages[number])(states[number]))
            for number in self.config.chosen_stages
        )
        every = tuple(map(channels_first, states)) if output_hidden_states else None
        return BackboneOutput(feature_maps=maps, hidden_states=every)

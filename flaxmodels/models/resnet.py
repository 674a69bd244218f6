"""ResNet (arXiv 1512.03385): residual blocks of convolutions, with batch normalisation.

No two blocks need be equal, so that `scan_layers` and `remat` change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, ClassVar, Literal

import jax
from flax import nnx

from flaxmodels.bases.backbone import BackboneConfig
from flaxmodels.bases.parts import place, set_base
from flaxmodels.fields import Activation, Depths, Size
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.conv import Conv2d, channels_first, channels_last
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.initializers import variance_scaling
from flaxmodels.nn.module import Module, ModuleList
from flaxmodels.nn.norms import BatchNorm
from flaxmodels.outputs import BackboneOutput, ImageClassifierOutput, ImageModelOutput
from flaxmodels.policy import Policy

_KAIMING = variance_scaling(2.0, "fan_out", "normal")
_REDUCTION = 4
"""By which the convolutions inside a bottleneck have fewer channels."""


class ResNetConfig(BackboneConfig):
    """Configuration of ResNet; the defaults are those of ResNet-50."""

    model_type = "resnet"
    num_channels: Size = 3
    embedding_size: Size = 64
    hidden_sizes: Sequence[Size] = [256, 512, 1024, 2048]
    depths: Depths = [3, 4, 6, 3]
    layer_type: Literal["basic", "bottleneck"] = "bottleneck"
    hidden_act: Activation = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False

    @property
    def stage_count(self) -> int:
        return len(self.depths)

    def validation_errors(self) -> list[str]:
        found = super().validation_errors()
        if len(self.depths) != len(self.hidden_sizes):
            found.append(f"depths={self.depths} and hidden_sizes={self.hidden_sizes} differ in length")
        return found


class ResNetConvLayer(Module):
    """Convolution, norm, and an activation unless it is `None`."""

    def __init__(self, inner: int, outer: int, policy: Policy, *, size: int = 3, stride: int = 1, act: str | None):
        self.convolution = Conv2d(
            inner, outer, size, policy, stride=stride, padding=size // 2, use_bias=False, init=_KAIMING
        )
        self.normalization = BatchNorm(outer, policy)
        self.activation = get_activation(act or "linear")

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return self.activation(self.normalization(self.convolution(x), train))


class ResNetLayer(Module):
    """A residual block: two convolutions, or three of which the middle one has fewer channels."""

    def __init__(self, config: ResNetConfig, policy: Policy, inner: int, outer: int, stride: int):
        self.activation = get_activation(config.hidden_act)
        same = inner == outer and stride == 1
        self.shortcut = None if same else ResNetConvLayer(inner, outer, policy, size=1, stride=stride, act=None)
        if config.layer_type == "basic":
            sizes, widths, strides = (3, 3), (inner, outer, outer), (stride, 1)
        else:
            narrow, early = outer // _REDUCTION, config.downsample_in_bottleneck
            sizes, widths = (1, 3, 1), (inner, narrow, narrow, outer)
            strides = (stride if early else 1, 1 if early else stride, 1)
        # All but the last are followed by a ReLU, whatever `hidden_act` is.
        acts = ["relu"] * (len(sizes) - 1) + [None]
        self.layer = ModuleList(
            ResNetConvLayer(widths[number], widths[number + 1], policy, size=size, stride=strides[number], act=act)
            for number, (size, act) in enumerate(zip(sizes, acts, strict=True))
        )

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        residual = x if self.shortcut is None else self.shortcut(x, train)
        for layer in self.layer:
            x = layer(x, train)
        return self.activation(x + residual)


class ResNetStage(Module):
    """Blocks of one width, of which the first may halve the image."""

    def __init__(self, config: ResNetConfig, policy: Policy, number: int):
        outer = config.hidden_sizes[number]
        inner = config.hidden_sizes[number - 1] if number else config.embedding_size
        stride = 2 if number or config.downsample_in_first_stage else 1
        self.layers = ModuleList(
            ResNetLayer(config, policy, outer if block else inner, outer, 1 if block else stride)
            for block in range(config.depths[number])
        )

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for layer in self.layers:
            x = layer(x, train)
        return x


class ResNetEmbeddings(Module):
    """The stem: one wide convolution, then the maximum of every 3 by 3."""

    def __init__(self, config: ResNetConfig, policy: Policy):
        width = config.embedding_size
        self.embedder = ResNetConvLayer(config.num_channels, width, policy, size=7, stride=2, act=config.hidden_act)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        padding: Any = ((1, 1), (1, 1))  # Flax takes it, but declares a `str`
        return nnx.max_pool(self.embedder(x, train), (3, 3), (2, 2), padding)


class ResNetEncoder(Module):
    def __init__(self, config: ResNetConfig, policy: Policy):
        self.stages = ModuleList(ResNetStage(config, policy, number) for number in range(config.stage_count))

    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """The input and the output of each stage."""
        states = [x]
        for stage in self.stages:
            states.append(stage(states[-1], train))
        return states


class ResNetModel(PreTrainedModel):
    """The network without a head."""

    config_class = ResNetConfig
    base_model_prefix = "resnet"
    main_input_name = "pixel_values"
    config: Any

    def setup(self, config: ResNetConfig, policy: Policy) -> None:
        self.embedder = ResNetEmbeddings(config, policy)
        self.encoder = ResNetEncoder(config, policy)

    def encode(self, pixel_values: jax.Array, train: bool) -> list[jax.Array]:
        """The stem's output and that of each stage, `[batch, height, width, channels]`."""
        images = channels_last(pixel_values, self.config.num_channels)
        return self.encoder(self.embedder(images.astype(self.policy.dtype), train), train)

    def forward(
        self,
        pixel_values: jax.Array,
        *,
        train: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> ImageModelOutput:
        """Encode images.

        Args:
            pixel_values: float `[batch, channels, height, width]`, or with the channels last.
            train: normalise by the statistics of the batch, and return the running ones.
        """
        states = self.encode(pixel_values, train)
        return ImageModelOutput(
            last_hidden_state=channels_first(states[-1]),
            pooler_output=channels_first(states[-1].mean((1, 2), keepdims=True)),
            hidden_states=tuple(map(channels_first, states)) if output_hidden_states else None,
        )


class ResNetForImageClassification(PreTrainedModel):
    """Classification of images by the mean of their last feature map."""

    base_class = ResNetModel
    classifier_path: ClassVar[str] = "classifier.1"
    """Of the dense layer, which torch numbers after one without parameters."""

    def setup(self, config: ResNetConfig, policy: Policy) -> None:
        set_base(self, config, policy)
        init = variance_scaling(1 / 3, "fan_in", "uniform")
        place(self, self.classifier_path, Linear(config.hidden_sizes[-1], config.num_labels, policy, init=init))

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> ImageClassifierOutput:
        logits = attrgetter(self.classifier_path)(self)(outputs.pooler_output[:, :, 0, 0])
        return outputs.to(ImageClassifierOutput, logits=logits)


class ResNetBackbone(ResNetModel):
    """The feature maps of the stages that the configuration asks for."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # as torch's, of another output
        self,
        pixel_values: jax.Array,
        *,
        train: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BackboneOutput:
        """Encode images; takes what `ResNetModel.forward` takes."""
        states = tuple(map(channels_first, self.encode(pixel_values, train)))
        chosen = tuple(states[number] for number in self.config.chosen_stages)
        return BackboneOutput(feature_maps=chosen, hidden_states=states if output_hidden_states else None)

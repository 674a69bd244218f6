"""DINOv2 (arXiv 2304.07193): ViT with layer scale, for images of any size.

Parameter names are those of the published checkpoints; numerics follow the reference implementation in transformers
(`Dinov2Model`, `Dinov2For...`).
"""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Interval
from jax.nn.initializers import constant, normal

from flaxmodels.backbone import BackboneConfig
from flaxmodels.fields import MAX_SIZE, Epsilon, ImageSize, Rate, Scale
from flaxmodels.models.vit import (
    PatchConfig,
    ViTEmbeddings,
    ViTEncoder,
    ViTLayer,
    ViTModel,
    ViTPreTrainedModel,
    image_classifier,
)
from flaxmodels.nn.dropout import drop_path
from flaxmodels.nn.linear import LayerNorm, Linear
from flaxmodels.nn.mlp import MLP
from flaxmodels.nn.module import Module, param
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.outputs import BackboneOutput, ImageClassifierOutput


class Dinov2Config(BackboneConfig, PatchConfig):
    """Configuration of DINOv2; the defaults are those of transformers."""

    model_type = "dinov2"

    mlp_ratio: Annotated[float, Interval(gt=0, le=MAX_SIZE)] = 4
    layer_norm_eps: Epsilon = 1e-6
    patch_size: ImageSize = 14
    qkv_bias: bool = True
    layerscale_value: Scale = 1.0
    drop_path_rate: Rate = 0.0
    use_swiglu_ffn: bool = False
    apply_layernorm: bool = True
    reshape_hidden_states: bool = True
    use_mask_token: bool = True

    def problems(self) -> list[str]:
        found = super().problems()
        if not 1 <= self.inner_features <= MAX_SIZE:
            found.append(f"mlp_ratio={self.mlp_ratio} makes feed-forward networks of {self.inner_features} features")
        return found

    @property
    def inner_features(self) -> int:
        """Of the feed-forward networks. Gated ones have two thirds as many, rounded up to a multiple of 8."""
        features = int(self.hidden_size * self.mlp_ratio)
        return (int(features * 2 / 3) + 7) // 8 * 8 if self.use_swiglu_ffn else features


class Dinov2Embeddings(ViTEmbeddings):
    always_interpolates = True
    mask_token_axes = 2


class Dinov2LayerScale(Module):
    def __init__(self, config: Dinov2Config, policy: Policy):
        self.lambda1 = param((config.hidden_size,), policy.param_dtype, constant(config.layerscale_value))

    def __call__(self, hidden_states):
        return hidden_states * self.lambda1[...].astype(hidden_states.dtype)[None, None]


class Dinov2SwiGLUFFN(Module):
    """A gated feed-forward network (arXiv 2002.05202); the gate is the first half of one projection."""

    def __init__(self, config: Dinov2Config, policy: Policy):
        init = normal(config.initializer_range)
        self.weights_in = Linear(config.hidden_size, 2 * config.inner_features, policy, init=init)
        self.weights_out = Linear(config.inner_features, config.hidden_size, policy, init=init)

    def __call__(self, hidden_states):
        gate, inner = jnp.split(self.weights_in(hidden_states), 2, axis=-1)
        return self.weights_out(jax.nn.silu(gate) * inner)


class Dinov2Layer(ViTLayer):
    norms = ("norm1", "norm2")

    def __init__(self, config: Dinov2Config, policy: Policy):
        super().__init__(config, policy)
        self.layer_scale1 = Dinov2LayerScale(config, policy)
        self.layer_scale2 = Dinov2LayerScale(config, policy)

    def add_feed_forward(self, config: Dinov2Config, policy: Policy) -> None:
        if config.use_swiglu_ffn:
            self.mlp = Dinov2SwiGLUFFN(config, policy)
        else:
            init, inner = normal(config.initializer_range), config.inner_features
            self.mlp = MLP(config.hidden_size, inner, policy, activation=config.hidden_act, init=init)

    def feed_forward(self, hidden_states):
        return self.mlp(hidden_states)

    def branch(self, number, hidden_states, drop_path_rate, dropout_rng):
        scale = self.layer_scale1 if number == 1 else self.layer_scale2
        return drop_path(scale(hidden_states), drop_path_rate, dropout_rng)


class Dinov2PreTrainedModel(ViTPreTrainedModel):
    """Base of the DINOv2 models."""

    config_class = Dinov2Config
    base_model_prefix = "dinov2"
    tp_plan = {"(attention/(query|key|value)|mlp/fc1)": COLUMN, "(output/dense|mlp/fc2)": ROW}
    other_names = {
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "mlp.weights_out": "mlp.down_proj",
    }


class Dinov2Model(Dinov2PreTrainedModel, ViTModel):
    """The encoder without a head."""

    def build(self, config: Dinov2Config, policy: Policy):
        self.embeddings = Dinov2Embeddings(config, policy, masks=config.use_mask_token)
        self.encoder = ViTEncoder(config, policy, Dinov2Layer)
        self.layernorm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps)

    def forward(
        self,
        pixel_values: jax.Array,
        bool_masked_pos: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> Any:
        """Encode: as `ViTModel.forward`, with positions that are stretched to images of any size."""
        return super().forward(
            pixel_values,
            bool_masked_pos,
            attention_mask=attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            dropout_rng=dropout_rng,
        )

    def layer_inputs(self, images, *, trains):
        return {"drop_path_rate": float(self.config.drop_path_rate)}

    def pool(self, hidden_states):
        return hidden_states[:, 0]


Dinov2PreTrainedModel.base_class = Dinov2Model


class Dinov2ForImageClassification(Dinov2PreTrainedModel):
    """Classification of an image by its first token and the mean of its patches."""

    def build(self, config: Dinov2Config, policy: Policy):
        self.set_base(config, policy)
        self.classifier = image_classifier(2 * config.hidden_size, config, policy)

    def head(self, outputs, inputs, dropout_rng):
        first, patches = outputs.last_hidden_state[:, 0], outputs.last_hidden_state[:, 1:]
        features = jnp.concatenate([first, patches.mean(1)], axis=-1)
        return outputs.to(ImageClassifierOutput, logits=self.classifier(features))


class Dinov2Backbone(Dinov2Model):
    """The feature maps of chosen stages; see `BackboneConfig`."""

    def forward(
        self,
        pixel_values: jax.Array,
        attention_mask: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BackboneOutput:
        """Encode: as `Dinov2Model.forward`, with the output of `backbone_output`."""
        outputs = super().forward(
            pixel_values,
            attention_mask=attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=True,
            dropout_rng=dropout_rng,
        )
        norm = self.layernorm if self.config.apply_layernorm else None
        return self.backbone_output(outputs, pixel_values, norm=norm, keep_states=output_hidden_states)

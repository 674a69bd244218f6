"""DINOv2 (arXiv 2304.07193): ViT with layer scale, for images of any size.

Parameter names are those of the published checkpoints, as in `vit`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Interval

from flaxmodels.bases.backbone import BackboneConfig
from flaxmodels.bases.parts import place
from flaxmodels.bases.transformer import DropoutRates, LayerSpec, TransformerLayer, pre_norm
from flaxmodels.bases.vision import PatchConfig, PatchEmbeddings, VisionForImageClassification, VisionModel
from flaxmodels.fields import MAX_SIZE, Epsilon, ImageSize, Rate, Scale
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.stack import Stack
from flaxmodels.outputs import BackboneOutput, BaseModelOutputWithPooling
from flaxmodels.policy import Policy


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

    def validation_errors(self) -> list[str]:
        found = super().validation_errors()
        if not 1 <= self.intermediate_size <= MAX_SIZE:
            found.append(f"mlp_ratio={self.mlp_ratio} makes feed-forward networks of {self.intermediate_size} features")
        return found

    @property
    def intermediate_size(self) -> int:
        """Number of features inside feed-forward networks: two thirds, up to a multiple of 8, in those with a gate."""
        features = int(self.hidden_size * self.mlp_ratio)
        return (int(features * 2 / 3) + 7) // 8 * 8 if self.use_swiglu_ffn else features

    @property
    def layer_spec(self) -> LayerSpec:
        rates = DropoutRates(weights=self.attention_probs_dropout_prob)
        return replace(super().layer_spec, rates=rates, layer_scale=self.layerscale_value)


class Dinov2Embeddings(PatchEmbeddings):
    """The patches of an image of any size after a class token."""

    always_interpolates = True
    mask_token_axes = 2


class Dinov2Layer(TransformerLayer):
    """A layer with norms before attention and feed-forward network, and a scale of what both add."""

    residual = staticmethod(pre_norm)
    names = {
        "query": "attention.attention.query",
        "key": "attention.attention.key",
        "value": "attention.attention.value",
        "attn_out": "attention.output.dense",
        "attn_norm": "norm1",
        "mlp_norm": "norm2",
        "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
        "attn_scale": "layer_scale1.lambda1",
        "mlp_scale": "layer_scale2.lambda1",
    }


class Dinov2GatedLayer(Dinov2Layer):
    """The same with a gated network (arXiv 2002.05202); the gate is the first half of one projection."""

    names = {**Dinov2Layer.names, "mlp_in": "mlp.weights_in", "mlp_out": "mlp.weights_out"}

    def dense_shapes(self, spec: LayerSpec) -> dict[str, tuple[int, int]]:
        return super().dense_shapes(spec) | {"mlp_in": (spec.hidden_size, 2 * spec.intermediate_size)}

    def activated(self, hidden_states: jax.Array) -> jax.Array:
        gate, inner = jnp.split(self.at("mlp_in")(hidden_states), 2, axis=-1)
        return jax.nn.silu(gate) * inner


class Dinov2Model(VisionModel):
    """The encoder without a head."""

    config_class = Dinov2Config
    base_model_prefix = "dinov2"
    tp_plan = {"(attention/(query|key|value)|mlp/fc1)": COLUMN, "(output/dense|mlp/fc2)": ROW}
    key_aliases = {
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "mlp.weights_out": "mlp.down_proj",
    }
    embeddings_class = Dinov2Embeddings

    def setup(self, config: Dinov2Config, policy: Policy) -> None:
        self.embeddings = self.embeddings_class(config, policy, masks=config.use_mask_token)
        place(self, "encoder.layer", self.make_layers(config, policy))
        self.layernorm = config.layer_spec.norm(policy)

    def make_layers(self, config: Dinov2Config, policy: Policy) -> Stack:
        layer_class, spec = Dinov2GatedLayer if config.use_swiglu_ffn else Dinov2Layer, config.layer_spec
        return Stack(lambda: layer_class(spec, policy), config.num_hidden_layers, policy)

    def forward(
        self,
        pixel_values: jax.Array,
        bool_masked_pos: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutputWithPooling:
        """Encode; positions are stretched to images of any size.

        Args:
            pixel_values: `[batch, channels, height, width]` or `[batch, height, width, channels]`.
            bool_masked_pos: `[batch, patches]`, true for patches in whose place a mask token is read.
            attention_mask: `[batch, tokens]`, 0 for tokens that none looks at.

        Raises:
            FlaxModelsError: a mask of another number of patches, or for a model without a mask token.
        """
        options: dict[str, Any] = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        return self.encode(pixel_values, bool_masked_pos, True, attention_mask, **options, dropout_rng=dropout_rng)

    def layer_inputs(self, images: jax.Array, *, trains: bool) -> dict[str, Any]:
        return {"drop_path_rate": float(self.config.drop_path_rate)}

    def pool(self, hidden_states: jax.Array) -> jax.Array:
        return hidden_states[:, 0]


class Dinov2ForImageClassification(VisionForImageClassification):
    """Classification of an image by its first token and the mean of its patches."""

    base_class = Dinov2Model
    base_options = {}

    @property
    def num_features(self) -> int:
        return 2 * self.config.hidden_size

    def summarise(self, outputs: Any) -> jax.Array:
        first, patches = outputs.last_hidden_state[:, 0], outputs.last_hidden_state[:, 1:]
        return jnp.concatenate([first, patches.mean(1)], axis=-1)


class Dinov2Backbone(Dinov2Model):
    """The feature maps of chosen stages; see `BackboneConfig`."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # as torch's, of another output
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

"""Vision Transformer (arXiv 2010.11929): an encoder of the patches of an image.

Parameter names are those of the published checkpoints, which transformers 4 has in its modules and transformers 5
in its files.
"""

from __future__ import annotations

from typing import Any

import jax

from flaxmodels.bases.parts import place
from flaxmodels.bases.transformer import TransformerLayer, pre_norm
from flaxmodels.bases.vision import PatchConfig, VisionForImageClassification, VisionForMaskedImageModeling, VisionModel
from flaxmodels.fields import Activation, Pixels, Size
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.initializers import normal
from flaxmodels.nn.module import Module, fresh
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.outputs import BaseModelOutputWithPooling
from flaxmodels.policy import Policy


class ViTConfig(PatchConfig):
    """Configuration of ViT; the defaults are those of google/vit-base-patch16-224."""

    model_type = "vit"
    intermediate_size: Size = 3072
    qkv_bias: bool = True
    encoder_stride: Pixels = 16
    pooler_output_size: Size | None = None
    pooler_act: Activation = "tanh"


class ViTLayer(TransformerLayer):
    """A layer with norms before attention and feed-forward network."""

    residual = staticmethod(pre_norm)
    names = {
        "query": "attention.attention.query",
        "key": "attention.attention.key",
        "value": "attention.attention.value",
        "attn_out": "attention.output.dense",
        "attn_norm": "layernorm_before",
        "mlp_norm": "layernorm_after",
        "mlp_in": "intermediate.dense",
        "mlp_out": "output.dense",
    }


class ViTPooler(Module):
    """The first token's hidden state through a dense layer and an activation."""

    def __init__(self, config: ViTConfig, policy: Policy):
        size = config.pooler_output_size or config.hidden_size
        self.activation = get_activation(config.pooler_act)
        self.dense = Linear(config.hidden_size, size, policy, init=normal(config.initializer_range))

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        """`[batch, tokens, hidden]` to `[batch, pooler_output_size]`."""
        return self.activation(self.dense(hidden_states[:, 0]))


class ViTModel(VisionModel):
    """The encoder without a head, and the pooler unless `add_pooling_layer=False`."""

    config_class = ViTConfig
    base_model_prefix = "vit"
    tp_plan = {"(attention/(query|key|value)|intermediate/dense)": COLUMN, "output/dense": ROW}
    key_aliases = {
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "encoder.layer.": "layers.",
    }
    layer_class = ViTLayer
    prunable_layers = "encoder.layer"
    pooler: Any

    def setup(self, config: Any, policy: Policy, *, add_pooling_layer: bool = True, use_mask_token: bool = False):
        self.embeddings = self.embeddings_class(config, policy, masks=use_mask_token)
        place(self, "encoder.layer", self.make_layers(config, policy))
        self.layernorm = config.layer_spec.norm(policy)
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
    ) -> BaseModelOutputWithPooling:
        """Encode.

        Args:
            pixel_values: `[batch, channels, height, width]` or `[batch, height, width, channels]`.
            bool_masked_pos: `[batch, patches]`, true for patches in whose place a mask token is read.
            interpolate_pos_encoding: stretch the positions to images of another size than `config.image_size`.
            attention_mask: `[batch, tokens]`, 0 for tokens that none looks at.

        Raises:
            FlaxModelsError: images of another size without `interpolate_pos_encoding`; a mask of another number of
                patches, or for a model without a mask token.
        """
        inputs = (pixel_values, bool_masked_pos, interpolate_pos_encoding, attention_mask)
        options: dict[str, Any] = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        return self.encode(*inputs, **options, dropout_rng=dropout_rng)

    def pool(self, hidden_states: jax.Array) -> jax.Array | None:
        return None if self.pooler is None else self.pooler(hidden_states)


class ViTForImageClassification(VisionForImageClassification):
    base_class = ViTModel


class ViTForMaskedImageModeling(VisionForMaskedImageModeling):
    base_class = ViTModel

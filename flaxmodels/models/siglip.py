"""SigLIP (arXiv 2303.15343): two towers as in CLIP, where each pair of a text and an image is scored by itself.

Texts are read in both directions and end in their vector; an image's is what a learned query finds in its patches.
Parameter names and numerics follow the reference implementation in transformers (`SiglipModel`, ...).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import lecun_normal, normal, xavier_uniform, zeros

from flaxmodels.errors import ConfigError
from flaxmodels.fields import Activation, Epsilon, Length, Pixels, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.models.clip import (
    BlockInits,
    CLIPEncoder,
    CLIPForImageClassification,
    CLIPModel,
    CLIPPreTrainedModel,
    CLIPTextEmbeddings,
    CLIPTextModel,
    CLIPVisionEmbeddings,
    CLIPVisionModel,
    TowerConfig,
    TwoTowersConfig,
    tower_mlp,
)
from flaxmodels.nn.attention import dot_product_attention, merge_heads, split_heads
from flaxmodels.nn.linear import LayerNorm, Linear, matmul
from flaxmodels.nn.masks import padding_mask
from flaxmodels.nn.module import Module, TorchLeaf, param
from flaxmodels.nn.policy import Policy
from interop.ops import Transpose

INITS = BlockInits(*[xavier_uniform()] * 4)


class SiglipTextConfig(TowerConfig):
    """Configuration of the text tower; the defaults are those of siglip-base-patch16-224.

    `projection_size` is `hidden_size` if not given.
    """

    model_type = "siglip_text_model"
    base_config_key = "text_config"

    vocab_size: VocabSize = 32000
    max_position_embeddings: Length = 64
    hidden_act: Activation = "gelu_pytorch_tanh"
    layer_norm_eps: Epsilon = 1e-6
    pad_token_id: SpecialId | None = 1
    bos_token_id: SpecialId | None = 49406
    eos_token_id: SpecialIds | None = 49407
    projection_size: Size | None = None


class SiglipVisionConfig(TowerConfig):
    """Configuration of the vision tower; the defaults are those of siglip-base-patch16-224."""

    model_type = "siglip_vision_model"
    base_config_key = "vision_config"

    num_channels: Size = 3
    image_size: Pixels = 224
    patch_size: Pixels = 16
    hidden_act: Activation = "gelu_pytorch_tanh"
    layer_norm_eps: Epsilon = 1e-6
    vision_use_head: bool = True


class SiglipConfig(TwoTowersConfig):
    """Configuration of SigLIP; the defaults are those of siglip-base-patch16-224."""

    model_type = "siglip"
    sub_configs = {"text_config": SiglipTextConfig, "vision_config": SiglipVisionConfig}


class SiglipPoolingAttention(Module):
    """Attention of a query to hidden states, with the one kernel that torch's `MultiheadAttention` has for all."""

    torch_leaves = {"in_proj_kernel": TorchLeaf("in_proj_weight", (Transpose((1, 0)),))}

    def __init__(self, config: SiglipVisionConfig, policy: Policy):
        width = config.hidden_size
        self.heads, self.implementation = config.num_attention_heads, policy.attn_implementation
        self.in_proj_kernel = param((width, 3 * width), policy.param_dtype, xavier_uniform())
        self.in_proj_bias = param((3 * width,), policy.param_dtype, zeros)
        self.out_proj = Linear(width, width, policy, init=lecun_normal())

    def __call__(self, query: jax.Array, hidden_states: jax.Array) -> jax.Array:
        kernels = jnp.split(self.in_proj_kernel[...].astype(query.dtype), 3, axis=1)
        biases = jnp.split(self.in_proj_bias[...].astype(query.dtype), 3)
        projected = [
            split_heads(matmul(x, kernel) + bias[None, None], self.heads)
            for x, kernel, bias in zip((query, hidden_states, hidden_states), kernels, biases, strict=True)
        ]
        mixed, _ = dot_product_attention(*projected, implementation=self.implementation)
        return self.out_proj(merge_heads(mixed))


class SiglipPoolingHead(Module):
    """One vector for an image, `[batch, hidden]`: what a learned query finds in its patches."""

    def __init__(self, config: SiglipVisionConfig, policy: Policy):
        width = config.hidden_size
        self.probe = param((1, 1, width), policy.param_dtype, normal(width**-0.5))
        self.attention = SiglipPoolingAttention(config, policy)
        self.layernorm = LayerNorm(width, policy, epsilon=config.layer_norm_eps)
        self.mlp = tower_mlp(config, policy, INITS)

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        batch, _, width = hidden_states.shape
        query = jnp.broadcast_to(self.probe[...].astype(hidden_states.dtype), (batch, 1, width))
        found = self.attention(query, hidden_states)
        return (found + self.mlp(self.layernorm(found)))[:, 0]


class SiglipPreTrainedModel(CLIPPreTrainedModel):
    """Base of the SigLIP models, which take the inputs of those of CLIP."""

    config_class = SiglipConfig
    base_model_prefix = "siglip"


class SiglipTextModel(SiglipPreTrainedModel, CLIPTextModel):
    """The text tower. It also loads from a checkpoint of both."""

    config_class = SiglipTextConfig
    base_model_prefix = "text_model"
    head: Any

    def build(self, config: SiglipTextConfig, policy: Policy):
        width = config.hidden_size
        self.embeddings = CLIPTextEmbeddings(config, policy, normal(width**-0.5))
        self.encoder = CLIPEncoder(config, policy, INITS)
        self.final_layer_norm = LayerNorm(width, policy, epsilon=config.layer_norm_eps)
        self.head = Linear(width, config.projection_size or width, policy, init=lecun_normal())

    def mask(self, attention_mask: jax.Array | None, q_len: int) -> jax.Array | None:
        """What each token may look at: all that are not padding."""
        return None if attention_mask is None else padding_mask(attention_mask)

    def pool(self, hidden_states: jax.Array, input_ids: jax.Array) -> jax.Array:
        """The last token's state, even if that is padding, through a dense layer: `[batch, projection]`."""
        return self.head(hidden_states[:, -1])


class SiglipVisionModel(SiglipPreTrainedModel, CLIPVisionModel):
    """The vision tower. It also loads from a checkpoint of both."""

    config_class = SiglipVisionConfig
    base_model_prefix = "vision_model"
    head: Any

    def build(self, config: SiglipVisionConfig, policy: Policy):
        width = config.hidden_size
        self.embeddings = CLIPVisionEmbeddings(
            config, policy, patch_init=lecun_normal(), position_init=normal(width**-0.5), patch_bias=True
        )
        self.encoder = CLIPEncoder(config, policy, INITS)
        self.post_layernorm = LayerNorm(width, policy, epsilon=config.layer_norm_eps)
        self.head = SiglipPoolingHead(config, policy) if config.vision_use_head else None

    def embed(self, pixel_values: jax.Array, interpolate_pos_encoding: bool) -> jax.Array:
        return self.embeddings(pixel_values, interpolate_pos_encoding)

    def pool(self, hidden_states: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        last = self.post_layernorm(hidden_states)
        return last, None if self.head is None else self.head(last)


SiglipPreTrainedModel.text_class = SiglipTextModel
SiglipPreTrainedModel.vision_class = SiglipVisionModel


class SiglipModel(SiglipPreTrainedModel, CLIPModel):
    """Both towers, and how near their vectors are; the sigmoid of a logit is the probability that a pair belongs."""

    def build(self, config: SiglipConfig, policy: Policy):
        if not config.vision_config.vision_use_head:
            raise ConfigError("vision_use_head=False: images have no vectors then, which SiglipModel compares")
        self.text_model = SiglipTextModel.part(config.text_config, policy)
        self.vision_model = SiglipVisionModel.part(config.vision_config, policy)
        self.logit_scale = param((1,), policy.param_dtype, zeros)
        self.logit_bias = param((1,), policy.param_dtype, zeros)

    def encode_text(self, *args: Any, **inputs: Any) -> Any:
        return self.text_model.forward(*args, **inputs)

    def encode_image(self, *args: Any, **inputs: Any) -> Any:
        return self.vision_model.forward(*args, **inputs)

    def similarity(self, text_embeds: jax.Array, image_embeds: jax.Array) -> jax.Array:
        bias = self.logit_bias[...].astype(jnp.float32).reshape(())
        return super().similarity(text_embeds, image_embeds) + bias


class SiglipForImageClassification(SiglipPreTrainedModel, CLIPForImageClassification):
    """A label for an image, by the mean of its patches in the vision tower."""

    first_patch = 0

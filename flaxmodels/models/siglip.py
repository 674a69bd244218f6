"""SigLIP (arXiv 2303.15343): two towers as in CLIP, where each pair of a text and an image is scored by itself.

Texts are read in both directions and end in their vector; an image's is what a learned query finds in its patches.
"""

from __future__ import annotations

from operator import attrgetter

import jax
import jax.numpy as jnp

from flaxmodels.bases.parts import place
from flaxmodels.bases.towers import ImageEmbeddings, TextEmbeddings, TextTower, TowerConfig, TowerEncoder, VisionTower
from flaxmodels.bases.two_towers import TowerForImageClassification, TwoTowers, TwoTowersConfig
from flaxmodels.errors import ConfigError
from flaxmodels.fields import Activation, Epsilon, Length, Pixels, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.nn.attention import dot_product_attention, merge_heads, split_heads
from flaxmodels.nn.dense import Linear, matmul
from flaxmodels.nn.initializers import lecun_normal, normal, xavier_uniform, zeros
from flaxmodels.nn.masks import padding_mask
from flaxmodels.nn.mlp import MLP
from flaxmodels.nn.module import Module, TorchLeaf, param
from flaxmodels.policy import Policy
from interop.ops import Transpose


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
        """`[batch, q_len, hidden]`, of queries of that shape and hidden states `[batch, kv_len, hidden]`."""
        kernels = jnp.split(self.in_proj_kernel[...].astype(query.dtype), 3, axis=1)
        biases = jnp.split(self.in_proj_bias[...].astype(query.dtype), 3)
        projected = [
            split_heads(matmul(x, kernel) + bias[None, None], self.heads)
            for x, kernel, bias in zip((query, hidden_states, hidden_states), kernels, biases, strict=True)
        ]
        attn_output, _ = dot_product_attention(*projected, implementation=self.implementation)
        return self.out_proj(merge_heads(attn_output))


class SiglipPoolingHead(Module):
    """One vector for an image, `[batch, hidden]`: what a learned query finds in its patches."""

    def __init__(self, config: SiglipVisionConfig, policy: Policy):
        width, inner, activation = config.hidden_size, config.intermediate_size, config.hidden_act
        self.probe = param((1, 1, width), policy.param_dtype, normal(width**-0.5))
        self.attention = SiglipPoolingAttention(config, policy)
        self.layernorm = config.layer_spec.norm(policy)
        self.mlp = MLP(width, inner, policy, activation=activation, init=xavier_uniform())

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        """`[batch, patches, hidden]` to `[batch, hidden]`."""
        batch, _, width = hidden_states.shape
        query = jnp.broadcast_to(self.probe[...].astype(hidden_states.dtype), (batch, 1, width))
        found = self.attention(query, hidden_states)
        return (found + self.mlp(self.layernorm(found)))[:, 0]


class SiglipTextModel(TextTower):
    """The text tower. It also loads from a checkpoint of both."""

    config_class = SiglipTextConfig

    def setup(self, config: SiglipTextConfig, policy: Policy) -> None:
        width = config.hidden_size
        self.embeddings = TextEmbeddings(config, policy, normal(width**-0.5))
        self.encoder = TowerEncoder(config, policy)
        self.final_layer_norm = config.layer_spec.norm(policy)
        place(self, "head", Linear(width, config.projection_size or width, policy, init=lecun_normal()))

    def mask(self, attention_mask: jax.Array | None, q_len: int) -> jax.Array | None:
        """What each token may attend to: all that are not padding."""
        return None if attention_mask is None else padding_mask(attention_mask)

    def pool(self, hidden_states: jax.Array, input_ids: jax.Array) -> jax.Array:
        """The last token's state, even if that is padding, through a dense layer: `[batch, projection]`."""
        return attrgetter("head")(self)(hidden_states[:, -1])


class SiglipVisionModel(VisionTower):
    """The vision tower. It also loads from a checkpoint of both."""

    config_class = SiglipVisionConfig

    def setup(self, config: SiglipVisionConfig, policy: Policy) -> None:
        width = config.hidden_size
        self.embeddings = ImageEmbeddings(
            config, policy, patch_init=lecun_normal(), position_init=normal(width**-0.5), patch_bias=True
        )
        self.encoder = TowerEncoder(config, policy)
        self.post_layernorm = config.layer_spec.norm(policy)
        place(self, "head", SiglipPoolingHead(config, policy) if config.vision_use_head else None)

    def pool(self, hidden_states: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        last, head = self.post_layernorm(hidden_states), attrgetter("head")(self)
        return last, None if head is None else head(last)


class SiglipModel(TwoTowers):
    """Both towers, and how near their vectors are; the sigmoid of a logit is the probability that a pair belongs."""

    config_class = SiglipConfig
    base_model_prefix = "siglip"

    def setup(self, config: SiglipConfig, policy: Policy) -> None:
        if not config.vision_config.vision_use_head:
            raise ConfigError("vision_use_head=False: images have no vectors then, which SiglipModel compares")
        self.text_model = SiglipTextModel.as_submodule(config.text_config, policy)
        self.vision_model = SiglipVisionModel.as_submodule(config.vision_config, policy)
        self.logit_scale = param((1,), policy.param_dtype, zeros)
        self.logit_bias = param((1,), policy.param_dtype, zeros)

    def similarity(self, text_embeds: jax.Array, image_embeds: jax.Array) -> jax.Array:
        bias = self.logit_bias[...].astype(jnp.float32).reshape(())
        return super().similarity(text_embeds, image_embeds) + bias


class SiglipForImageClassification(TowerForImageClassification):
    """A label for an image, by the mean of its patches in the vision tower."""

    base_class = SiglipModel
    vision_class = SiglipVisionModel
    first_patch = 0

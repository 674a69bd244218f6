"""The tower for texts and the tower for images of a model of both: configuration, layers, embeddings, base models."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.bases.transformer import DropoutRates, LayerSpec, TransformerLayer, pre_norm
from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import FlaxModelsError
from flaxmodels.fields import Activation, Epsilon, Layers, Rate, Size
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.conv import Conv2d, channels_last
from flaxmodels.nn.embedding import Embedding
from flaxmodels.nn.initializers import Initializer, xavier_uniform
from flaxmodels.nn.module import Module, param
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.resize import resize_positions
from flaxmodels.nn.stack import Stack
from flaxmodels.outputs import BaseModelOutputWithPooling
from flaxmodels.policy import Policy


class TowerConfig(PreTrainedConfig):
    """What the configurations of all towers have."""

    multiples = (("hidden_size", "num_attention_heads"),)

    hidden_size: Size = 768
    intermediate_size: Size = 3072
    num_hidden_layers: Layers = 12
    num_attention_heads: Size = 12
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5
    attention_dropout: Rate = 0.0

    def validation_errors(self) -> list[str]:
        found = super().validation_errors()
        image, patch = (vars(self).get(name, 1) for name in ("image_size", "patch_size"))
        return [*found, f"image_size={image} is smaller than patch_size={patch}"] if image < patch else found

    @property
    def layer_spec(self) -> LayerSpec:
        """The numbers of a layer."""
        return LayerSpec(
            self.hidden_size,
            self.num_attention_heads,
            self.intermediate_size,
            activation=self.hidden_act,
            epsilon=self.layer_norm_eps,
            init=xavier_uniform(),
            rates=DropoutRates(weights=self.attention_dropout),
        )


class TowerLayer(TransformerLayer):
    """A layer with norms before attention and feed-forward network."""

    residual = staticmethod(pre_norm)
    names = {
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "query": "self_attn.q_proj",
        "attn_out": "self_attn.out_proj",
        "attn_norm": "layer_norm1",
        "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
        "mlp_norm": "layer_norm2",
    }


class TowerEncoder(Module):
    """The layers of a tower."""

    def __init__(self, config: TowerConfig, policy: Policy):
        spec = config.layer_spec
        self.layers = Stack(lambda: TowerLayer(spec, policy), config.num_hidden_layers, policy)


class TextEmbeddings(Module):
    """Embeddings of tokens and of their positions, added."""

    def __init__(self, config: Any, policy: Policy, init: Initializer):
        self.token_embedding = Embedding(config.vocab_size, config.hidden_size, policy, init=init)
        self.position_embedding = Embedding(config.max_position_embeddings, config.hidden_size, policy, init=init)

    def __call__(self, input_ids: jax.Array, position_ids: jax.Array | None) -> jax.Array:
        """`[batch, q_len, hidden]`."""
        positions = jnp.arange(input_ids.shape[1])[None] if position_ids is None else position_ids
        return self.token_embedding(input_ids) + self.position_embedding(positions)


class ImageEmbeddings(Module):
    """The patches of an image with their positions, after a class token if it has an initialiser, `class_init`."""

    def __init__(
        self,
        config: Any,
        policy: Policy,
        *,
        patch_init: Initializer,
        position_init: Initializer,
        patch_bias: bool = False,
        class_init: Initializer | None = None,
    ):
        self.channels, self.image_size = config.num_channels, config.image_size
        self.side = config.image_size // config.patch_size
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = None if class_init is None else param((width,), policy.param_dtype, class_init)
        self.patch_embedding = Conv2d(
            self.channels, width, patch, policy, stride=patch, use_bias=patch_bias, init=patch_init
        )
        count = self.side**2 + (class_init is not None)
        self.position_embedding = Embedding(count, width, policy, init=position_init)

    def __call__(self, pixel_values: jax.Array, interpolate_pos_encoding: bool) -> jax.Array:
        """`[batch, tokens, hidden]`.

        Raises:
            FlaxModelsError: images of another size than the model's, without `interpolate_pos_encoding`.
        """
        image = channels_last(pixel_values, self.channels)
        batch, height, width, _ = image.shape
        if not interpolate_pos_encoding and (height, width) != (self.image_size, self.image_size):
            raise FlaxModelsError(
                f"images of {height}x{width} pixels: the model's are {self.image_size}x{self.image_size}. "
                "Resize them, or pass interpolate_pos_encoding=True."
            )
        patches = self.patch_embedding(image)
        tokens = patches.reshape(batch, -1, patches.shape[-1])
        if self.class_embedding is not None:
            first = self.class_embedding[...].astype(tokens.dtype)[None, None]
            tokens = jnp.concatenate([jnp.broadcast_to(first, (batch, 1, tokens.shape[-1])), tokens], axis=1)
        table = self.position_embedding.embedding[...]
        positions = resize_positions(table, (self.side, self.side), *patches.shape[1:3])
        return tokens + positions.astype(tokens.dtype)[None]


class TowersPreTrainedModel(PreTrainedModel):
    """Base of two towers and of each of them."""

    keys_to_ignore_on_load = (r"embeddings\.position_ids$",)
    tp_plan = {"(q_proj|k_proj|v_proj|fc1)": COLUMN, "(out_proj|fc2|token_embedding)": ROW}
    config: Any


class TextTower(TowersPreTrainedModel):
    """The tower for texts. It also loads from a checkpoint of both."""

    base_model_prefix = flax_prefix = "text_model"
    input_embeddings = "embeddings.token_embedding"
    position_embeddings = "embeddings.position_embedding"
    embeddings: Any
    encoder: TowerEncoder
    final_layer_norm: Any

    def forward(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutputWithPooling:
        """Encode texts.

        Args:
            input_ids: int `[batch, q_len]`.
            attention_mask: `[batch, q_len]`, 0 for padding.
            position_ids: int `[batch, q_len]`; 0, 1, ... if not given.
        """
        outputs = self.encoder.layers(
            self.embeddings(input_ids, position_ids),
            dropout_rng=dropout_rng,
            output_hidden_states=output_hidden_states,
            mask=self.mask(attention_mask, input_ids.shape[1]),
            output_attentions=output_attentions,
        )
        last = self.final_layer_norm(outputs.last_hidden_state)
        outputs = outputs._replace(last_hidden_state=last)
        return BaseModelOutputWithPooling(**outputs._asdict(), pooler_output=self.pool(last, input_ids))

    def mask(self, attention_mask: jax.Array | None, q_len: int) -> jax.Array | None:
        """What each token may attend to, boolean, broadcastable to `[batch, heads, q_len, q_len]`; `None` for all."""
        raise NotImplementedError

    def pool(self, hidden_states: jax.Array, input_ids: jax.Array) -> jax.Array:
        """One vector for each text, `[batch, hidden]`."""
        raise NotImplementedError


class VisionTower(TowersPreTrainedModel):
    """The tower for images. It also loads from a checkpoint of both."""

    base_model_prefix = flax_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_embeddings = "embeddings.patch_embedding"
    embeddings: ImageEmbeddings
    encoder: TowerEncoder

    def forward(
        self,
        pixel_values: jax.Array,
        *,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            pixel_values: `[batch, channels, height, width]`, or `[batch, height, width, channels]`.
            interpolate_pos_encoding: allow images of other sizes, to which the table of positions is resized.

        Raises:
            FlaxModelsError: images of another size than the model's, without `interpolate_pos_encoding`.
        """
        outputs = self.encoder.layers(
            self.embed(pixel_values, interpolate_pos_encoding),
            dropout_rng=dropout_rng,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        last, pooled = self.pool(outputs.last_hidden_state)
        return BaseModelOutputWithPooling(**outputs._replace(last_hidden_state=last)._asdict(), pooler_output=pooled)

    def embed(self, pixel_values: jax.Array, interpolate_pos_encoding: bool) -> jax.Array:
        """What the first layer reads, `[batch, tokens, hidden]`."""
        return self.embeddings(pixel_values, interpolate_pos_encoding)

    def pool(self, hidden_states: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """The last hidden states, from those that the layers give, and one vector for each image."""
        raise NotImplementedError

"""Encoders of raw audio in the manner of wav2vec 2.0 (arXiv 2006.11477): convolutions, and layers of a transformer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.bases.transformer import TransformerLayer, pre_norm
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.conv import Conv1d, WeightNormConv1d
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.initializers import he_normal, normal
from flaxmodels.nn.masks import padding_mask
from flaxmodels.nn.module import Module, ModuleList
from flaxmodels.nn.norms import LayerNorm
from flaxmodels.nn.speech import ChannelNorm
from flaxmodels.nn.stack import BlockOutput, Stack, StackOutput
from flaxmodels.policy import Policy

EPSILON = 1e-5
"""Of the norms that `layer_norm_eps` does not speak of."""


class AudioConvLayer(Module):
    """A convolution, a norm in some layers, and an activation."""

    def __init__(self, config: Any, policy: Policy, number: int):
        channels = config.conv_dim[number]
        self.activation = get_activation(config.feat_extract_activation)
        self.conv = Conv1d(
            config.conv_dim[number - 1] if number else 1,
            channels,
            config.conv_kernel[number],
            policy,
            stride=config.conv_stride[number],
            use_bias=config.conv_bias,
            init=he_normal(),
        )
        if config.feat_extract_norm == "layer":
            self.layer_norm = LayerNorm(channels, policy, epsilon=EPSILON)
        elif number == 0:
            self.layer_norm = ChannelNorm(channels, policy, epsilon=EPSILON)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        return self.activation(self.layer_norm(x) if hasattr(self, "layer_norm") else x)


class AudioFeatureEncoder(Module):
    """From samples `[batch, samples]` to features `[batch, frames, channels]`."""

    def __init__(self, config: Any, policy: Policy):
        layers = range(len(config.conv_dim))
        self.conv_layers = ModuleList(AudioConvLayer(config, policy, number) for number in layers)

    def __call__(self, input_values: jax.Array) -> jax.Array:
        x = input_values[..., None]
        for layer in self.conv_layers:
            x = layer(x)
        return x


class AudioFeatureProjection(Module):
    """From the channels of the convolutions to the size of the hidden states."""

    def __init__(self, config: Any, policy: Policy):
        channels = config.conv_dim[-1]
        self.dropout_rate = config.feat_proj_dropout
        self.layer_norm = LayerNorm(channels, policy, epsilon=config.layer_norm_eps)
        self.projection = Linear(channels, config.hidden_size, policy, init=normal((3 * channels) ** -0.5))

    def __call__(self, features: jax.Array, dropout_rng: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Hidden states `[batch, frames, hidden]` of features `[batch, frames, channels]`, and these normalised."""
        features = self.layer_norm(features)
        return dropout(self.projection(features), self.dropout_rate, dropout_rng), features


class PositionalConvEmbedding(Module):
    """Positions as a convolution of the frames around each frame."""

    def __init__(self, config: Any, policy: Policy):
        width, features = config.num_conv_pos_embeddings, config.hidden_size
        self.is_even = width % 2 == 0
        self.activation = get_activation(config.feat_extract_activation)
        self.conv = WeightNormConv1d(
            features,
            features,
            width,
            policy,
            padding=width // 2,
            groups=config.num_conv_pos_embedding_groups,
            stddev=2 * (width * features) ** -0.5,
        )

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        positions = self.conv(hidden_states)
        return self.activation(positions[:, :-1] if self.is_even else positions)


class AttentionAdapter(Module):
    """A small network after a layer, trained for one language (arXiv 2305.13516)."""

    def __init__(self, config: Any, policy: Policy, features: int):
        init = normal(config.initializer_range)
        self.norm = LayerNorm(config.hidden_size, policy, epsilon=EPSILON)
        self.linear_1 = Linear(config.hidden_size, features, policy, init=init)
        self.linear_2 = Linear(features, config.hidden_size, policy, init=init)

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        return self.linear_2(jax.nn.relu(self.linear_1(self.norm(hidden_states))))


class AudioLayer(TransformerLayer):
    """A layer with norms after attention and feed-forward network."""

    names = {
        "key": "attention.k_proj",
        "value": "attention.v_proj",
        "query": "attention.q_proj",
        "attn_out": "attention.out_proj",
        "attn_norm": "layer_norm",
        "mlp_in": "feed_forward.intermediate_dense",
        "mlp_out": "feed_forward.output_dense",
        "mlp_norm": "final_layer_norm",
    }


class StableAudioLayer(AudioLayer):
    """A layer with norms before attention and feed-forward network, and perhaps an adapter after them."""

    residual = staticmethod(pre_norm)

    def __init__(self, config: Any, policy: Policy):
        super().__init__(config.layer_spec, policy)
        size = config.adapter_attn_dim
        self.adapter_layer = None if size is None else AttentionAdapter(config, policy, size)

    def transform(self, hidden_states: jax.Array, **options: Any) -> BlockOutput:
        output = super().transform(hidden_states, **options)
        if self.adapter_layer is None:
            return output
        return output._replace(hidden_states=output.hidden_states + self.adapter_layer(output.hidden_states))


class AudioEncoder(Module):
    """Positions, layers and a norm, which comes before the layers or, if they are stable, after them."""

    def __init__(self, config: Any, policy: Policy):
        self.is_stable, self.dropout_rate = config.do_stable_layer_norm, config.hidden_dropout
        self.pos_conv_embed = PositionalConvEmbedding(config, policy)
        self.layer_norm = config.layer_spec.norm(policy)
        self.layers = Stack(lambda: self.make_layer(config, policy), config.num_hidden_layers, policy)

    def make_layer(self, config: Any, policy: Policy) -> AudioLayer:
        """A layer of the kind that the configuration asks for."""
        return StableAudioLayer(config, policy) if self.is_stable else AudioLayer(config.layer_spec, policy)

    def __call__(
        self, hidden_states: jax.Array, valid: jax.Array | None, *, dropout_rng: jax.Array | None, **options: Any
    ) -> StackOutput:
        """Encode `[batch, frames, hidden]`, where `valid`, bool `[batch, frames]`, is false for padding."""
        keys = split_key(dropout_rng, 2)
        if valid is not None:
            hidden_states = jnp.where(valid[..., None], hidden_states, 0.0)
        hidden_states = hidden_states + self.pos_conv_embed(hidden_states)
        outputs = self.layers(
            dropout(hidden_states if self.is_stable else self.layer_norm(hidden_states), self.dropout_rate, keys[0]),
            dropout_rng=keys[1],
            mask=None if valid is None else padding_mask(valid),
            **options,
        )
        if self.is_stable:  # hidden states are those before the norm
            outputs = outputs._replace(last_hidden_state=self.layer_norm(outputs.last_hidden_state))
        return outputs


class ShorteningLayer(Module):
    """A gated convolution with a stride."""

    def __init__(self, config: Any, policy: Policy):
        size = config.adapted_size
        width, stride = config.adapter_kernel_size, config.adapter_stride
        self.conv = Conv1d(size, 2 * size, width, policy, stride=stride, padding=1, init=he_normal())

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        return jax.nn.glu(self.conv(hidden_states))


class AudioAdapter(Module):
    """Convolutions that leave fewer frames. None is dropped in training, as lengths depend on all."""

    def __init__(self, config: Any, policy: Policy):
        self.projects = config.adapted_size != config.hidden_size
        if self.projects:
            init = normal(config.initializer_range)
            self.proj = Linear(config.hidden_size, config.adapted_size, policy, init=init)
            self.proj_layer_norm = LayerNorm(config.adapted_size, policy, epsilon=EPSILON)
        self.layers = ModuleList(ShorteningLayer(config, policy) for _ in range(config.num_adapter_layers))

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        if self.projects:
            hidden_states = self.proj_layer_norm(self.proj(hidden_states))
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states

"""Text encoders in the manner of BERT (arXiv 1810.04805): embeddings, layers and a pooler.

An architecture declares the paths of its parts and the class of its layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from flaxmodels.bases.parts import place
from flaxmodels.bases.transformer import TransformerLayer, text_mask
from flaxmodels.errors import ConfigError
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.cache import Cache
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.embedding import Embedding, embed
from flaxmodels.nn.initializers import normal
from flaxmodels.nn.masks import padding_mask
from flaxmodels.nn.module import Module, fresh
from flaxmodels.nn.norms import LayerNorm
from flaxmodels.nn.stack import Stack, StackOutput
from flaxmodels.outputs import BaseModelOutputWithPooling
from flaxmodels.policy import Policy


class EncoderEmbeddings(Module):
    """Embeddings of tokens, of their positions and, if there are any, of their types, added and normalised."""

    def __init__(
        self,
        config: Any,
        policy: Policy,
        *,
        hidden_size: int,
        epsilon: float,
        dropout_rate: float,
        token_types: int | None = None,
    ):
        init = normal(config.initializer_range)
        self.dropout_rate = dropout_rate
        self.word_embeddings = Embedding(config.vocab_size, hidden_size, policy, init=init)
        self.position_embeddings = Embedding(config.max_position_embeddings, hidden_size, policy, init=init)
        if token_types is not None:
            self.token_type_embeddings = Embedding(token_types, hidden_size, policy, init=init)
        self.LayerNorm = LayerNorm(hidden_size, policy, epsilon=epsilon)

    def __call__(
        self,
        token_embeddings: jax.Array,
        token_type_ids: jax.Array | None,
        position_ids: jax.Array,
        dropout_rng: jax.Array | None,
    ) -> jax.Array:
        """`[batch, q_len, hidden]`, of embeddings of tokens of that shape; types are 0 if not given."""
        total = token_embeddings
        if hasattr(self, "token_type_embeddings"):
            types = jnp.zeros_like(position_ids) if token_type_ids is None else token_type_ids
            total = total + self.token_type_embeddings(types)
        return dropout(self.LayerNorm(total + self.position_embeddings(position_ids)), self.dropout_rate, dropout_rng)


class EncoderModel(PreTrainedModel):
    """An encoder, or, with `is_decoder=True` in its configuration, a decoder, without a head.

    Attributes:
        layer_class: class of the layers.
        layers_path: path of the layers.
        pooler_path: path of the dense layer of the pooler; "" if there is no pooler.
        lm_head_names: from the role of each part of the head that predicts tokens, "dense", "norm", "bias" and
            "decoder", to its path, in the order of the parameters. The bias may have a path of its own beside that in
            the decoder, which has it in any case.
        lm_head_activation: name of the activation of that head; that of the layers if it is "".
    """

    input_embeddings = "embeddings.word_embeddings"
    position_embeddings = "embeddings.position_embeddings"
    layer_class: ClassVar[type[TransformerLayer]]
    layers_path: ClassVar[str] = "encoder.layer"
    pooler_path: ClassVar[str] = "pooler.dense"
    lm_head_names: ClassVar[Mapping[str, str]]
    lm_head_activation: ClassVar[str] = ""
    config: Any
    embeddings: Any
    pooler: Any

    def setup(self, config: Any, policy: Policy, *, add_pooling_layer: bool = True) -> None:
        self.embeddings = self.make_embeddings(config, policy)
        place(self, self.layers_path, self.make_layers(config, policy))
        self.add_pooler(config, policy, add_pooling_layer)

    def make_embeddings(self, config: Any, policy: Policy) -> Module:
        """The module of the embeddings."""
        spec = config.layer_spec
        return EncoderEmbeddings(
            config, policy, hidden_size=spec.hidden_size, epsilon=spec.epsilon, dropout_rate=spec.rates.mlp
        )

    def make_layers(self, config: Any, policy: Policy) -> Stack:
        """The layers."""
        return Stack(lambda: self.make_layer(config, policy), config.num_hidden_layers, policy)

    def make_layer(self, config: Any, policy: Policy) -> TransformerLayer:
        """A layer, whose cross-attention checkpoints of an encoder lack."""
        layer = self.layer_class(config.layer_spec, policy, crosses=config.add_cross_attention)
        for role in layer.names:
            if layer.crosses and role.startswith("cross_"):
                fresh(layer.at(role))
        return layer

    def add_pooler(self, config: Any, policy: Policy, add_pooling_layer: bool) -> None:
        """Make the pooler, if there is one."""
        if add_pooling_layer and self.pooler_path:
            init = normal(config.initializer_range)
            place(self, self.pooler_path, Linear(config.hidden_size, config.hidden_size, policy, init=init))
            fresh(self.pooler)
        else:
            self.pooler = None

    def encode(
        self,
        input_ids: jax.Array | None,
        inputs_embeds: jax.Array | None,
        attention_mask: jax.Array | None,
        position_ids: jax.Array | None,
        token_type_ids: jax.Array | None = None,
        *,
        encoder_attention_mask: jax.Array | None = None,
        past_key_values: Cache | None = None,
        dropout_rng: jax.Array | None = None,
        **options: Any,
    ) -> BaseModelOutputWithPooling:
        """What `forward` returns, whose arguments these are; `options` are those of the layers."""
        token_embeddings = embed(self.get_input_embeddings(), input_ids, inputs_embeds)
        cache = None if past_key_values is None else past_key_values[0]
        if position_ids is None:
            position_ids = self.positions(input_ids, token_embeddings.shape[1], 0 if cache is None else cache.length)
        keys = split_key(dropout_rng, 2)
        outputs = self.run_layers(
            self.embeddings(token_embeddings, token_type_ids, position_ids, keys[0]),
            past_key_values=past_key_values,
            dropout_rng=keys[1],
            encoder_attention_mask=None if encoder_attention_mask is None else padding_mask(encoder_attention_mask),
            **self.layer_inputs(attention_mask, position_ids, cache),
            **options,
        )
        return BaseModelOutputWithPooling(pooler_output=self.pool(outputs.last_hidden_state), **outputs._asdict())

    def layer_inputs(self, attention_mask: jax.Array | None, position_ids: jax.Array, cache: Any) -> dict[str, Any]:
        """What the layers of the architecture get beside the hidden states: by default a mask."""
        return {"mask": text_mask(attention_mask, position_ids.shape[1], cache, causal=self.config.is_decoder)}

    def run_layers(self, hidden_states: jax.Array, **options: Any) -> StackOutput:
        """Run the layers; an architecture adds what comes before the first and after the last of them."""
        return attrgetter(self.layers_path)(self)(hidden_states, **options)

    def pool(self, hidden_states: jax.Array) -> jax.Array | None:
        """One vector for each text, `[batch, hidden]`: its first state through a dense layer and tanh."""
        if self.pooler is None:
            return None
        return jnp.tanh(attrgetter(self.pooler_path)(self)(hidden_states[:, 0]))

    def positions(self, input_ids: jax.Array | None, q_len: int, start: jax.Array | int) -> jax.Array:
        """int `[batch, q_len]` or `[1, q_len]`, as `default_positions` says, after `start` tokens in a cache."""
        first, skipped = self.default_positions
        if skipped is None or input_ids is None:
            return (jnp.arange(q_len) + start + first)[None]
        counts = (input_ids != skipped[1]).astype(jnp.int32)
        return (counts.cumsum(-1) + start) * counts + first - 1

    @property
    def output_features(self) -> int:
        """Size of what the model returns."""
        return self.config.hidden_size

    def init_cache(self, batch_size: int, max_length: int, dtype: Any = None) -> Cache:
        """An empty cache for `batch_size` sequences of `max_length` tokens.

        Raises:
            ConfigError: the configuration does not say `is_decoder=True`.
        """
        if not self.config.is_decoder:
            raise ConfigError("a BERT that decodes with a cache needs is_decoder=True in its configuration")
        return super().init_cache(batch_size, max_length, dtype)

"""The skeleton of a decoder: embedding, layers, final norm.

An architecture is a page of parts: a layer (`decoder_layer.py`), and a model that names the class of its layers and
declares by `layer_context` what they are given beside hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from flaxmodels.bases.decoder_layer import DecoderLayer
from flaxmodels.bases.decoder_parts import rms_norm, token_embedding
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.alibi import alibi_bias
from flaxmodels.nn.cache import Cache, self_attention_cache
from flaxmodels.nn.dropout import split_key
from flaxmodels.nn.embedding import embed
from flaxmodels.nn.masks import decoder_masks, new_positions, token_positions
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.rope import layer_rope_tables
from flaxmodels.nn.stack import BlockOutput, Stack, StackOutput, by_layer
from flaxmodels.outputs import BaseModelOutput
from flaxmodels.policy import Policy, to_dtype


class Tokens(NamedTuple):
    """The tokens of a call.

    Attributes:
        attention_mask: `[batch, length]`, of the whole sequence, 0 for padding; or `None`.
        position_ids: int `[batch, q_len]` or `[1, q_len]`.
        past_key_values: the cache that they are added to, or `None`.
        token_type_ids: int `[batch, q_len]`, of models that have them; or `None`.
    """

    attention_mask: jax.Array | None
    position_ids: jax.Array
    past_key_values: Cache | None
    token_type_ids: jax.Array | None = None

    @property
    def q_len(self) -> int:
        """Number of new tokens."""
        return self.position_ids.shape[1]

    @property
    def cache(self) -> Any:
        """The cache of the first layer that has one, or `None`."""
        return None if self.past_key_values is None else self_attention_cache(self.past_key_values)


def causal_masks(config: Any, tokens: Tokens) -> tuple[Any, ...]:
    """The attention mask of each layer, which has a window where `attention_windows` says so."""
    windows = config.attention_windows
    return decoder_masks(tokens.attention_mask, tokens.q_len, tokens.past_key_values, windows)


def rotary_tables(config: Any, tokens: Tokens) -> tuple[Any, ...]:
    """Cosines and sines of each layer, by `ropes`."""
    return layer_rope_tables(config.ropes, tokens.position_ids)


def alibi_biases(config: Any, tokens: Tokens) -> tuple[Any, ...]:
    """The linear biases of each layer, which are those of all: distances to tokens, padding not counted."""
    positions = jnp.arange(tokens.q_len) if tokens.cache is None else tokens.cache.key_positions(tokens.q_len)
    bias = alibi_bias(config.num_attention_heads, token_positions(tokens.attention_mask, positions))
    return (bias,) * config.num_hidden_layers


class DecoderBase(PreTrainedModel):
    """A decoder without a head, whose subclass defines `forward`. Its parts have the names of most architectures; a
    subclass that has others overrides `setup` and says where they are.

    Attributes:
        layer_class: class of the layers, which are made of a configuration and a policy.
        layers_path: path of the `Stack` of layers.
        final_norm_path: path of the norm after them.
        layer_context: what layers are given beside hidden states, by name: functions from the configuration and the
            tokens of a call to a tuple of one value a layer.
    """

    base_model_prefix = "model"
    keys_to_ignore_on_load = (r"rotary_emb\.inv_freq$",)
    input_embeddings = "embed_tokens"
    tp_plan = {
        "(q_proj|k_proj|v_proj|gate_proj|up_proj|lm_head)": COLUMN,
        "(o_proj|down_proj|embed_tokens)": ROW,
    }
    layer_class: ClassVar[type[DecoderLayer]]
    layers_path: ClassVar[str] = "layers"
    final_norm_path: ClassVar[str] = "norm"
    layer_context: ClassVar[Mapping[str, Callable[[Any, Tokens], tuple[Any, ...]]]] = {
        "mask": causal_masks,
        "rope": rotary_tables,
    }
    config: Any

    def setup(self, config: Any, policy: Policy) -> None:
        self.embed_tokens = token_embedding(config, policy)
        self.layers = self.make_layers(config, policy)
        self.norm = rms_norm(config, policy)

    def make_layers(self, config: Any, policy: Policy) -> Stack:
        """The layers."""
        return Stack(lambda: self.layer_class(config, policy), config.num_hidden_layers, policy)

    def decode(
        self,
        input_ids: jax.Array | None,
        attention_mask: jax.Array | None,
        position_ids: jax.Array | None,
        past_key_values: Cache | None,
        inputs_embeds: jax.Array | None,
        token_type_ids: jax.Array | None = None,
        /,
        *,
        dropout_rng: jax.Array | None,
        **options: Any,
    ) -> tuple[StackOutput, list[BlockOutput]]:
        """What the layers return together, normalised, and what each returns; `options` are passed to the layers."""
        keys = split_key(dropout_rng, 2)
        token_embeds = embed(self.get_input_embeddings(), input_ids, inputs_embeds)
        if position_ids is None:
            cache = None if past_key_values is None else self_attention_cache(past_key_values)
            position_ids = self.default_position_ids(attention_mask, new_positions(token_embeds.shape[1], cache))
        tokens = Tokens(attention_mask, position_ids, past_key_values, token_type_ids)
        outputs, layers = self._stack.run(
            self.embed_inputs(token_embeds, tokens, keys[0]),
            past_key_values=past_key_values,
            dropout_rng=keys[1],
            **options,
            **by_layer(**{name: make(self.config, tokens) for name, make in self.layer_context.items()}),
        )
        return outputs.normalised(self.normalise), layers

    def default_position_ids(self, attention_mask: jax.Array | None, positions: jax.Array) -> jax.Array:
        """The positions `[batch, q_len]` or `[1, q_len]` of tokens at `positions` `[q_len]` of a sequence."""
        return positions[None]

    def embed_inputs(self, token_embeds: jax.Array, tokens: Tokens, dropout_rng: jax.Array | None) -> jax.Array:
        """What the first layer reads, `[batch, q_len, hidden]`, from the embeddings of the tokens."""
        return token_embeds

    def normalise(self, hidden_states: jax.Array) -> jax.Array:
        """The output of the model from that of the last layer."""
        return attrgetter(self.final_norm_path)(self)(hidden_states)

    @property
    def output_features(self) -> int:
        """Size of what the model returns."""
        return self.config.hidden_size

    @property
    def _stack(self) -> Stack:
        return attrgetter(self.layers_path)(self)

    def init_cache(self, batch_size: int, max_length: int, dtype: Any = None) -> Cache:
        """An empty cache for `batch_size` sequences of `max_length` tokens, by default in `policy.dtype`."""
        stored, windows = to_dtype(dtype or self.policy.dtype), self.config.attention_windows
        if self.policy.scan_layers and len(set(windows)) > 1:  # layers are stacked, and so must be of one shape
            windows = (None,) * len(windows)
        layers = zip(self._stack.blocks(), windows, strict=True)
        return tuple(layer.init_cache(batch_size, max_length, stored, window) for layer, window in layers)


class DecoderModel(DecoderBase):
    """A decoder without a head, which takes the usual inputs."""

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutput:
        """Decode.

        Args:
            input_ids: int `[batch, q_len]`; or `inputs_embeds` `[batch, q_len, features]` in its place.
            attention_mask: `[batch, kv_len]`, 0 for padding; with a cache it is of the whole sequence.
            position_ids: int `[batch, q_len]`; 0, 1, ... after the cache.
            past_key_values: from `init_cache` or an earlier output.
        """
        inputs = (input_ids, attention_mask, position_ids, past_key_values, inputs_embeds)
        options: dict[str, Any] = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        outputs, _ = self.decode(*inputs, **options, dropout_rng=dropout_rng)
        return BaseModelOutput(**outputs._asdict())

"""Models of an encoder and a decoder: configuration, stacks of layers, base model."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.bases.parts import place
from flaxmodels.bases.transformer import text_mask
from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution.call import as_jax
from flaxmodels.execution.inputs import Input, last_hidden_state
from flaxmodels.fields import TokenId
from flaxmodels.generation.config import GenerationConfig
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.cache import Cache, LayerCache, self_attention_cache
from flaxmodels.nn.dense import Linear, TiedLinear, vocabulary_projection
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.embedding import Embedding, embed, embedding_sizes
from flaxmodels.nn.initializers import Initializer
from flaxmodels.nn.masks import new_positions, padding_mask
from flaxmodels.nn.module import Module
from flaxmodels.nn.stack import StackOutput
from flaxmodels.outputs import (
    BaseModelOutput,
    Seq2SeqModelOutput,
)
from flaxmodels.parameters import Params
from flaxmodels.policy import Policy


class EncoderDecoderConfig(PreTrainedConfig):
    """Configuration of these models.

    A subclass has `decoder_layers` and `decoder_attention_heads`, or overrides what is asked here in other words.
    """

    is_encoder_decoder: bool = True
    decoder_start_token_id: TokenId | None = None

    @property
    def kv_heads(self) -> int:
        return self.decoder_attention_heads

    @property
    def features_per_head(self) -> int:
        return self.hidden_size // self.decoder_attention_heads

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        return (None,) * self.decoder_layers

    @property
    def embedding_init(self) -> Initializer:
        """Initialiser of the embeddings, and of a projection to the vocabulary."""
        raise NotImplementedError

    @property
    def classifier_init(self) -> Initializer:
        """Initialiser of the dense layers of other heads."""
        return self.embedding_init


class TextStack(Module):
    """An encoder or a decoder of text.

    Attributes:
        layers_path: path of the layers.
        decodes: whether each token attends to those before it only, and at the encoder's output.
        dropout_rate: dropout rate of the embeddings.
    """

    layers_path: ClassVar[str] = "layers"
    decodes: bool
    dropout_rate: float
    embed_tokens: Embedding
    embed_positions: Embedding

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
        encoder_hidden_states: jax.Array | None = None,
        encoder_attention_mask: jax.Array | None = None,
        past_key_values: Cache | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutput:
        """Encode or decode; the arguments are those of `EncoderDecoderBase.forward` for the encoder or the decoder."""
        cache = None if past_key_values is None else self_attention_cache(past_key_values)
        hidden_states = self.add_positions(self.embed(input_ids, inputs_embeds), position_ids, cache)
        q_len, keys = hidden_states.shape[1], split_key(dropout_rng, 3)
        outputs = attrgetter(self.layers_path)(self)(
            dropout(hidden_states, self.dropout_rate, keys[0]),
            past_key_values=past_key_values,
            dropout_rng=keys[1],
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            mask=text_mask(attention_mask, q_len, cache, causal=self.decodes),
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=None if encoder_attention_mask is None else padding_mask(encoder_attention_mask),
            **self.layer_inputs(q_len, cache),
        )
        return BaseModelOutput(**self.finish(outputs, keys[2])._asdict())

    def embed(self, input_ids: jax.Array | None, inputs_embeds: jax.Array | None) -> jax.Array:
        """The embeddings of the tokens, `[batch, q_len, hidden]`."""
        return embed(self.embed_tokens, input_ids, inputs_embeds)

    def add_positions(self, hidden_states: jax.Array, position_ids: jax.Array | None, cache: Any) -> jax.Array:
        """What the first layer reads, before dropout; by default with positions that follow those in the cache."""
        if position_ids is None:
            position_ids = new_positions(hidden_states.shape[1], cache)[None]
        return hidden_states + self.embed_positions(position_ids)

    def layer_inputs(self, q_len: int, cache: LayerCache | None) -> dict[str, Any]:
        """What the layers of the architecture get beside the hidden states and the masks."""
        return {}

    def finish(self, outputs: StackOutput, dropout_rng: jax.Array | None) -> StackOutput:
        """The output of the layers, after a norm if the architecture has one there."""
        return outputs


class EncoderDecoderModel(PreTrainedModel):
    """Base of these models.

    Attributes:
        output_projection: path of the projection to the vocabulary; "" if there is none.
    """

    output_projection: ClassVar[str] = ""
    config: Any

    def init_cache(self, batch_size: int, max_length: int, dtype: Any = None) -> Cache:
        """An empty cache; the decoder's layers add keys and values of the encoder's output when they first see it."""
        return tuple((layer, None) for layer in super().init_cache(batch_size, max_length, dtype))

    def prepare_inputs_for_generation(
        self, input_ids: jax.Array, attention_mask: jax.Array, position_ids: jax.Array, cache: Cache
    ) -> dict[str, Any]:
        """The inputs of `forward` for the next tokens of the decoder."""
        given = super().prepare_inputs_for_generation(input_ids, attention_mask, position_ids, cache)
        return {name if name == "past_key_values" else f"decoder_{name}": value for name, value in given.items()}

    def table_sizes(self) -> dict[str, int]:
        base = self.base_model
        if not isinstance(base, EncoderDecoderBase):
            return super().table_sizes()
        return stack_sizes(base.encoder) | {f"decoder_{name}": size for name, size in stack_sizes(base.decoder).items()}

    def add_output_projection(self, table: Embedding, policy: Policy) -> None:
        """Make the projection to the tokens of `table`, whose parameter it shares if the configuration ties them."""
        tied, init = self.config.tie_word_embeddings, self.config.embedding_init
        place(self, self.output_projection, vocabulary_projection(table, policy, tied=tied, init=init))

    def get_output_embeddings(self) -> Linear | TiedLinear | None:
        return attrgetter(self.output_projection)(self) if self.output_projection else None

    def begin_decoding(
        self, encoder: dict[str, np.ndarray], settings: GenerationConfig, decoder_input_ids: Any, params: Params | None
    ) -> tuple[GenerationConfig, Any]:
        """What `generate` decides once it knows the inputs of the encoder: its settings, and the first tokens."""
        return settings, decoder_input_ids

    def encode(self, **inputs: Any) -> BaseModelOutput:
        """The encoder's output, to be given to further calls as `encoder_outputs`.

        Args:
            inputs: the inputs of the encoder.

        Raises:
            FlaxModelsError: as calls of the model do.
        """
        return self.run_encoder(**{name: as_jax(value) for name, value in self.input_checks(inputs).items()})

    def run_encoder(self, **inputs: Any) -> BaseModelOutput:
        """The encoder's output of inputs that are arrays and were checked."""
        base: Any = self.base_model
        return base.encoder(**inputs)


class EncoderDecoderBase(EncoderDecoderModel):
    """A model without a head, which has an `encoder` and a `decoder`."""

    expected_inputs = {
        "attention_mask": Input("zeros and ones", "batch length"),
        "encoder_outputs": Input("floats", "batch length hidden"),
    }
    encoder: Any
    decoder: Any

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        decoder_input_ids: jax.Array | None = None,
        decoder_attention_mask: jax.Array | None = None,
        decoder_position_ids: jax.Array | None = None,
        encoder_outputs: Any = None,
        past_key_values: Cache | None = None,
        inputs_embeds: jax.Array | None = None,
        decoder_inputs_embeds: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> Seq2SeqModelOutput:
        """Encode, and decode with attention to what was encoded.

        Args:
            input_ids: int `[batch, source_len]`; or `inputs_embeds` `[batch, source_len, hidden]` in its place.
            attention_mask: `[batch, source_len]`, 0 for padding.
            decoder_input_ids: int `[batch, q_len]`, or `decoder_inputs_embeds`; `input_ids` shifted by one to the
                right if neither is given.
            decoder_attention_mask: `[batch, kv_len]`, 0 for padding; with a cache of all tokens from the first on.
            decoder_position_ids: int `[batch, q_len]`; 0, 1, ... after the cache.
            encoder_outputs: of `encode`, or the encoder's last hidden states, in place of its inputs.
            past_key_values: from `init_cache` or an earlier output; one that has seen the encoder's output needs
                no inputs of the encoder.

        Raises:
            FlaxModelsError: not exactly one of ids and embeddings for the encoder or the decoder; a configuration
                without the start token that shifted inputs need.
        """
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        keys = split_key(dropout_rng, 2)
        encoded = encoder_outputs
        if encoded is None and not (past_key_values is not None and past_key_values[0][1] is not None):
            source = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
            encoded = self.encoder(**source, **options, dropout_rng=keys[0])
        if decoder_input_ids is None and decoder_inputs_embeds is None and input_ids is not None:
            decoder_input_ids = self.shift_right(input_ids)
        decoded = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            inputs_embeds=decoder_inputs_embeds,
            encoder_hidden_states=last_hidden_state(encoded),
            encoder_attention_mask=attention_mask,
            past_key_values=past_key_values,
            **options,
            dropout_rng=keys[1],
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            past_key_values=decoded.past_key_values,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=last_hidden_state(encoded),
            encoder_hidden_states=_field(encoded, "hidden_states"),
            encoder_attentions=_field(encoded, "attentions"),
        )

    def shift_right(self, input_ids: jax.Array) -> jax.Array:
        """`input_ids` after `decoder_start_token_id`, without their last token; -100 becomes padding.

        Raises:
            FlaxModelsError: the configuration lacks `decoder_start_token_id` or `pad_token_id`.
        """
        first, pad = self.config.decoder_start_token_id, self.config.pad_token_id
        if first is None or pad is None:
            raise FlaxModelsError(
                "pass decoder_input_ids: the configuration lacks decoder_start_token_id or pad_token_id"
            )
        shifted = jnp.concatenate([jnp.full_like(input_ids[:, :1], first), input_ids[:, :-1]], axis=1)
        return jnp.where(shifted == -100, pad, shifted)


def stack_sizes(stack: Any) -> dict[str, int]:
    """The numbers of tokens and positions of an encoder or a decoder; none of one that reads no tokens."""
    table = getattr(stack, "embed_tokens", None)
    return {} if table is None else embedding_sizes(table, getattr(stack, "embed_positions", None))


def _field(output: Any, name: str) -> Any:
    """A field of an output, or of a mapping with the same names; `None` if there is none."""
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)

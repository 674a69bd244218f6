"""Models of an encoder and a decoder: what they share whatever the architecture."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import FlaxModelsError
from flaxmodels.fields import TokenId
from flaxmodels.generation.config import GenerationConfig
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.cache import Cache
from flaxmodels.nn.call import as_jax
from flaxmodels.nn.dropout import split_key
from flaxmodels.nn.functional import Params
from flaxmodels.nn.inputs import Input, last_hidden_state
from flaxmodels.nn.linear import embedding_sizes
from flaxmodels.outputs import BaseModelOutput, Seq2SeqModelOutput


class EncoderDecoderConfig(PreTrainedConfig):
    """Configuration of these models. A subclass has `decoder_layers` and `decoder_attention_heads`, or overrides what
    is asked here in other words."""

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


class EncoderDecoderModel(PreTrainedModel):
    """Base of these models."""

    config: EncoderDecoderConfig

    def init_cache(self, batch_size: int, max_length: int, dtype: Any = None) -> Cache:
        """An empty cache; the decoder's layers add keys and values of the encoder's output when they first see it."""
        return tuple((layer, None) for layer in super().init_cache(batch_size, max_length, dtype))

    def prepare_inputs_for_generation(
        self, input_ids: jax.Array, attention_mask: jax.Array, position_ids: jax.Array, cache: Cache
    ) -> dict[str, Any]:
        """The inputs of `forward` for the next tokens of the decoder's text."""
        given = super().prepare_inputs_for_generation(input_ids, attention_mask, position_ids, cache)
        return {name if name == "past_key_values" else f"decoder_{name}": value for name, value in given.items()}

    def table_sizes(self) -> dict[str, int]:
        base = self.base_model
        if not isinstance(base, EncoderDecoderBase):
            return super().table_sizes()
        return tower_sizes(base.encoder) | {f"decoder_{name}": size for name, size in tower_sizes(base.decoder).items()}

    def begin_decoding(
        self, encoder: dict[str, np.ndarray], settings: GenerationConfig, decoder_input_ids: Any, params: Params | None
    ) -> tuple[GenerationConfig, Any]:
        """What `generate` settles once it knows the inputs of the encoder: settings, and how the text begins."""
        return settings, decoder_input_ids

    def encode(self, **inputs: Any) -> BaseModelOutput:
        """The encoder's output, to be given to further calls as `encoder_outputs`.

        Takes the inputs of the encoder by name. Raises `FlaxModelsError` as calls of the model do.
        """
        return self.run_encoder(**{name: as_jax(value) for name, value in self.input_checks(inputs).items()})

    def run_encoder(self, **inputs: Any) -> BaseModelOutput:
        """The encoder's output of inputs that are arrays and were checked."""
        base: Any = self.base_model
        return base.encoder(**inputs)


class DecoderAlone(EncoderDecoderModel):
    """A decoder without its encoder, which looks at the hidden states of one if they are given."""

    padding_takes_positions = True

    def __init__(self, config: Any, *args: Any, **kwargs: Any):
        alone = copy.copy(self.config_class.from_any(config))
        alone.is_decoder, alone.is_encoder_decoder = True, False
        super().__init__(alone, *args, **kwargs)

    def prepare_inputs_for_generation(
        self, input_ids: jax.Array, attention_mask: jax.Array, position_ids: jax.Array, cache: Cache
    ) -> dict[str, Any]:
        """The inputs of `forward` for the next tokens of a text; as in transformers, positions count padding too."""
        return {"input_ids": input_ids, "attention_mask": attention_mask, "past_key_values": cache}


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
        """Encode, and decode beside what was encoded.

        Args:
            input_ids: int `[batch, source_len]`; or `inputs_embeds` `[batch, source_len, hidden]` in its place.
            attention_mask: `[batch, source_len]`, 0 for padding.
            decoder_input_ids: int `[batch, q_len]`, or `decoder_inputs_embeds`; `input_ids` shifted by one to the
                right if neither is given.
            decoder_attention_mask: `[batch, kv_len]`, 0 for padding; with a cache it speaks of the whole text.
            decoder_position_ids: int `[batch, q_len]`; 0, 1, ... behind the cache.
            encoder_outputs: of `encode`, or the encoder's last hidden states, in the place of its inputs.
            past_key_values: from `init_cache` or an earlier output; one that has seen the encoder's output needs
                no inputs of the encoder.
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
        """`input_ids` behind `decoder_start_token_id`, without their last token; -100 becomes padding."""
        first, pad = self.config.decoder_start_token_id, self.config.pad_token_id
        if first is None or pad is None:
            raise FlaxModelsError(
                "pass decoder_input_ids: the configuration lacks decoder_start_token_id or pad_token_id"
            )
        shifted = jnp.concatenate([jnp.full_like(input_ids[:, :1], first), input_ids[:, :-1]], axis=1)
        return jnp.where(shifted == -100, pad, shifted)


def tower_sizes(tower: Any) -> dict[str, int]:
    """How many words and positions an encoder or a decoder has; nothing of one that reads no words."""
    words = getattr(tower, "embed_tokens", None)
    return {} if words is None else embedding_sizes(words, getattr(tower, "embed_positions", None))


def _field(output: Any, name: str) -> Any:
    """A field of an output, or of a mapping with the same names; `None` if there is none."""
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)

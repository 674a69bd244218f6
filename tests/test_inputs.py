"""Inputs that calls refuse, each with its whole message, and what the checks cost: no array leaves its device."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny_configs import CASES
from models.torch_reference import inputs_for

import flaxmodels
from flaxmodels.errors import FlaxModelsError
from flaxmodels.execution import input_checks
from flaxmodels.nn.cache import CrossCache

TEXT = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
BERT = {**TEXT, "max_position_embeddings": 12}
TOWERS = {
    f"{part}_{name}": value
    for part in ("encoder", "decoder")
    for name, value in {"layers": 1, "attention_heads": 2, "ffn_dim": 8}.items()
}
BART = {"vocab_size": 20, "d_model": 8, "max_position_embeddings": 12, **TOWERS}
PIXELS = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
IMAGES = {**PIXELS, "image_size": 8, "patch_size": 4}
CONFIGS: dict[str, dict[str, Any]] = {
    "BertModel": BERT,
    "BertForMultipleChoice": BERT,
    "BertLMHeadModel": {**BERT, "is_decoder": True, "add_cross_attention": True},
    "RobertaModel": {**BERT, "max_position_embeddings": 14, "pad_token_id": 1, "type_vocab_size": 1},
    "MPNetModel": {**BERT, "max_position_embeddings": 14},
    "OPTModel": {**BERT, "ffn_dim": 8, "word_embed_proj_dim": 6},
    "BloomModel": {"vocab_size": 20, "hidden_size": 8, "n_layer": 1, "n_head": 2},
    "GPT2DoubleHeadsModel": {"vocab_size": 20, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 12},
    "LlamaModel": BERT,
    "BartModel": BART,
    "MarianModel": {**BART, "decoder_vocab_size": 30, "share_encoder_decoder_embeddings": False},
    "T5Model": {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2},
    "ViTModel": IMAGES,
    "CLIPModel": {
        "text_config": BERT,
        "vision_config": IMAGES,
        "projection_dim": 4,
    },
    "WhisperModel": {
        **TOWERS,
        "vocab_size": 20,
        "d_model": 8,
        "num_mel_bins": 5,
        "max_source_positions": 11,
        "max_target_positions": 12,
        "pad_token_id": 0,
    },
    "WhisperForCausalLM": {**TOWERS, "vocab_size": 20, "d_model": 8, "max_target_positions": 12, "pad_token_id": 0},
    "Wav2Vec2Model": {
        **PIXELS,
        "vocab_size": 20,
        "conv_dim": [4],
        "conv_kernel": [4],
        "conv_stride": [2],
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
    },
}


@functools.cache
def described(name: str) -> Any:
    """A model without parameters: what is refused is refused before they are needed."""
    return getattr(flaxmodels, name).abstract(CONFIGS[name])


@functools.cache
def small(name: str) -> Any:
    return getattr(flaxmodels, name)(CONFIGS[name])


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(FlaxModelsError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


IDS = np.arange(14).reshape(2, 7)
LONG = np.full((1, 13), 5)
ONES = np.ones((2, 7), int)
IMAGE = np.zeros((2, 3, 8, 8), np.float32)
AUDIO = np.zeros((2, 30), np.float32)
SPECTRA = np.zeros((2, 5, 22), np.float32)


def cache(name: str, rows: int = 2, cache_len: int = 10) -> Any:
    return described(name).init_cache(rows, cache_len)


def seen_cache(source_len: int) -> Any:
    """Of a decoder that has seen the output of an encoder."""
    keys = np.zeros((2, source_len, 2, 4), np.float32)
    return tuple((layer, CrossCache(keys, keys)) for layer, _ in cache("BartModel"))


BEYOND = "use the tokenizer of this model"
PADDED = "those of padding do not matter if attention_mask says where it is"
WHOLE = "it covers the whole sequence, tokens in the cache included"
MADE = (
    "expected what init_cache(batch_size, max_length) of this model gives, or the past_key_values of an earlier output"
)

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    # dtypes, axes and sizes
    "one axis": (
        "BertModel",
        {"input_ids": IDS[0]},
        "input_ids: expected integers [batch, length], got int64 (7,); add the axis batch, as in x[None]",
    ),
    "three axes": (
        "BertModel",
        {"input_ids": IDS[None]},
        "input_ids: expected integers [batch, length], got int64 (1, 2, 7)",
    ),
    "a number": ("BertModel", {"input_ids": 5}, "input_ids: expected integers [batch, length], got int64 ()"),
    "float ids": (
        "BertModel",
        {"input_ids": IDS / 1},
        "input_ids: expected integers [batch, length], got float64 (2, 7); convert them with astype(int)",
    ),
    "float ids on a device": (
        "BertModel",
        {"input_ids": jnp.ones((2, 7), "bfloat16")},
        "input_ids: expected integers [batch, length], got bfloat16 (2, 7); convert them with astype(int)",
    ),
    "no row": (
        "BertModel",
        {"input_ids": IDS[:0]},
        "input_ids: expected integers [batch, length], got int64 (0, 7); no axis may be empty",
    ),
    "no token": (
        "BertModel",
        {"input_ids": jnp.zeros((2, 0), int)},
        "input_ids: expected integers [batch, length], got int32 (2, 0); no axis may be empty",
    ),
    "an empty list": (
        "BertModel",
        {"input_ids": []},
        "input_ids: expected integers [batch, length], got float64 (0,); no axis may be empty",
    ),
    "uneven rows": (
        "BertModel",
        {"input_ids": [[5, 6], [7]]},
        "input_ids: the rows differ in length; pad the shorter ones",
    ),
    "strings": (
        "BertModel",
        {"input_ids": [["a", "b"]]},
        "input_ids: expected integers [batch, length], got <U1 (1, 2); convert them with astype(int)",
    ),
    "a mask of another length": (
        "BertModel",
        {"input_ids": IDS, "attention_mask": np.ones((2, 9))},
        "attention_mask: expected [batch, length] = (2, 7) as input_ids, got (2, 9)",
    ),
    "a mask of another length for a decoder": (
        "LlamaModel",
        {"input_ids": IDS, "attention_mask": np.ones((2, 8))},
        "attention_mask: expected [batch, length] = (2, 7) as input_ids, got (2, 8)",
    ),
    "a mask of fewer rows": (
        "LlamaModel",
        {"input_ids": IDS, "attention_mask": np.ones((1, 7))},
        "attention_mask: expected [batch, length] = (2, 7) as input_ids, got (1, 7)",
    ),
    "a ready mask of another length": (
        "LlamaModel",
        {"input_ids": IDS, "attention_mask": np.ones((2, 1, 7))},
        "attention_mask: expected [batch, length, length] = (2, 7, 7) as input_ids, got (2, 1, 7)",
    ),
    "a ready mask where positions are counted": (
        "OPTModel",
        {"input_ids": IDS, "attention_mask": np.ones((2, 7, 7))},
        "attention_mask: expected zeros and ones [batch, length], got float64 (2, 7, 7)",
    ),
    "a ready mask where biases are counted": (
        "BloomModel",
        {"input_ids": IDS, "attention_mask": np.ones((2, 7, 7))},
        "attention_mask: expected zeros and ones [batch, length], got float64 (2, 7, 7)",
    ),
    "heads and layers": (
        "BertModel",
        {"input_ids": IDS, "head_mask": np.ones((3, 2))},
        "head_mask: expected [layers, heads] = (2, 2) as the model, got (3, 2)",
    ),
    "embeddings of another size": (
        "OPTModel",
        {"inputs_embeds": np.ones((2, 7, 8))},
        "inputs_embeds: expected [batch, length, features] = (2, 7, 6) as the model, got (2, 7, 8)",
    ),
    "embeddings of integers": (
        "BertModel",
        {"inputs_embeds": np.ones((2, 7, 8), int)},
        "inputs_embeds: expected floats [batch, length, features], got int64 (2, 7, 8); convert them with "
        "astype(float)",
    ),
    "choices": (
        "BertForMultipleChoice",
        {"input_ids": IDS},
        "input_ids: expected integers [batch, choices, length], got int64 (2, 7); add the axis batch, as in x[None]",
    ),
    "choices without masks": (
        "BertForMultipleChoice",
        {"input_ids": IDS[:, None], "attention_mask": np.ones((2, 2, 7))},
        "attention_mask: expected [batch, choices, length] = (2, 1, 7) as input_ids, got (2, 2, 7)",
    ),
    "hidden states of an encoder": (
        "BertLMHeadModel",
        {"input_ids": IDS, "encoder_hidden_states": np.ones((2, 5, 9)), "encoder_attention_mask": np.ones((2, 4))},
        "encoder_hidden_states: expected [batch, source_length, hidden] = (2, 5, 8) as the model, got (2, 5, 9)",
    ),
    "a mask of an encoder": (
        "BertLMHeadModel",
        {"input_ids": IDS, "encoder_hidden_states": np.ones((2, 5, 8)), "encoder_attention_mask": np.ones((2, 4))},
        "encoder_attention_mask: expected [batch, source_length] = (2, 5) as encoder_hidden_states, got (2, 4)",
    ),
    # values
    "an additive mask": (
        "BertModel",
        {"input_ids": IDS, "attention_mask": np.where(IDS < 5, 0, -1e9)},
        "attention_mask: expected zeros and ones, got -1e+09 to 0; of a mask that is added to scores, pass "
        "attention_mask == 0",
    ),
    "a mask of shares": (
        "BertModel",
        {"input_ids": IDS, "attention_mask": np.full((2, 7), 0.5)},
        "attention_mask: expected zeros and ones, got 0.5 to 0.5",
    ),
    "a mask of NaN": (
        "BertModel",
        {"input_ids": IDS, "attention_mask": np.full((2, 7), np.nan)},
        "attention_mask: expected zeros and ones, got nan to nan",
    ),
    "ids beyond the vocabulary": (
        "LlamaModel",
        {"input_ids": (IDS + 7).tolist()},
        f"input_ids: expected token ids from 0 to 19, got 7 to 20; {BEYOND}",
    ),
    "negative ids": (
        "LlamaModel",
        {"input_ids": IDS - 100},
        f"input_ids: expected token ids from 0 to 19, got -100 to -87; {BEYOND}",
    ),
    "ids that wrap": (
        "LlamaModel",
        {"input_ids": IDS + 2**32},
        f"input_ids: expected token ids from 0 to 19, got 4294967296 to 4294967309; {BEYOND}",
    ),
    "token types": (
        "RobertaModel",
        {"input_ids": IDS, "token_type_ids": ONES},
        "token_type_ids: expected token types from 0 to 0, got 1 to 1; see type_vocab_size of the configuration",
    ),
    "token types in the token embeddings": (
        "GPT2DoubleHeadsModel",
        {"input_ids": IDS, "token_type_ids": IDS + 7},
        "token_type_ids: expected token types from 0 to 19, got 7 to 20; see type_vocab_size of the configuration",
    ),
    "positions beyond their table": (
        "BertModel",
        {"input_ids": IDS, "position_ids": IDS},
        f"position_ids: expected positions from 0 to 11, got 0 to 13; {PADDED}",
    ),
    "positions beyond a table with an offset": (
        "OPTModel",
        {"input_ids": IDS, "position_ids": IDS},
        f"position_ids: expected positions from 0 to 11, got 0 to 13; {PADDED}",
    ),
    "negative positions": (
        "LlamaModel",
        {"input_ids": IDS, "position_ids": IDS - 1},
        f"position_ids: expected positions from 0 on, got -1 to 12; {PADDED}",
    ),
    "negative positions of tokens": (
        "LlamaModel",
        {"input_ids": IDS, "position_ids": IDS - 1, "attention_mask": ONES},
        f"position_ids: expected positions from 0 on, got -1 to 12; {PADDED}",
    ),
    "more tokens than positions": (
        "BertModel",
        {"input_ids": jnp.asarray(LONG)},
        "input_ids: 13 tokens exceed the 12 positions of the model; shorten the sequence",
    ),
    "more embeddings than positions": (
        "BertModel",
        {"inputs_embeds": np.ones((1, 13, 8))},
        "inputs_embeds: 13 tokens exceed the 12 positions of the model; shorten the sequence",
    ),
    "positions that begin after padding": (
        "RobertaModel",
        {"input_ids": LONG},
        "input_ids: 13 tokens exceed the 12 positions of the model; shorten the sequence",
    ),
    "positions that begin at two": (
        "MPNetModel",
        {"input_ids": LONG},
        "input_ids: 13 tokens exceed the 12 positions of the model; shorten the sequence",
    ),
    "counted positions": (
        "OPTModel",
        {"input_ids": LONG, "attention_mask": np.ones_like(LONG)},
        "input_ids: 13 tokens exceed the 12 positions of the model; shorten the sequence",
    ),
    "the token of a choice": (
        "GPT2DoubleHeadsModel",
        {"input_ids": IDS[:, None], "mc_token_ids": [[7], [0]]},
        "mc_token_ids: expected positions of tokens from 0 to 6, got 0 to 7; count from the beginning of each sequence",
    ),
    # caches
    "a mask longer than the cache": (
        "LlamaModel",
        {"input_ids": IDS, "past_key_values": cache("LlamaModel"), "attention_mask": np.ones((2, 11))},
        "attention_mask: expected [batch, length] = (2, 7 to 10) as input_ids and past_key_values, got (2, 11); "
        f"{WHOLE}",
    ),
    "a mask shorter than the new tokens": (
        "LlamaModel",
        {"input_ids": IDS, "past_key_values": cache("LlamaModel"), "attention_mask": np.ones((2, 6))},
        "attention_mask: expected [batch, length] = (2, 7 to 10) as input_ids and past_key_values, got (2, 6); "
        f"{WHOLE}",
    ),
    "a ready mask beside a cache": (
        "LlamaModel",
        {"input_ids": IDS, "past_key_values": cache("LlamaModel"), "attention_mask": np.ones((2, 7, 7))},
        "attention_mask: expected [batch, length] = (2, 7 to 10) as input_ids and past_key_values, got (2, 7, 7); "
        f"{WHOLE}",
    ),
    "a cache of other rows": (
        "LlamaModel",
        {"input_ids": IDS, "past_key_values": cache("LlamaModel", rows=3)},
        "past_key_values: expected a cache of 2 rows as input_ids, got 3",
    ),
    "a cache that is full": (
        "LlamaModel",
        {"input_ids": IDS, "past_key_values": cache("LlamaModel", cache_len=6)},
        "past_key_values: can hold 6 tokens and holds 0, got 7 more in input_ids; make it with "
        "init_cache(batch_size, max_length) for all of them",
    ),
    "a cache of another model": (
        "LlamaModel",
        {"input_ids": IDS, "past_key_values": cache("LlamaModel")[:1]},
        f"past_key_values: {MADE}, got tuple of 1 layers",
    ),
    "no cache": (
        "LlamaModel",
        {"input_ids": IDS, "past_key_values": ((1, 2), (3, 4))},
        f"past_key_values: {MADE}, got tuple",
    ),
    # encoder and decoder
    "an encoder's and a decoder's inputs, all that is wrong": (
        "BartModel",
        {
            "input_ids": IDS + 9,
            "attention_mask": np.ones((2, 7, 7)),
            "decoder_input_ids": IDS[:1],
            "decoder_attention_mask": np.ones((2, 8)),
        },
        "decoder_input_ids: expected [batch, decoder_length] = (2, 7) as input_ids, got (1, 7)\n"
        "attention_mask: expected zeros and ones [batch, length], got float64 (2, 7, 7)\n"
        "decoder_attention_mask: expected [batch, decoder_length] = (2, 7) as input_ids, got (2, 8)\n"
        f"input_ids: expected token ids from 0 to 19, got 9 to 22; {BEYOND}",
    ),
    "two vocabularies": (
        "MarianModel",
        {"input_ids": IDS + 10, "decoder_input_ids": IDS + 20},
        f"input_ids: expected token ids from 0 to 19, got 10 to 23; {BEYOND}\n"
        f"decoder_input_ids: expected token ids from 0 to 29, got 20 to 33; {BEYOND}",
    ),
    "a mask of the shifted sequence": (
        "BartModel",
        {"input_ids": IDS, "decoder_attention_mask": np.ones((2, 8))},
        "decoder_attention_mask: expected [batch, decoder_length] = (2, 7) as input_ids, got (2, 8)",
    ),
    "a decoder's sequence beyond its positions": (
        "BartModel",
        {"input_ids": IDS[:1], "decoder_input_ids": LONG},
        "decoder_input_ids: 13 tokens exceed the 12 positions of the model; shorten the sequence",
    ),
    "an output of an encoder": (
        "BartModel",
        {"decoder_input_ids": IDS, "encoder_outputs": {"hidden": AUDIO}},
        "encoder_outputs: expected what encode() returns, or its last hidden states, got dict",
    ),
    "an output of an encoder for fewer rows": (
        "BartModel",
        {"decoder_input_ids": IDS, "encoder_outputs": (np.ones((1, 5, 8)),), "attention_mask": np.ones((2, 5))},
        "decoder_input_ids: expected [batch, decoder_length] = (1, 7) as encoder_outputs, got (2, 7)\n"
        "attention_mask: expected [batch, length] = (1, 5) as encoder_outputs, got (2, 5)",
    ),
    "a mask of what the cache has seen": (
        "BartModel",
        {"decoder_input_ids": IDS[:, :1], "past_key_values": seen_cache(5), "attention_mask": np.ones((2, 7))},
        "attention_mask: expected [batch, length] = (2, 5) as past_key_values, got (2, 7)",
    ),
    "relative positions": (
        "T5Model",
        {"input_ids": IDS, "decoder_input_ids": IDS, "decoder_attention_mask": IDS},
        "decoder_attention_mask: expected zeros and ones, got 0 to 13",
    ),
    # vision
    "an image without a batch": (
        "ViTModel",
        {"pixel_values": IMAGE[0]},
        "pixel_values: expected floats [batch, channels, height, width] or [batch, height, width, channels], got "
        "float32 (3, 8, 8); add the axis batch, as in x[None]",
    ),
    "bytes of an image": (
        "ViTModel",
        {"pixel_values": IMAGE.astype(np.uint8)},
        "pixel_values: expected floats [batch, channels, height, width] or [batch, height, width, channels], got "
        "uint8 (2, 3, 8, 8); convert them with astype(float)",
    ),
    "no image": (
        "ViTModel",
        {"pixel_values": IMAGE[:0]},
        "pixel_values: expected floats [batch, channels, height, width] or [batch, height, width, channels], got "
        "float32 (0, 3, 8, 8); no axis may be empty",
    ),
    "masked patches": (
        "ViTModel",
        {"pixel_values": IMAGE, "bool_masked_pos": np.full((2, 4), 2)},
        "bool_masked_pos: expected zeros and ones, got 2 to 2",
    ),
    "a mask of other images": (
        "ViTModel",
        {"pixel_values": IMAGE, "attention_mask": np.ones((3, 5))},
        "attention_mask: expected [batch, tokens] = (2, 5) as pixel_values, got (3, 5)",
    ),
    # two towers
    "both towers": (
        "CLIPModel",
        {"input_ids": IDS + 9, "pixel_values": IMAGE[:1, 0], "attention_mask": np.ones((1, 7))},
        "pixel_values: expected floats [images, channels, height, width] or [images, height, width, channels], got "
        "float32 (1, 8, 8); add the axis images, as in x[None]\n"
        "attention_mask: expected [batch, length] = (2, 7) as input_ids, got (1, 7)\n"
        f"input_ids: expected token ids from 0 to 19, got 9 to 22; {BEYOND}",
    ),
    "a text beyond the positions of its tower": (
        "CLIPModel",
        {"input_ids": LONG, "pixel_values": IMAGE},
        "input_ids: 13 tokens exceed the 12 positions of the model; shorten the sequence",
    ),
    # audio
    "audio of integers": (
        "Wav2Vec2Model",
        {"input_values": AUDIO.astype(np.int16)},
        "input_values: expected floats [batch, samples], got int16 (2, 30); convert them with astype(float)",
    ),
    "a mask of frames": (
        "Wav2Vec2Model",
        {"input_values": AUDIO, "attention_mask": np.ones((2, 14))},
        "attention_mask: expected [batch, samples] = (2, 30) as input_values, got (2, 14)",
    ),
    "spectra of one recording": (
        "WhisperModel",
        {"input_features": SPECTRA[0], "decoder_input_ids": IDS},
        "input_features: expected floats [batch, bands, frames], got float32 (5, 22); add the axis batch, as in "
        "x[None]",
    ),
    "a mask of spectra, and a sequence": (
        "WhisperModel",
        {"input_features": SPECTRA, "attention_mask": np.ones((2, 11)), "decoder_input_ids": IDS + 9},
        "attention_mask: expected [batch, frames] = (2, 22) as input_features, got (2, 11)\n"
        f"decoder_input_ids: expected token ids from 0 to 19, got 9 to 22; {BEYOND}",
    ),
    "a sequence beyond the positions of speech": (
        "WhisperForCausalLM",
        {"input_ids": LONG},
        "input_ids: 13 tokens exceed the 12 positions of the model; shorten the sequence",
    ),
}


@pytest.mark.parametrize(("name", "given", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(name, given, message):
    assert refusal(described(name), **given) == message


ACCEPTED: dict[str, tuple[str, dict[str, Any]]] = {
    "a mask of booleans": ("BertModel", {"input_ids": IDS, "attention_mask": IDS > 3}),
    "a mask of floats": ("BertModel", {"input_ids": IDS, "attention_mask": (IDS > 3) * 1.0}),
    "a row of padding": ("BertModel", {"input_ids": IDS, "attention_mask": ONES * 0}),
    "a ready mask": ("BertModel", {"input_ids": IDS, "attention_mask": np.ones((2, 7, 7))}),
    "one row for all": ("BertModel", {"input_ids": IDS, "position_ids": IDS[:1], "token_type_ids": ONES[:1]}),
    "positions of padding": ("LlamaModel", {"input_ids": IDS, "position_ids": IDS - 1, "attention_mask": IDS > 0}),
    "positions of a long sequence": ("BertModel", {"input_ids": LONG, "position_ids": LONG - 3}),
    "padding takes no positions": ("OPTModel", {"input_ids": LONG, "attention_mask": np.arange(13)[None] > 0}),
    "padding takes no positions either": ("RobertaModel", {"input_ids": np.r_[1, LONG[0, 1:]][None]}),
    "computed positions": ("LlamaModel", {"input_ids": LONG, "position_ids": LONG * 100}),
    "one choice": ("GPT2DoubleHeadsModel", {"input_ids": IDS, "mc_token_ids": [6, 0]}),
    "one choice, and a cache": (
        "GPT2DoubleHeadsModel",
        {"input_ids": IDS[:, :1], "past_key_values": cache("GPT2DoubleHeadsModel"), "attention_mask": np.ones((2, 3))},
    ),
    "several choices": (
        "GPT2DoubleHeadsModel",
        {"input_ids": IDS[:, None], "attention_mask": ONES[:, None], "mc_token_ids": [[6], [0]]},
    ),
    "nothing": ("BertModel", {"input_ids": IDS, "attention_mask": None}),
    "as many texts as there are": ("CLIPModel", {"input_ids": IDS, "pixel_values": IMAGE[:1]}),
    "channels last": ("CLIPModel", {"input_ids": IDS, "pixel_values": IMAGE.transpose(0, 2, 3, 1)}),
    "the encoder's states": ("BartModel", {"decoder_input_ids": IDS, "encoder_outputs": np.ones((2, 5, 8))}),
    "a mask of the encoder": (
        "BartModel",
        {"decoder_input_ids": IDS, "encoder_outputs": {"last_hidden_state": np.ones((2, 5, 8))}}
        | {"attention_mask": np.ones((2, 5))},
    ),
    "a mask of the cache": (
        "LlamaModel",
        {"input_ids": IDS[:, :1], "past_key_values": cache("LlamaModel"), "attention_mask": np.ones((2, 3))},
    ),
}


@pytest.mark.parametrize(("name", "given"), ACCEPTED.values(), ids=ACCEPTED)
def test_what_is_accepted(name, given):
    checked = described(name).input_checks(given)
    assert checked.keys() == given.keys()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_inputs_of_every_model_are_accepted(case):
    """Also what depends on the model: sizes of tables, axes and the names of its arguments."""
    checks = case.ours.abstract(dict(case.values)).input_checks
    for embedded in (False, True):
        given = inputs_for(case, embedded=embedded)
        assert given.keys() <= checks.expected.keys()
        checks(given)


def test_an_encoder_is_checked_too():
    model = described("BartModel")
    assert refusal(model.encode, input_ids=IDS + 9) == (
        f"input_ids: expected token ids from 0 to 19, got 9 to 22; {BEYOND}"
    )


def test_further_methods_are_checked_too():
    model = described("CLIPModel")
    assert refusal(model.get_text_features, IDS + 9) == (
        f"input_ids: expected token ids from 0 to 19, got 9 to 22; {BEYOND}"
    )
    assert refusal(model.get_image_features, IMAGE[0]).startswith("pixel_values: expected floats [images, ")


def test_a_call_that_is_compiled_ahead_of_time_is_checked():
    model, shape = small("LlamaModel"), jax.ShapeDtypeStruct((2, 7), jnp.int32)
    assert refusal(model.get_compiled_call, input_ids=jax.ShapeDtypeStruct((7,), jnp.int32)) == (
        "input_ids: expected integers [batch, length], got int32 (7,); add the axis batch, as in x[None]"
    )
    compiled = model.get_compiled_call(input_ids=shape)
    assert refusal(compiled, input_ids=IDS + 9) == f"input_ids: expected token ids from 0 to 19, got 9 to 22; {BEYOND}"


def test_shapes_are_checked_in_a_trace():
    model = described("LlamaModel")
    wrong = {"input_ids": jax.ShapeDtypeStruct((2, 7), jnp.int32), "attention_mask": np.ones((2, 8))}
    assert refusal(jax.eval_shape, lambda given: model(**given, params={}), wrong) == (
        "attention_mask: expected [batch, length] = (2, 7) as input_ids, got (2, 8)"
    )


@pytest.fixture
def nothing_is_fetched(monkeypatch):
    array = type(jnp.zeros(()))
    for conversion in ("__array__", "__int__", "__float__", "__bool__", "__index__", "tolist", "item"):
        monkeypatch.delattr(array, conversion)


def test_arrays_on_a_device_are_not_fetched(nothing_is_fetched):
    model = small("LlamaModel")
    wrong = {"input_ids": jnp.full((2, 7), 99), "attention_mask": jnp.full((2, 7), 3)}
    wrong["past_key_values"] = model.init_cache(2, 9)
    assert model(**wrong).last_hidden_state.shape == (2, 7, 8)


def test_replaced_embeddings_are_those_that_count():
    model, larger = (flaxmodels.LlamaModel.abstract({**BERT, "vocab_size": size}) for size in (20, 40))
    assert "from 0 to 19" in refusal(model, IDS + 20)
    model.set_input_embeddings(larger.get_input_embeddings())
    assert refusal(model, IDS + 40) == f"input_ids: expected token ids from 0 to 39, got 40 to 53; {BEYOND}"


# ---- the switch for debugging

WRONG = {"input_ids": jnp.asarray(IDS + 9), "attention_mask": jnp.full((2, 7), 3)}
MESSAGE = (
    f"input_ids: expected token ids from 0 to 19, got 9 to 22; {BEYOND}\n"
    "attention_mask: expected zeros and ones, got 3 to 3"
)


def test_arrays_on_a_device_are_checked_on_request():
    model = small("LlamaModel")
    with flaxmodels.debug_checks():
        assert refusal(model, **WRONG) == MESSAGE
        with flaxmodels.debug_checks(False):
            model(**WRONG)
        assert refusal(model, **WRONG) == MESSAGE
        model(**{name: value % 2 for name, value in WRONG.items()})
    model(**WRONG)


def test_the_switch_can_be_set_for_good(monkeypatch):
    monkeypatch.setattr(input_checks, "_enabled", False)
    flaxmodels.debug_checks(True)
    assert refusal(small("LlamaModel"), **WRONG) == MESSAGE
    flaxmodels.debug_checks(False)
    small("LlamaModel")(**WRONG)


@pytest.mark.parametrize(("value", "enabled"), [("1", True), ("0", False), ("", False), (None, False)])
def test_the_switch_in_the_environment(value, enabled):
    assert input_checks.is_enabled({} if value is None else {"FLAXMODELS_DEBUG_CHECKS": value}) == enabled


def test_a_cache_that_is_full_is_found_on_request():
    model = small("LlamaModel")
    full = model(IDS, past_key_values=model.init_cache(2, 8)).past_key_values
    with flaxmodels.debug_checks():
        assert refusal(model, IDS[:, :2], past_key_values=full) == (
            "past_key_values: can hold 8 tokens and holds 7, got 2 more in input_ids; make it with "
            "init_cache(batch_size, max_length) for all of them"
        )


def mean(params, given):
    return small("LlamaModel")(**given, params=params).last_hidden_state.mean()


def loop(params, given):
    return jax.lax.scan(lambda total, _: (total + mean(params, given), None), 0.0, length=2)[0]


def mapped(params, given):
    rows = jax.tree.map(lambda array: array[:, None], given)
    return jax.vmap(mean, (None, 0))(params, rows)


@pytest.mark.parametrize("function", [mean, jax.grad(mean), loop, mapped], ids=["jit", "grad", "scan", "vmap"])
def test_values_are_checked_in_the_traces_of_others(function):
    params, right = small("LlamaModel").params, {name: value % 2 for name, value in WRONG.items()}
    with flaxmodels.debug_checks():
        compiled = jax.jit(function).lower(params, WRONG).compile()
    jax.block_until_ready(compiled(params, right))
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.block_until_ready(compiled(params, WRONG))
    expected = MESSAGE if function is not mapped else "input_ids: expected token ids from 0 to 19, got "
    assert expected in str(caught.value)
    jax.block_until_ready(jax.jit(lambda *args: function(*args))(params, WRONG))

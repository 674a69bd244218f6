"""From settings to the values that `logits.process` takes: only of processors that change something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation.config import GenerationConfig
from flaxmodels.generation.logits import ANY_TOKEN, NO_TOKEN

_WIDTH = 8
"""Lists of ids, and the sequences in them, are filled up to a multiple of it, so that others rarely compile anew."""


def processing(settings: GenerationConfig, vocab_size: int, prompt_len: int, has_source: bool) -> dict[str, Any]:
    """The values by the name of their setting. `has_source`: whether the encoder was given ids.

    Raises:
        FlaxModelsError: a token id that the model does not have.
    """
    _check_ids(settings, vocab_size)
    ends = ids(settings.eos_token_ids)
    values: dict[str, Any] = {}

    def number(name: str, neutral: Any, kind: type = np.float32) -> None:
        if (value := getattr(settings, name)) not in (None, neutral):
            values[name] = kind(value)

    number("repetition_penalty", 1)
    number("frequency_penalty", 0)
    number("presence_penalty", 0)
    number("no_repeat_ngram_size", 0, np.int32)
    if has_source:
        number("encoder_repetition_penalty", 1)
        number("encoder_no_repeat_ngram_size", 0, np.int32)
    number("remove_invalid_values", False, np.bool_)
    number("renormalize_logits", False, np.bool_)
    number("forced_bos_token_id", None, np.int32)
    if biases := _sequence_biases(settings):
        values["sequence_bias"] = (_sequences(list(biases)), _filled(list(biases.values()), 0.0, np.float32))
    if settings.bad_words_ids:
        words = [word for word in settings.bad_words_ids if list(word) not in [[end] for end in settings.eos_token_ids]]
        values["bad_words_ids"] = _sequences(words)
    if settings.eos_token_ids:
        if settings.min_length:
            values["min_length"] = (np.int32(settings.min_length), ends)
        if settings.min_new_tokens:
            values["min_new_tokens"] = (np.int32(settings.min_new_tokens), ends)
        if settings.exponential_decay_length_penalty:
            start, factor = settings.exponential_decay_length_penalty
            values["exponential_decay_length_penalty"] = (np.int32(start), np.float32(factor), ends)
    if settings.forced_eos_token_id is not None:
        values["forced_eos_token_id"] = ids(np.atleast_1d(settings.forced_eos_token_id).tolist())
    if forced := [pair for pair in settings.forced_decoder_ids or () if pair[1] is not None]:
        places, tokens = zip(*forced, strict=True)
        values["forced_decoder_ids"] = np.stack([ids(places), ids(tokens)], axis=-1)
    if (tokens := settings.suppress_tokens) is not None and len(tokens):
        values["suppress_tokens"] = ids(tokens)
    if (tokens := settings.begin_suppress_tokens) is not None and len(tokens):
        is_second = prompt_len == 1 and settings.forced_bos_token_id is not None
        values["begin_suppress_tokens"] = (np.int32(is_second), ids(tokens))
    if settings.return_timestamps and (quiet := settings.no_timestamps_token_id) is not None:
        end = next(token for token in (*settings.eos_token_ids, settings.bos_token_id, quiet) if token is not None)
        latest = settings.max_initial_timestamp_index
        latest = vocab_size if latest is None else quiet + 1 + latest
        values["return_timestamps"] = (np.int32(quiet), np.int32(end), np.int32(latest))
    if settings.logit_bias:
        tokens, biases = zip(*((int(token), bias) for token, bias in settings.logit_bias.items()), strict=True)
        values["logit_bias"] = (ids(tokens), _filled(biases, 0.0, np.float32))
    if settings.do_sample:
        number("temperature", 1)
        number("top_k", 0, np.int32)
        for name in ("top_p", "typical_p"):
            number(name, 1)
        for name in ("min_p", "epsilon_cutoff", "eta_cutoff"):
            number(name, 0)
    return values


def ids(tokens: Sequence[int]) -> np.ndarray:
    """int32, with at least one filler that is no token."""
    return _filled(tokens, NO_TOKEN, np.int32)


def _filled(values: Sequence[Any], filler: Any, dtype: Any) -> np.ndarray:
    missing = -len(values) % _WIDTH
    return np.array([*values, *[filler] * missing] or [filler] * _WIDTH, dtype)


def _sequences(sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """int32 `[several, longest]`, filled on the left; fillers of rows end with no token."""
    longest = -(-max(map(len, sequences), default=1) // _WIDTH) * _WIDTH
    rows = [[ANY_TOKEN] * (longest - len(row)) + list(row) for row in sequences]
    filler = [ANY_TOKEN] * (longest - 1) + [NO_TOKEN]
    return np.array(rows + [filler] * (-len(rows) % _WIDTH or (0 if rows else _WIDTH)), np.int32)


def _sequence_biases(settings: GenerationConfig) -> dict[tuple[int, ...], float]:
    """From sequences to their biases; of one that is there twice, the last."""
    pairs = settings.sequence_bias or {}
    return {tuple(word): bias for word, bias in (pairs.items() if isinstance(pairs, dict) else pairs)}


_OF_IDS = ("eos_token_id", "forced_bos_token_id", "forced_eos_token_id")


def _check_ids(settings: GenerationConfig, vocab_size: int) -> None:
    """Ids beyond the vocabulary would do nothing; those of suppressed tokens often are, and may."""
    found = {name: np.atleast_1d(value) for name in _OF_IDS if (value := getattr(settings, name)) is not None}
    lists = {
        "bad_words_ids": (token for word in settings.bad_words_ids or () for token in word),
        "sequence_bias": (token for word in _sequence_biases(settings) for token in word),
        "logit_bias": map(int, settings.logit_bias or ()),
        "forced_decoder_ids": (token for _, token in settings.forced_decoder_ids or () if token is not None),
    }
    found |= {name: np.fromiter(tokens, int) for name, tokens in lists.items()}
    for name, tokens in found.items():
        if tokens.size and tokens.max() >= vocab_size:
            raise FlaxModelsError(
                f"{name}: the token id {tokens.max()} is beyond the model's vocabulary of {vocab_size}; use the "
                "tokenizer of this model"
            )

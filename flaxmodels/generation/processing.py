"""From settings to the values that `logits.process` takes: only of processors that change something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation.config import GenerationConfig
from flaxmodels.generation.logits import ANY_TOKEN, NO_TOKEN

_WIDTH = 8
"""Lists of ids, and the sequences in them, are filled up to a multiple of it, so that others rarely compile anew."""


def int32(number: int) -> np.int32:
    """The number, or the largest that int32 has: no text is as long, and no vocabulary as large, as either."""
    return np.int32(min(number, np.iinfo(np.int32).max))


_NUMBERS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "repetition_penalty": (1, np.float32),
    "frequency_penalty": (0, np.float32),
    "presence_penalty": (0, np.float32),
    "no_repeat_ngram_size": (0, int32),
    "remove_invalid_values": (False, np.bool_),
    "renormalize_logits": (False, np.bool_),
    "forced_bos_token_id": (None, np.int32),
}
"""Settings that are a number: the value that changes nothing, and the dtype."""
_SOURCE_NUMBERS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "encoder_repetition_penalty": (1, np.float32),
    "encoder_no_repeat_ngram_size": (0, int32),
}
"""Likewise, of what compares with the ids that an encoder read."""
_SAMPLING_NUMBERS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "temperature": (1, np.float32),
    "top_k": (0, int32),
    "top_p": (1, np.float32),
    "typical_p": (1, np.float32),
    "min_p": (0, np.float32),
    "epsilon_cutoff": (0, np.float32),
    "eta_cutoff": (0, np.float32),
}
"""Likewise, of what matters where tokens are drawn."""


def processing(settings: GenerationConfig, vocab_size: int, prompt_len: int, has_source: bool) -> dict[str, Any]:
    """The values by the name of their setting. `has_source`: whether the encoder was given ids.

    Raises:
        FlaxModelsError: a token id that the model does not have.
    """
    _check_ids(settings, vocab_size)
    numbers = _NUMBERS | (_SOURCE_NUMBERS if has_source else {}) | (_SAMPLING_NUMBERS if settings.do_sample else {})
    values = {
        name: kind(value)
        for name, (neutral, kind) in numbers.items()
        if (value := getattr(settings, name)) not in (None, neutral)
    }
    return values | _of_ends(settings) | _of_lists(settings, prompt_len) | _of_timestamps(settings, vocab_size)


def _of_ends(settings: GenerationConfig) -> dict[str, Any]:
    """What acts on the tokens that end a text."""
    values: dict[str, Any] = {}
    if settings.forced_eos_token_id is not None:
        values["forced_eos_token_id"] = ids(np.atleast_1d(settings.forced_eos_token_id).tolist())
    if not settings.eos_token_ids:
        return values
    ends = ids(settings.eos_token_ids)
    for name in ("min_length", "min_new_tokens"):
        if least := getattr(settings, name):
            values[name] = (np.int32(least), ends)
    if settings.exponential_decay_length_penalty:
        start, factor = settings.exponential_decay_length_penalty
        values["exponential_decay_length_penalty"] = (int32(start), np.float32(factor), ends)
    return values


def _of_lists(settings: GenerationConfig, prompt_len: int) -> dict[str, Any]:
    """What acts on listed tokens, or on listed sequences of them."""
    values: dict[str, Any] = {}
    if biases := _sequence_biases(settings):
        values["sequence_bias"] = (_sequences(list(biases)), _filled(list(biases.values()), 0.0, np.float32))
    if settings.bad_words_ids:
        words = [word for word in settings.bad_words_ids if list(word) not in [[end] for end in settings.eos_token_ids]]
        values["bad_words_ids"] = _sequences(words)
    if forced := [pair for pair in settings.forced_decoder_ids or () if pair[1] is not None]:
        places, tokens = zip(*forced, strict=True)
        values["forced_decoder_ids"] = np.stack([ids(places), ids(tokens)], axis=-1)
    if (tokens := settings.suppress_tokens) is not None and len(tokens):
        values["suppress_tokens"] = ids(tokens)
    if (tokens := settings.begin_suppress_tokens) is not None and len(tokens):
        is_second = prompt_len == 1 and settings.forced_bos_token_id is not None
        values["begin_suppress_tokens"] = (np.int32(is_second), ids(tokens))
    if settings.logit_bias:
        tokens, biases = zip(*((int(token), bias) for token, bias in settings.logit_bias.items()), strict=True)
        values["logit_bias"] = (ids(tokens), _filled(biases, 0.0, np.float32))
    return values


def _of_timestamps(settings: GenerationConfig, vocab_size: int) -> dict[str, Any]:
    """The rules of a speech model's timestamps."""
    quiet, latest = settings.no_timestamps_token_id, settings.max_initial_timestamp_index
    if not settings.return_timestamps or quiet is None:
        return {}
    end = next(token for token in (*settings.eos_token_ids, settings.bos_token_id, quiet) if token is not None)
    latest = vocab_size if latest is None else quiet + 1 + latest
    return {"return_timestamps": (np.int32(quiet), np.int32(end), int32(latest))}


def ids(tokens: Sequence[int]) -> np.ndarray:
    """int32, with at least one filler that is no token."""
    return _filled([int32(token) for token in tokens], NO_TOKEN, np.int32)


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

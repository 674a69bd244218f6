"""The logits processors of a call: the values that each takes of the settings, and their application in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation import logits
from flaxmodels.generation.config import GenerationConfig
from flaxmodels.generation.logits import ANY_TOKEN, NO_TOKEN

PROCESSORS: dict[str, Callable[[jax.Array, Any, logits.History], jax.Array]] = {
    "sequence_bias": logits.sequence_bias,
    "encoder_repetition_penalty": logits.encoder_repetition_penalty,
    "repetition_penalty": logits.repetition_penalty,
    "frequency_penalty": logits.frequency_penalty,
    "presence_penalty": logits.presence_penalty,
    "no_repeat_ngram_size": logits.no_repeat_ngram,
    "encoder_no_repeat_ngram_size": logits.encoder_no_repeat_ngram,
    "bad_words_ids": logits.bad_words,
    "min_length": logits.min_length,
    "min_new_tokens": logits.min_new_tokens,
    "forced_bos_token_id": logits.forced_bos,
    "forced_eos_token_id": logits.forced_eos,
    "forced_decoder_ids": logits.forced_tokens,
    "remove_invalid_values": logits.remove_invalid_values,
    "exponential_decay_length_penalty": logits.exponential_decay_length_penalty,
    "suppress_tokens": logits.suppress_tokens,
    "begin_suppress_tokens": logits.begin_suppress_tokens,
    "return_timestamps": logits.timestamps,
    "logit_bias": logits.logit_bias,
}
"""By the name of their setting, in the order in which they are applied."""

WARPERS: dict[str, Callable[..., jax.Array]] = {
    "temperature": logits.temperature,
    "top_k": logits.top_k,
    "top_p": logits.top_p,
    "min_p": logits.min_p,
    "typical_p": logits.typical_p,
    "epsilon_cutoff": logits.epsilon_cutoff,
    "eta_cutoff": logits.eta_cutoff,
}
"""By the name of their setting, in the order in which they are applied after `PROCESSORS`, if tokens are sampled."""

Custom = Callable[[jax.Array, jax.Array, logits.Number], jax.Array]
"""A user's own processor: of `History.tokens`, scores and `History.length`, as the retired Flax classes called it."""


def process(
    scores: jax.Array,
    values: Mapping[str, Any],
    history: logits.History | None = None,
    custom: Sequence[Custom] = (),
    keep: logits.Number = 1,
) -> jax.Array:
    """float32 scores `[rows, vocab]` after the processors that have values, those of the user before the warpers.

    Warpers leave at least `keep` tokens. Without a history there is no token yet.
    """
    scores = jnp.asarray(scores, jnp.float32)
    history = history or logits.History(jnp.full((len(scores), 1), NO_TOKEN), 0, 0, 0)
    for name, processor in PROCESSORS.items():
        if name in values:
            scores = processor(scores, values[name], history)
    for function in custom:
        scores = function(history.tokens, scores, history.length)
    for name, warper in WARPERS.items():
        if name in values:
            scores = warper(scores, values[name], keep)
    return jax.nn.log_softmax(scores) if "renormalize_logits" in values else scores


# ---- values

_WIDTH = 8
"""Lists of ids, and the sequences in them, are filled up to a multiple of it, so that others rarely compile anew."""


def int32(number: int) -> np.int32:
    """The number, or the largest that int32 has: no sequence is as long, and no vocabulary as large, as either."""
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
"""Likewise, of what matters where tokens are sampled."""


def processor_values(settings: GenerationConfig, vocab_size: int, prompt_len: int, has_source: bool) -> dict[str, Any]:
    """The values that `process` takes by the name of their setting, of processors that change something.

    Args:
        settings: all settings of the call.
        vocab_size: the size of the model's vocabulary; ids must be below it.
        prompt_len: tokens of the prompt, padding included.
        has_source: whether the encoder was given ids.

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
    """What acts on the tokens that end a completion."""
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
        positions, tokens = zip(*forced, strict=True)
        values["forced_decoder_ids"] = np.stack([ids(positions), ids(tokens)], axis=-1)
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
    """The rules of Whisper's timestamps."""
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

"""`generate`: prompts in, prompts with their answers out."""

from __future__ import annotations

import functools
import logging
import secrets
from typing import Any

import jax
import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation.config import DEFAULT_NEW_TOKENS, GenerationConfig, settle
from flaxmodels.generation.loop import Request, compiled_loop
from flaxmodels.generation.prompt import Prompt, bucket, read_prompt
from flaxmodels.nn.functional import functional
from flaxmodels.outputs import ModelOutput

logger = logging.getLogger("flaxmodels")

EOS_TOKEN_IDS = 8

_GENERATIVE = ("ForCausalLM", "LMHeadModel")


class GenerateOutput(ModelOutput):
    """`sequences`: int32 `[batch, prompt_len + new]`, the prompts as given and their answers.

    Rows that ended before the longest one are filled with `pad_token_id`.
    """

    sequences: jax.Array


def generate(
    model: Any,
    input_ids: Any = None,
    generation_config: Any = None,
    prng_key: jax.Array | None = None,
    *,
    attention_mask: Any = None,
    params: Any = None,
    seed: int | None = None,
    **settings: Any,
) -> GenerateOutput:
    """Continue prompts, one compiled call for prompt and answer.

    The lengths of prompt and answer are compiled as powers of two, so that others rarely compile anew; other numbers
    never do.

    Args:
        model: a causal language model.
        input_ids: int `[batch, prompt_len]`, padded on the left; `bos_token_id` if not given.
        generation_config: settings that come before the model's own.
        prng_key: for sampling; a fresh one if neither it nor `seed` is given.
        attention_mask: `[batch, prompt_len]`, 0 for padding.
        params: used in place of the model's own.
        seed: in place of `prng_key`, an integer from 0 to 2**32 - 1.
        settings: the attributes of `GenerationConfig`, which come before both configurations.

    Raises:
        ConfigError: settings that are unknown, impossible, contradictory or not implemented; all are listed.
        FlaxModelsError: a model that cannot generate, or a prompt that it cannot continue.
    """
    if not can_generate(type(model)):
        raise FlaxModelsError(
            f"{type(model).__name__} cannot generate, as it does not predict the next token; "
            "load the checkpoint with AutoModelForCausalLM"
        )
    chosen = settle(model.generation_config, generation_config, settings)
    prompt = read_prompt(input_ids, attention_mask, chosen, model.config.vocab_size)
    new_tokens = _new_tokens(model, prompt, chosen)
    request = _request(prompt.padded(), new_tokens, chosen, prng_key, seed)
    values = functional(model).values(params)
    tokens, count = jax.device_get(compiled_loop(model)(values, request, room=bucket(new_tokens)))
    return GenerateOutput(sequences=jax.device_put(np.concatenate([prompt.input_ids, tokens[:, :count]], axis=1)))


def can_generate(model_class: type) -> bool:
    """Whether a model class has a cache, and itself or a base of it has the name of a causal language model."""
    named = any(base.__name__.endswith(_GENERATIVE) for base in model_class.__mro__)
    return named and hasattr(model_class, "init_cache")


def _new_tokens(model: Any, prompt: Prompt, settings: GenerationConfig) -> int:
    """How many tokens may be generated."""
    length, limit = prompt.input_ids.shape[1], getattr(model.config, "max_position_embeddings", None)
    if settings.max_new_tokens is not None:
        new_tokens = settings.max_new_tokens
    elif settings.max_length is not None:
        new_tokens = settings.max_length - length
        if new_tokens < 1:
            raise FlaxModelsError(
                f"max_length={settings.max_length} leaves no room behind a prompt of {length} tokens; "
                "raise it, or pass max_new_tokens"
            )
    else:
        free = DEFAULT_NEW_TOKENS if limit is None else limit - prompt.longest
        new_tokens = max(1, min(DEFAULT_NEW_TOKENS, free))
    if limit is not None and prompt.longest + new_tokens > limit:
        _beyond_positions(model, prompt.longest, new_tokens, limit)
    return new_tokens


def _beyond_positions(model: Any, length: int, new_tokens: int, limit: int) -> None:
    """Refuse more positions than a model has parameters for; warn where positions are computed."""
    name = type(model).__name__
    if not hasattr(model.config, "rope"):
        raise FlaxModelsError(
            f"a prompt of {length} tokens and {new_tokens} new ones exceed the {limit} positions of {name} "
            "(max_position_embeddings); shorten the prompt, or lower max_new_tokens"
        )
    _warn_once(f"{name} was made for {limit} positions (max_position_embeddings); text beyond them may be poor")


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _request(
    prompt: Prompt, new_tokens: int, settings: GenerationConfig, prng_key: jax.Array | None, seed: int | None
) -> Request:
    ends = settings.eos_token_ids
    pad = settings.pad_token_id if settings.pad_token_id is not None else (*ends, 0)[0]
    return Request(
        *prompt,
        max_new_tokens=np.int32(new_tokens),
        eos_token_ids=np.array(ends + [-1] * (-len(ends) % EOS_TOKEN_IDS or EOS_TOKEN_IDS), np.int32),
        pad_token_id=np.int32(pad),
        sampling=_sampling(settings) if settings.do_sample else None,
        rng=_rng(prng_key, seed) if settings.do_sample else None,
    )


def _sampling(settings: GenerationConfig) -> dict[str, Any]:
    """The numbers of the processors that change something."""
    numbers: dict[str, Any] = {}
    if settings.temperature not in (None, 1):
        numbers["temperature"] = np.float32(settings.temperature)
    if settings.top_k:
        numbers["top_k"] = np.int32(settings.top_k)
    if settings.top_p not in (None, 1):
        numbers["top_p"] = np.float32(settings.top_p)
    return numbers


def _rng(prng_key: jax.Array | None, seed: int | None) -> Any:
    if prng_key is not None and seed is not None:
        raise FlaxModelsError("prng_key and seed are both given; give one")
    if prng_key is not None:
        return prng_key
    if seed is not None and not 0 <= seed < 2**32:
        raise FlaxModelsError(f"seed={seed}: expected an integer from 0 to 4294967295")
    return np.uint32(secrets.randbits(32) if seed is None else seed)

"""`GenerationConfig`: the settings of `generate`, under the names of transformers and in its files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

import numpy as np

from flaxmodels.errors import CheckpointError, ConfigError
from flaxmodels.files.reading import read_json

GENERATION_CONFIG_NAME = "generation_config.json"
DEFAULT_NEW_TOKENS = 20

_LENGTHS = {"max_length", "max_new_tokens"}

NOT_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "min_length": (0,),
    "min_new_tokens": (0,),
    "max_time": (),
    "stop_strings": ([],),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "diversity_penalty": (0,),
    "constraints": ([],),
    "force_words_ids": ([],),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "use_mtp": (False,),
    "prompt_lookup_num_tokens": (0,),
    "assistant_early_exit": (),
    "assistant_ensemble_weight": (),
    "cache_implementation": ("dynamic", "static", "offloaded", "offloaded_static", "hybrid"),
    "min_p": (0,),
    "top_h": (),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "repetition_penalty": (1,),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": ([],),
    "sequence_bias": ([], {}),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "exponential_decay_length_penalty": (),
    "remove_invalid_values": (False,),
    "token_healing": (False,),
    "guidance_scale": (1,),
    "watermarking_config": (),
    "output_scores": (False,),
    "output_logits": (False,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
}
"""Settings that would change the output, and the values beside `None` at which they do not."""

WITHOUT_EFFECT = {
    "use_cache",
    "cache_config",
    "max_cache_len",
    "prefill_chunk_size",
    "compile_config",
    "disable_compile",
    "continuous_batching_config",
    "low_memory",
    "renormalize_logits",
    "return_dict_in_generate",
    "early_stopping",
    "length_penalty",
    "decoder_start_token_id",
    "is_assistant",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "target_lookbehind",
    "max_matching_ngram_size",
    "speculation_type",
    "transformers_version",
}
"""Settings that are accepted because they do not change which tokens are generated here."""


class GenerationConfig:
    """How `generate` continues a prompt.

    Only values that were given are held and written to files, unknown ones included; the others read as their
    defaults. `None` stands for a value that was not given.

    Attributes:
        max_length: most tokens of prompt and answer together.
        max_new_tokens: most tokens of the answer; comes before `max_length`. 20 if neither is given.
        do_sample: draw tokens from the model's distribution; the likeliest one is taken if false.
        temperature: above 0; scores are divided by it before a token is drawn.
        top_k: only so many of the likeliest tokens are drawn from; 0 for all.
        top_p: only the likeliest tokens that together have this probability are drawn from; above 0, at most 1.
        eos_token_id: the id, or several, with which an answer ends.
        pad_token_id: the id that fills rows after their end; the first of `eos_token_id` if not given.
        bos_token_id: the prompt where none is given.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    do_sample: bool = False
    temperature: float | None = 1.0
    top_k: int | None = 50
    top_p: float | None = 1.0
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None

    def __init__(self, **values: Any):
        vars(self).update(values)

    @classmethod
    def from_any(cls, config: Any) -> Self:
        """`config` itself, or ours made of a mapping or of a transformers `GenerationConfig`; `None` is empty."""
        if isinstance(config, cls):
            return config
        values = {} if config is None else config.to_dict() if hasattr(config, "to_dict") else config
        if not isinstance(values, Mapping):
            raise ConfigError(f"expected a GenerationConfig, got {type(config).__name__}")
        return cls(**values)

    @classmethod
    def from_model_config(cls, config: Any) -> Self:
        """The settings of generation that a model's configuration holds: its token ids, and what old ones hold."""
        values = {name: vars(config).get(name) for name in (*_EXPECTED, *NOT_IMPLEMENTED)}
        return cls(**{name: value for name, value in values.items() if _matters(name, value)})

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **hub: Any) -> Self:
        """The `generation_config.json` of a Hub id or a folder; `hub` are keywords for the Hub."""
        from flaxmodels.files.resolve import resolve

        path = resolve(name_or_path, **hub).find(GENERATION_CONFIG_NAME)
        if path is None:
            raise CheckpointError(
                f"{name_or_path} has no {GENERATION_CONFIG_NAME}: use GenerationConfig.from_model_config(config)"
            )
        return cls(**read_json(path))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `generation_config.json` into `folder`, which is made if absent."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / GENERATION_CONFIG_NAME).write_text(self.to_json_string(), encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """The values that were given."""
        return copy.deepcopy(vars(self))

    def to_json_string(self) -> str:
        """The contents of `generation_config.json`."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def __repr__(self) -> str:
        return f"GenerationConfig {self.to_json_string()}"

    def updated(self, values: Mapping[str, Any]) -> GenerationConfig:
        """A copy in which `values` win. A length given in one way takes the place of one given in the other."""
        dropped = _LENGTHS if _LENGTHS & values.keys() else set()
        kept = {name: value for name, value in vars(self).items() if name not in dropped}
        return GenerationConfig(**kept | dict(values))

    @property
    def eos_token_ids(self) -> list[int]:
        """`eos_token_id` as a list, empty if there is none."""
        return [] if self.eos_token_id is None else np.atleast_1d(self.eos_token_id).tolist()


def settle(model_config: GenerationConfig, config: Any, call: Mapping[str, Any]) -> GenerationConfig:
    """The settings of one call: its keywords come first, then its `generation_config`, then the model's.

    Among the keywords `None` switches a setting off. Raises `ConfigError`, which names every setting that is unknown,
    impossible, contradictory or not implemented.
    """
    settings = GenerationConfig()
    for layer in (model_config, GenerationConfig.from_any(config)):
        settings = settings.updated({name: value for name, value in vars(layer).items() if value is not None})
    settings = settings.updated(call)
    problems = [*_unknown(call), *_contradictions(call, settings), *_impossible(settings), *_not_implemented(settings)]
    if problems:
        raise ConfigError("generate() cannot use these settings:\n" + "\n".join(f"  - {line}" for line in problems))
    return settings


def _unknown(call: Mapping[str, Any]) -> list[str]:
    known = {*_EXPECTED, *NOT_IMPLEMENTED, *WITHOUT_EFFECT}
    return [f"{name}: there is no such setting; check the spelling" for name in call if name not in known]


def _contradictions(call: Mapping[str, Any], settings: GenerationConfig) -> list[str]:
    lines = []
    if all(call.get(name) is not None for name in _LENGTHS):
        lines.append("max_length and max_new_tokens are both given; give one")
    if not settings.do_sample:
        idle = [name for name, neutral in _OF_SAMPLING.items() if call.get(name) not in neutral]
        lines += [f"{name}={call[name]!r} has no effect without sampling; add do_sample=True" for name in idle]
    return lines


def _impossible(settings: GenerationConfig) -> list[str]:
    return [
        f"{name}={value!r}: expected {expected}"
        for name, (is_right, expected) in _EXPECTED.items()
        if (value := getattr(settings, name)) is not None and not is_right(value)
    ]


def _not_implemented(settings: GenerationConfig) -> list[str]:
    return [
        f"{name}={value!r} is not implemented; pass {name}={(*harmless, None)[0]!r}"
        for name, harmless in NOT_IMPLEMENTED.items()
        if _matters(name, value := vars(settings).get(name))
    ]


def _matters(name: str, value: Any) -> bool:
    return value is not None and value not in NOT_IMPLEMENTED.get(name, ())


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0


def _is_positive(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and float(value) > 0


_LENGTH = (lambda value: _is_count(value) and value > 0, "an integer above 0")
_TOKEN = (_is_count, "a token id, which is an integer of at least 0")
_EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_length": _LENGTH,
    "max_new_tokens": _LENGTH,
    "do_sample": (lambda value: isinstance(value, bool), "True or False"),
    "temperature": (_is_positive, "a number above 0; do_sample=False is the limit of 0"),
    "top_k": (_is_count, "an integer of at least 0, which keeps all tokens"),
    "top_p": (lambda value: _is_positive(value) and value <= 1, "a number above 0 and at most 1"),
    "eos_token_id": (
        lambda value: all(map(_is_count, value)) if isinstance(value, list | tuple) else _is_count(value),
        "a token id or a list of them, which are integers of at least 0",
    ),
    "pad_token_id": _TOKEN,
    "bos_token_id": _TOKEN,
}
"""For each setting that is implemented: a test of its value, and that test in words."""

_OF_SAMPLING = {"temperature": (None, 1), "top_k": (None, 0, 50), "top_p": (None, 1)}
"""Settings of sampling, and the values that may be given without it."""

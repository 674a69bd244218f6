"""The settings of one call of `generate`: several layers merged, and checked together."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from flaxmodels.errors import ConfigError
from flaxmodels.fields import brief, fields_of
from flaxmodels.generation.config import (
    LENGTHS,
    NOT_IMPLEMENTED,
    GenerationConfig,
    is_among,
    is_effective,
    known_settings,
)

_OF_SAMPLING = {
    "temperature": (None, 1),
    "top_k": (None, 0, 50),
    "top_p": (None, 1),
    **dict.fromkeys(("min_p", "epsilon_cutoff", "eta_cutoff"), (None, 0)),
    "typical_p": (None, 1),
}
"""Settings of sampling, and the values that may be given without it."""

_OF_BEAMS = {"length_penalty": (None, 1), "early_stopping": (None, False)}
"""Settings of beam search, and the values that may be given without it."""


def merge_settings(model_config: GenerationConfig, config: Any, call: Mapping[str, Any]) -> GenerationConfig:
    """The settings of one call: its keywords come first, then its `generation_config`, then the model's.

    Among the keywords `None` switches a setting off.

    Raises:
        ConfigError: names every setting that is unknown, impossible, contradictory or not implemented.
    """
    settings = GenerationConfig()
    for layer in (model_config, GenerationConfig.from_any(config)):
        settings = settings.updated({name: value for name, value in vars(layer).items() if value is not None})
    settings = settings.updated(call)
    impossible = _impossible(settings)
    contradictions = _contradictions(call, settings, impossible.keys())
    wrong = [line for lines in impossible.values() for line in lines]
    problems = [*_unknown(call), *contradictions, *wrong, *_not_implemented(settings)]
    if problems:
        raise ConfigError("generate() cannot use these settings:\n" + "\n".join(f"  - {line}" for line in problems))
    return settings


def _unknown(call: Mapping[str, Any]) -> list[str]:
    known = known_settings()
    return [f"{name}: there is no such setting; check the spelling" for name in call if name not in known]


def _contradictions(call: Mapping[str, Any], settings: GenerationConfig, impossible: Set[str]) -> list[str]:
    lines = []
    if all(call.get(name) is not None for name in LENGTHS):
        lines.append("max_length and max_new_tokens are both given; give one")
    if "do_sample" not in impossible and not settings.do_sample:
        idle = [name for name, neutral in _OF_SAMPLING.items() if not is_among(call.get(name), neutral)]
        lines += [f"{name}={brief(call[name])} has no effect without sampling; add do_sample=True" for name in idle]
    if impossible & {"num_beams", "num_return_sequences"}:
        return lines
    beams, completions = settings.num_beams or 1, settings.num_return_sequences or 1
    if beams == 1:
        idle = [name for name, neutral in _OF_BEAMS.items() if not is_among(call.get(name), neutral)]
        lines += [f"{name}={brief(call[name])} has no effect without beams; add num_beams=2 or more" for name in idle]
    if beams > 1 and completions > beams:
        lines.append(f"num_return_sequences={completions} is more than num_beams={beams}")
    if beams == 1 and completions > 1 and not settings.do_sample:
        lines.append(
            f"num_return_sequences={completions} would be the same completion; add do_sample=True or num_beams"
        )
    return lines


def _impossible(settings: GenerationConfig) -> dict[str, list[str]]:
    return {
        name: lines
        for name, field in fields_of(GenerationConfig).items()
        if (value := getattr(settings, name)) is not None and (lines := field.kind.problems(name, value))
    }


def _not_implemented(settings: GenerationConfig) -> list[str]:
    return [
        f"{name}={brief(value)} is not implemented; pass {name}={(*harmless, None)[0]!r}"
        for name, harmless in NOT_IMPLEMENTED.items()
        if is_effective(name, value := vars(settings).get(name))
    ]

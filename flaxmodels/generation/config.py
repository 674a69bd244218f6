"""`GenerationConfig`: the settings of `generate`, under the names of transformers and in its files."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Interval, Len, Predicate, doc

from flaxmodels.errors import CheckpointError, ConfigError
from flaxmodels.fields import MAX_INT, Positive, Rate, TokenId, fields_of, kind_of, shown, too_deep, unknown_names
from flaxmodels.files.commit import replace_text
from flaxmodels.files.reading import read_json

GENERATION_CONFIG_NAME = "generation_config.json"
DEFAULT_NEW_TOKENS = 20

_LENGTHS = {"max_length", "max_new_tokens"}

NOT_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
    "constraints": ([],),
    "force_words_ids": ([],),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "use_mtp": (False,),
    "assistant_early_exit": (),
    "assistant_ensemble_weight": (),
    "cache_implementation": ("dynamic", "static", "offloaded", "offloaded_static", "hybrid", "sliding_window"),
    "top_h": (),
    "token_healing": (False,),
    "guidance_scale": (1,),
    "watermarking_config": (),
    "return_token_timestamps": (False,),
    "return_segments": (False,),
    "condition_on_prev_tokens": (False,),
    "prompt_condition_type": ("first-segment",),
    "compression_ratio_threshold": (),
    "logprob_threshold": (),
    "no_speech_threshold": (),
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
    "is_assistant",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "target_lookbehind",
    "speculation_type",
    "transformers_version",
    "alignment_heads",
    "force_unique_generate_call",
    "median_filter_width",
    "prev_sot_token_id",
}
"""Settings that are accepted because they do not change which tokens are generated here."""


MAX_TOKENS = 2**24
"""The longest published contexts have ten million tokens."""
MAX_ROWS = 2**14
"""Beams, or answers, of a prompt, each of which has a cache of its own."""
MAX_NGRAM = 2**12
"""Tokens that are compared, or guessed, one after another at each step."""


def _is_id_in_json(key: str) -> bool:
    return key.isdecimal() and len(key) <= 10 and _ID.accepts(int(key))


_ID = kind_of(TokenId)
_Id = Annotated[TokenId, doc(f"a token id, which is {_ID.expected}")]
_Ids = Annotated[Sequence[TokenId], doc(f"a list of token ids, each {_ID.expected}")]
_IdOrIds = Annotated[TokenId | Sequence[TokenId], doc(f"a token id or a list of them, each {_ID.expected}")]
_SomeIds = Annotated[Sequence[TokenId], Len(1)]
_Length = Annotated[int, Interval(ge=1, le=MAX_TOKENS)]
_Count = Annotated[int, Interval(ge=0, le=MAX_TOKENS)]
_Rows = Annotated[int, Interval(ge=1, le=MAX_ROWS)]
_Ngram = Annotated[int, Interval(ge=0, le=MAX_NGRAM)]
_Guesses = Annotated[int, Interval(ge=1, le=MAX_NGRAM)]
_Text = Annotated[str, Predicate(bool)]
_Texts = Annotated[_Text | Annotated[list[_Text], Len(1)], doc("a text or a list of texts, none of them empty")]
_Sequences = Annotated[Sequence[_SomeIds], doc("a list of lists of token ids, none of them empty")]
_SequenceBias = Annotated[
    dict[_SomeIds, float] | Sequence[tuple[_SomeIds, float]],
    doc("tuples of token ids and the number that each adds to the score"),
]
_Bias = Annotated[
    dict[TokenId | Annotated[str, Predicate(_is_id_in_json)], float], doc("a dict from token ids to numbers")
]
_Pairs = Annotated[Sequence[tuple[TokenId, TokenId | None]], doc("a list of pairs of a place and a token id")]
_IdTable = Annotated[Any, Predicate(kind_of(dict[str, TokenId]).accepts), doc("a dict from texts to token ids")]
_Decay = Annotated[tuple[_Count, Positive], doc("an integer of at least 0 and a number above 0")]


class GenerationConfig:
    """How `generate` continues a prompt.

    Only values that were given are held and written to files, unknown ones of files included; the others read as
    their defaults. `None` stands for a value that was not given. A keyword that is no setting raises `ConfigError`;
    values are checked, by the annotations, when a text is generated.

    Attributes:
        max_length, min_length: most and fewest tokens of prompt and answer together.
        max_new_tokens, min_new_tokens: of the answer. `max_new_tokens` comes before `max_length`; 20 if neither is
            given.
        max_time: seconds after which no further block of tokens is begun.
        stop_strings: texts at which an answer ends; needs `tokenizer=`.
        eos_token_id: the id, or several, with which an answer ends.
        pad_token_id: the id that fills rows after their end; the first of `eos_token_id` if not given.
        bos_token_id: the prompt where none is given.
        decoder_start_token_id: with which the text of an encoder-decoder begins; `bos_token_id` if not given.
        do_sample: draw tokens from the model's distribution; the likeliest one is taken if false.
        num_return_sequences: answers for each prompt; at most `num_beams`, unless tokens are drawn without beams.
        num_beams: texts that are searched for each prompt at once; 1 is no search.
        length_penalty: the exponent of the length by which sums of log probabilities are divided; above 0 favours
            long texts.
        early_stopping: stop a search when there are `num_beams` texts (True), when no better one is likely (False),
            or when none is possible ("never").
        prompt_lookup_num_tokens: so many tokens are guessed from what followed the last ones earlier in the text.
        max_matching_ngram_size: at most so many last tokens are looked up.
        num_assistant_tokens: so many tokens are guessed by `assistant_model`.
        temperature: above 0; scores are divided by it before a token is drawn.
        top_k: only so many of the likeliest tokens are drawn from; 0 for all.
        top_p: only the likeliest tokens that together have this probability are drawn from; above 0, at most 1.
        min_p, typical_p, epsilon_cutoff, eta_cutoff: as the functions of `flaxmodels.generation.logits`.
        repetition_penalty, encoder_repetition_penalty, frequency_penalty, presence_penalty: likewise.
        no_repeat_ngram_size, encoder_no_repeat_ngram_size: no run of so many tokens comes twice; 0 for any.
        bad_words_ids: sequences of ids that do not come.
        sequence_bias: from sequences of ids, as tuples, to what is added to the score of their last token; or a list
            of pairs of both.
        logit_bias: from ids to what is added to their scores.
        forced_bos_token_id, forced_eos_token_id: the ids behind the first token of the text, and of its last one.
        forced_decoder_ids: pairs of a place in the text and the id that stands there, `None` for any.
        suppress_tokens, begin_suppress_tokens: ids that never come, or not as the first of the answer.
        language: that is spoken, as "english", "en" or "<|en|>", or one for each row; found out if not given. This and
            what follows is of Whisper.
        task: "transcribe" or "translate" (to English).
        return_timestamps: whether tokens of time stand between those of text.
        prompt_ids: tokens that come before the text, as of a glossary; the first one is that of earlier text.
        is_multilingual: whether there are languages and tasks to choose from.
        lang_to_id, task_to_id: from "<|en|>" and the like, and from tasks, to their tokens.
        no_timestamps_token_id: the last id before those of time.
        max_initial_timestamp_index: which token of time comes first at the latest, counted from 0.
        exponential_decay_length_penalty: from so many tokens of the answer on, by this factor, its end is likelier.
        remove_invalid_values: replace NaN and infinite scores.
        renormalize_logits: make log probabilities of the processed scores.
        output_scores, output_logits: also return the processed, or the model's own, scores of each token.
        output_attentions, output_hidden_states: also return these.
        return_dict_in_generate: also return `past_key_values`; a `GenerateOutput` is returned in any case.
    """

    max_length: _Length | None = None
    max_new_tokens: _Length | None = None
    min_length: _Count | None = 0
    min_new_tokens: _Count | None = None
    max_time: Positive | None = None
    stop_strings: _Texts | None = None
    eos_token_id: _IdOrIds | None = None
    pad_token_id: _Id | None = None
    bos_token_id: _Id | None = None
    decoder_start_token_id: _Id | None = None
    do_sample: bool = False
    num_return_sequences: _Rows = 1
    num_beams: _Rows = 1
    length_penalty: float = 1.0
    early_stopping: Annotated[bool | Literal["never"], doc('True, False or "never"')] = False
    prompt_lookup_num_tokens: _Guesses | None = None
    max_matching_ngram_size: _Guesses | None = 2
    num_assistant_tokens: _Guesses | None = 5
    temperature: Annotated[Positive, doc("a number above 0; do_sample=False is the limit of 0")] | None = 1.0
    top_k: Annotated[int, Interval(ge=0), doc(f"an integer from 0, which keeps all tokens, to {MAX_INT}")] | None = 50
    top_p: Annotated[float, Interval(gt=0, le=1)] | None = 1.0
    min_p: Rate | None = None
    typical_p: Rate | None = 1.0
    epsilon_cutoff: Rate | None = 0.0
    eta_cutoff: Rate | None = 0.0
    repetition_penalty: Positive | None = 1.0
    encoder_repetition_penalty: Positive | None = 1.0
    frequency_penalty: float | None = 0.0
    presence_penalty: float | None = 0.0
    no_repeat_ngram_size: _Ngram | None = 0
    encoder_no_repeat_ngram_size: _Ngram | None = 0
    bad_words_ids: _Sequences | None = None
    sequence_bias: _SequenceBias | None = None
    logit_bias: _Bias | None = None
    forced_bos_token_id: _Id | None = None
    forced_eos_token_id: _IdOrIds | None = None
    forced_decoder_ids: _Pairs | None = None
    suppress_tokens: _Ids | None = None
    begin_suppress_tokens: _Ids | None = None
    language: _Texts | None = None
    task: str | None = None
    return_timestamps: bool | None = None
    prompt_ids: _Ids | None = None
    is_multilingual: bool | None = None
    lang_to_id: _IdTable = None
    task_to_id: _IdTable = None
    no_timestamps_token_id: _Id | None = None
    max_initial_timestamp_index: _Count | None = None
    exponential_decay_length_penalty: _Decay | None = None
    remove_invalid_values: bool = False
    renormalize_logits: bool = False
    output_scores: bool = False
    output_logits: bool = False
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict_in_generate: bool = False

    def __init__(self, /, **values: Any):
        public = [name for name in values if not name.startswith("_") or hasattr(GenerationConfig, name)]
        if lines := unknown_names("GenerationConfig", "setting", public, _known_settings()):
            raise ConfigError("\n".join(lines))
        vars(self).update(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], /) -> Self:
        """The settings of a `generation_config.json`; unknown ones are kept.

        Raises:
            ConfigError: a setting has the name of a method.
        """
        fields = fields_of(cls)
        if odd := [name for name in values if not isinstance(name, str) or (hasattr(cls, name) and name not in fields)]:
            raise ConfigError(f"settings of generation cannot be called {', '.join(map(shown, odd))}: remove them")
        if lines := too_deep(values):
            raise ConfigError("\n".join(lines))
        config = cls()
        vars(config).update(values)
        return config

    @classmethod
    def from_any(cls, config: Any) -> Self:
        """`config` itself, or ours made of a mapping or of a transformers `GenerationConfig`; `None` is empty."""
        if isinstance(config, cls):
            return config
        values = {} if config is None else config.to_dict() if hasattr(config, "to_dict") else config
        if not isinstance(values, Mapping):
            raise ConfigError(f"generation_config: expected a GenerationConfig, got {type(config).__name__}")
        return cls.from_dict(values)

    @classmethod
    def from_model_config(cls, config: Any) -> Self:
        """The settings of generation that a model's configuration holds: its token ids, and what old ones hold."""
        values = {name: vars(config).get(name) for name in (*fields_of(cls), *NOT_IMPLEMENTED)}
        # The first configurations of Llama have -1 for no token.
        usual = {name: (getattr(cls, name, None), -1 if name.endswith("_token_id") else None) for name in values}
        stated = {name: value for name, value in values.items() if _matters(name, value)}
        return cls(**{name: value for name, value in stated.items() if not _is_among(value, usual[name])})

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **hub: Any) -> Self:
        """The `generation_config.json` of a Hub id or a folder; `hub` are keywords for the Hub."""
        from flaxmodels.files.resolve import resolve

        path = resolve(name_or_path, **hub).find(GENERATION_CONFIG_NAME)
        if path is None:
            raise CheckpointError(
                f"{name_or_path} has no {GENERATION_CONFIG_NAME}: use GenerationConfig.from_model_config(config)"
            )
        return cls.from_dict(read_json(path))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `generation_config.json` into `folder`, which is made if absent."""
        replace_text(Path(folder), GENERATION_CONFIG_NAME, self.to_json_string())

    def to_dict(self) -> dict[str, Any]:
        """The values that were given."""
        return copy.deepcopy(vars(self))

    def to_json_string(self) -> str:
        """The contents of `generation_config.json`, where biases of sequences are pairs, as keys are texts there."""
        values = self.to_dict()
        if isinstance(biases := values.get("sequence_bias"), dict):
            values["sequence_bias"] = list(biases.items())
        if isinstance(biases := values.get("logit_bias"), dict):
            values["logit_bias"] = {str(token): bias for token, bias in biases.items()}
        return json.dumps(values, indent=2, default=_of_numpy) + "\n"

    def __repr__(self) -> str:
        return f"GenerationConfig {self.to_json_string()}"

    def updated(self, values: Mapping[str, Any]) -> GenerationConfig:
        """A copy in which `values` win. A length given in one way takes the place of one given in the other."""
        dropped = _LENGTHS if _LENGTHS & values.keys() else set()
        kept = {name: value for name, value in vars(self).items() if name not in dropped}
        return self.from_dict(kept | dict(values))

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
    impossible = _impossible(settings)
    contradictions = _contradictions(call, settings, impossible.keys())
    wrong = [line for lines in impossible.values() for line in lines]
    problems = [*_unknown(call), *contradictions, *wrong, *_not_implemented(settings)]
    if problems:
        raise ConfigError("generate() cannot use these settings:\n" + "\n".join(f"  - {line}" for line in problems))
    return settings


def _unknown(call: Mapping[str, Any]) -> list[str]:
    known = _known_settings()
    return [f"{name}: there is no such setting; check the spelling" for name in call if name not in known]


def _contradictions(call: Mapping[str, Any], settings: GenerationConfig, impossible: Set[str]) -> list[str]:
    lines = []
    if all(call.get(name) is not None for name in _LENGTHS):
        lines.append("max_length and max_new_tokens are both given; give one")
    if "do_sample" not in impossible and not settings.do_sample:
        idle = [name for name, neutral in _OF_SAMPLING.items() if not _is_among(call.get(name), neutral)]
        lines += [f"{name}={shown(call[name])} has no effect without sampling; add do_sample=True" for name in idle]
    if impossible & {"num_beams", "num_return_sequences"}:
        return lines
    beams, answers = settings.num_beams or 1, settings.num_return_sequences or 1
    if beams == 1:
        idle = [name for name, neutral in _OF_BEAMS.items() if not _is_among(call.get(name), neutral)]
        lines += [f"{name}={shown(call[name])} has no effect without beams; add num_beams=2 or more" for name in idle]
    if beams > 1 and answers > beams:
        lines.append(f"num_return_sequences={answers} is more than num_beams={beams}")
    if beams == 1 and answers > 1 and not settings.do_sample:
        lines.append(f"num_return_sequences={answers} would be the same answer; add do_sample=True or num_beams")
    return lines


def _known_settings() -> set[str]:
    return {*fields_of(GenerationConfig), *NOT_IMPLEMENTED, *WITHOUT_EFFECT}


def _impossible(settings: GenerationConfig) -> dict[str, list[str]]:
    return {
        name: lines
        for name, field in fields_of(GenerationConfig).items()
        if (value := getattr(settings, name)) is not None and (lines := field.kind.problems(name, value))
    }


def _not_implemented(settings: GenerationConfig) -> list[str]:
    return [
        f"{name}={shown(value)} is not implemented; pass {name}={(*harmless, None)[0]!r}"
        for name, harmless in NOT_IMPLEMENTED.items()
        if _matters(name, value := vars(settings).get(name))
    ]


def _matters(name: str, value: Any) -> bool:
    return value is not None and not _is_among(value, NOT_IMPLEMENTED.get(name, ()))


def _is_among(value: Any, values: Sequence[Any]) -> bool:
    """Arrays are not: to compare them gives no truth value."""
    return getattr(value, "shape", ()) == () and value in values


def _of_numpy(value: Any) -> Any:
    """What JSON has in the place of a number or an array of numpy."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"generation_config.json cannot hold values of type {type(value).__name__}")


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

"""`GenerationConfig`: the settings of `generate`, under the names of transformers and in its files."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Interval, Len, Predicate, doc

from flaxmodels.arguments import check_arguments
from flaxmodels.errors import CheckpointNotFound, ConfigError
from flaxmodels.fields import MAX_INT, Positive, Rate, TokenId, brief, fields_of, kind_of, too_deep, unknown_names
from flaxmodels.files.commit import replace_text
from flaxmodels.files.reading import read_json
from flaxmodels.files.repository import split_hub_kwargs
from flaxmodels.hub.mixin import PushToHubMixin

GENERATION_CONFIG_NAME = "generation_config.json"
DEFAULT_NEW_TOKENS = 20

LENGTHS = {"max_length", "max_new_tokens"}

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
"""Beams, or completions, of a prompt, each of which has a cache of its own."""
MAX_NGRAM = 2**12
"""Tokens that are compared, or drafted, one after another at each step."""


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
_DraftTokens = Annotated[int, Interval(ge=1, le=MAX_NGRAM)]
_Text = Annotated[str, Predicate(bool)]
_Texts = Annotated[_Text | Annotated[list[_Text], Len(1)], doc("a string or a list of strings, none of them empty")]
_Sequences = Annotated[Sequence[_SomeIds], doc("a list of lists of token ids, none of them empty")]
_SequenceBias = Annotated[
    dict[_SomeIds, float] | Sequence[tuple[_SomeIds, float]],
    doc("tuples of token ids and the number that each adds to the score"),
]
_Bias = Annotated[
    dict[TokenId | Annotated[str, Predicate(_is_id_in_json)], float], doc("a dict from token ids to numbers")
]
_Pairs = Annotated[Sequence[tuple[TokenId, TokenId | None]], doc("a list of pairs of a position and a token id")]
_IdTable = Annotated[Any, Predicate(kind_of(dict[str, TokenId]).accepts), doc("a dict from strings to token ids")]
_Decay = Annotated[tuple[_Count, Positive], doc("an integer of at least 0 and a number above 0")]


class GenerationConfig(PushToHubMixin):
    """How `generate` continues a prompt.

    Only values that were given are held and written to files, unknown ones of files included; the others read as
    their defaults. `None` stands for a value that was not given.

    Attributes:
        max_length: the most tokens of prompt and completion together.
        min_length: the fewest tokens of prompt and completion together.
        max_new_tokens: the most tokens of the completion; it comes before `max_length`. 20 if neither is given.
        min_new_tokens: the fewest tokens of the completion.
        max_time: the seconds after which no further block of tokens is begun.
        stop_strings: strings at which a completion ends; they need `tokenizer=`.
        eos_token_id: the id, or several, with which a completion ends.
        pad_token_id: the id that fills rows after their end; the first of `eos_token_id` if not given.
        bos_token_id: the prompt where none is given.
        decoder_start_token_id: the id with which the decoder of an encoder-decoder begins; `bos_token_id` if not given.
        do_sample: sample tokens from the model's distribution; the likeliest one is taken if false.
        num_return_sequences: completions for each prompt; at most `num_beams`, unless tokens are sampled without beams.
        num_beams: sequences that are searched for each prompt at once; 1 is no search.
        length_penalty: the exponent of the length by which sums of log probabilities are divided; above 0 favours
            long sequences.
        early_stopping: stop a search when there are `num_beams` sequences (True), when no better one is likely (False),
            or when none is possible ("never").
        prompt_lookup_num_tokens: so many draft tokens are taken from what followed the last ones earlier in the
            sequence.
        max_matching_ngram_size: at most so many last tokens are looked up.
        num_assistant_tokens: so many draft tokens come from `assistant_model`.
        temperature: above 0; scores are divided by it before a token is sampled.
        top_k: only so many of the likeliest tokens are sampled from; 0 for all.
        top_p: only the likeliest tokens that together have this probability are sampled from; above 0, at most 1.
        min_p, typical_p, epsilon_cutoff, eta_cutoff: the values of these functions of `flaxmodels.generation.logits`.
        repetition_penalty, encoder_repetition_penalty, frequency_penalty, presence_penalty: likewise.
        no_repeat_ngram_size, encoder_no_repeat_ngram_size: no run of this many tokens comes twice; 0 for any.
        bad_words_ids: sequences of ids that do not come.
        sequence_bias: a dict from sequences of ids, as tuples, to what is added to the score of their last token; or
            a list of pairs of both.
        logit_bias: a dict from ids to what is added to their scores.
        forced_bos_token_id: the id after the first token of the sequence.
        forced_eos_token_id: the id, or several, of the last token of the sequence.
        forced_decoder_ids: pairs of a position in the sequence and the id that stands there, `None` for any.
        suppress_tokens: ids that never come.
        begin_suppress_tokens: ids that do not come as the first token of the completion.
        language: the language that is spoken, as "english", "en" or "<|en|>", or one for each row; it is detected if
            not given. This and what follows is of Whisper.
        task: "transcribe" or "translate" (to English).
        return_timestamps: whether timestamps stand between the other tokens.
        prompt_ids: tokens that come before the transcript, as of a glossary; the first is that of an earlier one.
        is_multilingual: whether there are languages and tasks to choose from.
        lang_to_id: a dict from "<|en|>" and the like to their ids.
        task_to_id: a dict from tasks to their ids.
        no_timestamps_token_id: the last id before those of timestamps.
        max_initial_timestamp_index: which timestamp comes first at the latest, counted from 0.
        exponential_decay_length_penalty: a number of tokens of the completion, and the factor by which its end becomes
            likelier with each further one.
        remove_invalid_values: replace NaN and infinite scores.
        renormalize_logits: make log probabilities of the processed scores.
        output_scores, output_logits: also return the processed, or the model's own, scores of each token.
        output_attentions, output_hidden_states: also return these.
        return_dict_in_generate: also return `past_key_values`; a `GenerateOutput` is returned in any case.

    Raises:
        ConfigError: a keyword is no setting. Values are checked, by the annotations, when `generate` is called.
    """

    pushed_as = "generation config"

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
    prompt_lookup_num_tokens: _DraftTokens | None = None
    max_matching_ngram_size: _DraftTokens | None = 2
    num_assistant_tokens: _DraftTokens | None = 5
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
        if lines := unknown_names("GenerationConfig", "setting", public, known_settings()):
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
            raise ConfigError(f"settings of generation cannot be called {', '.join(map(brief, odd))}: remove them")
        if lines := too_deep(values):
            raise ConfigError("\n".join(lines))
        config = cls()
        vars(config).update(values)
        return config

    @classmethod
    def from_any(cls, config: Any) -> Self:
        """`config` itself, or ours made of a mapping or of a transformers `GenerationConfig`; `None` is empty.

        Raises:
            ConfigError: it is none of these, or a setting has the name of a method.
        """
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
        stated = {name: value for name, value in values.items() if is_effective(name, value)}
        return cls(**{name: value for name, value in stated.items() if not is_among(value, usual[name])})

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **hub: Any) -> Self:
        """The `generation_config.json` of a Hub id or a folder; `hub` are keywords for the Hub.

        Raises:
            CheckpointNotFound: there is no such file.
            CheckpointError: it is not JSON.
            ConfigError: a setting has the name of a method, or a keyword is not for the Hub.
        """
        from flaxmodels.files.location import resolve

        options, others = split_hub_kwargs(check_arguments(hub))
        if others:
            raise ConfigError(
                f"GenerationConfig.from_pretrained() does not take {', '.join(others)}: set it afterwards"
            )
        location = resolve(name_or_path, **options)
        path = location.find(GENERATION_CONFIG_NAME)
        if path is None:
            raise CheckpointNotFound(
                f"{location.lacks(GENERATION_CONFIG_NAME)}: use GenerationConfig.from_model_config(config)"
            )
        return cls.from_dict(read_json(path))

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `generation_config.json` into a folder, which is made if absent.

        Args:
            save_directory: the folder.
            push_to_hub: also push the file to the Hub, into the repository `repo_id` or one named like the folder.
            kwargs: arguments of `push_to_hub`.

        Raises:
            CheckpointError: the disk is full, or the folder is not writable.
            HubError, FlaxModelsError, TypeError: as `push_to_hub`.
        """
        folder = Path(save_directory)
        with self.pushing(folder, push_to_hub, kwargs):
            replace_text(folder, GENERATION_CONFIG_NAME, self.to_json_string())

    def to_dict(self) -> dict[str, Any]:
        """The values that were given."""
        return copy.deepcopy(vars(self))

    def to_json_string(self) -> str:
        """The contents of `generation_config.json`, where biases of sequences are pairs, as keys are strings there."""
        values = self.to_dict()
        if isinstance(biases := values.get("sequence_bias"), dict):
            values["sequence_bias"] = list(biases.items())
        if isinstance(biases := values.get("logit_bias"), dict):
            values["logit_bias"] = {str(token): bias for token, bias in biases.items()}
        return json.dumps(values, indent=2, default=_of_numpy) + "\n"

    def __repr__(self) -> str:
        return f"GenerationConfig {self.to_json_string()}"

    def updated(self, values: Mapping[str, Any]) -> GenerationConfig:
        """A copy in which `values` win. A length given in one way replaces one given in the other."""
        dropped = LENGTHS if LENGTHS & values.keys() else set()
        kept = {name: value for name, value in vars(self).items() if name not in dropped}
        return self.from_dict(kept | dict(values))

    @property
    def eos_token_ids(self) -> list[int]:
        """`eos_token_id` as a list, empty if there is none."""
        return [] if self.eos_token_id is None else np.atleast_1d(self.eos_token_id).tolist()


OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


def kept_outputs(settings: GenerationConfig) -> tuple[str, ...]:
    """The settings, of `OUTPUTS`, that ask for what is computed for each token."""
    return tuple(name for name in OUTPUTS if getattr(settings, name))


def known_settings() -> set[str]:
    """The names of all settings that are accepted, whether or not they are implemented."""
    return {*fields_of(GenerationConfig), *NOT_IMPLEMENTED, *WITHOUT_EFFECT}


def is_effective(name: str, value: Any) -> bool:
    """Whether a setting of this value would change the output, if it is one that is not implemented."""
    return value is not None and not is_among(value, NOT_IMPLEMENTED.get(name, ()))


def is_among(value: Any, values: Sequence[Any]) -> bool:
    """Whether a value is one of several; arrays are not, as to compare them gives no truth value."""
    return getattr(value, "shape", ()) == () and value in values


def _of_numpy(value: Any) -> Any:
    """What JSON has in place of a number or an array of numpy."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"generation_config.json cannot hold values of type {type(value).__name__}")

"""Whisper's generation beside transformers, token for token, and what it refuses."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from models.tiny_configs import HEADS
from models.torch_reference import torch_model

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation.config import GenerationConfig
from flaxmodels.models.whisper import WhisperForConditionalGeneration

CASE = next(case for case in HEADS if case.head == "WhisperForConditionalGeneration")
QUIET = 47
"""The last token before those of time; text is below 39, the end."""
SETTINGS = {
    "decoder_start_token_id": 40,
    "eos_token_id": 39,
    "pad_token_id": 39,
    "bos_token_id": 39,
    "is_multilingual": True,
    "lang_to_id": {"<|en|>": 41, "<|de|>": 42, "<|fr|>": 43},
    "task_to_id": {"transcribe": 44, "translate": 45},
    "no_timestamps_token_id": QUIET,
    "max_initial_timestamp_index": 3,
    "suppress_tokens": [4, 5, 44, 46],
    "begin_suppress_tokens": [3, 39],
    "return_timestamps": False,
}
NEW = 13


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torch")
    reference = torch_model(CASE)
    with torch.no_grad():  # else the tied table makes each token follow itself
        reference.model.decoder.layer_norm.weight.mul_(-1.0)
    reference.generation_config = reference.generation_config.__class__(**SETTINGS)
    reference.save_pretrained(folder)
    return WhisperForConditionalGeneration.from_pretrained(folder), reference


def audio(model, frames: int | None = None) -> np.ndarray:
    mel, most = model.source_shape
    return np.random.default_rng(5).normal(size=(3, mel, frames or most)).astype(np.float32)


def theirs(reference, features, **settings) -> np.ndarray:
    """The tokens of one window, those before the completion among them."""
    config = copy.deepcopy(reference.generation_config)
    for name in ("forced_decoder_ids", "max_initial_timestamp_index"):  # which are no arguments there
        setattr(config, name, settings.pop(name, getattr(config, name, None)))
    once = {"return_dict_in_generate": True, "force_unique_generate_call": True, "generation_config": config}
    return reference.generate(torch.from_numpy(features), **once, **settings).sequences.numpy()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"language": "german"},
        {"language": "<|fr|>", "task": "translate"},
        {"language": ["en", "fr", "german"]},
        {"task": "transcribe"},
        {"forced_decoder_ids": [[1, None], [2, 45]]},
        {"forced_decoder_ids": [[1, 42], [2, 44], [3, 47]]},
        {"num_beams": 2},
        {"num_beams": 3, "length_penalty": 0.3, "num_return_sequences": 1, "language": "en"},
        {"return_timestamps": True},
        {"return_timestamps": True, "language": "en", "max_initial_timestamp_index": 0},
        {"return_timestamps": True, "repetition_penalty": 1.7},
        {"return_timestamps": True, "num_beams": 2},
        {"return_timestamps": True, "forced_decoder_ids": [[1, 42], [2, 44], [3, 47]]},
        {"return_timestamps": True, "prompt_ids": [46, 7, 8]},
        {"prompt_ids": [46, 7, 8, 9], "language": "en"},
    ],
    ids=str,
)
def test_completions_equal_torch(pair, settings):
    model, reference = pair
    features = audio(model)
    tensors = {name: torch.tensor(value) for name, value in settings.items() if name == "prompt_ids"}
    expected = theirs(reference, features, max_new_tokens=NEW, **settings | tensors)
    found = model.generate(features, max_new_tokens=NEW, **settings).sequences
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        model.generate(input_features=features, max_new_tokens=NEW, **settings).sequences, found
    )


def test_completions_with_times_have_some(pair):
    model, _ = pair
    settings = {"max_new_tokens": NEW, "return_timestamps": True, "repetition_penalty": 1.7}
    found = np.asarray(model.generate(audio(model), **settings).sequences)[:, 2:]
    assert (found[:, 0] > QUIET).all()
    assert (found > QUIET).sum() > len(found)
    assert (found < 39).sum() > len(found)


def test_shorter_audio_is_followed_by_silence(pair):
    model, reference = pair
    features = audio(model, 15)
    found = model.generate(features, max_new_tokens=NEW, language="en").sequences
    np.testing.assert_array_equal(found, theirs(reference, features, max_new_tokens=NEW, language="en"))


def test_max_length_counts_the_answer(pair):
    model, reference = pair
    found = model.generate(audio(model), max_length=7).sequences
    np.testing.assert_array_equal(found, theirs(reference, audio(model), max_length=7))


def test_a_text_can_begin_with_given_tokens(pair):
    model, reference = pair
    start = np.array([[40, 42, 44, 47, 9]] * 3)
    found = model.generate(audio(model), decoder_input_ids=start, max_new_tokens=NEW).sequences
    given = {"decoder_input_ids": torch.from_numpy(start)}
    np.testing.assert_array_equal(found, theirs(reference, audio(model), max_new_tokens=NEW, **given))


def test_the_language_is_found_out(pair):
    model, reference = pair
    found = model.detect_language(audio(model))
    np.testing.assert_array_equal(found, reference.detect_language(torch.from_numpy(audio(model))))
    np.testing.assert_array_equal(model.train().detect_language(audio(model)), found)
    model.eval()
    given = {name: value for name, value in vars(model.generation_config).items() if name != "lang_to_id"}
    with pytest.raises(FlaxModelsError, match=r"^detect_language\(\) needs lang_to_id in generation_config$"):
        model.detect_language(audio(model), GenerationConfig(**given))


def test_an_answer_is_streamed_and_compiled_before(pair):
    model, _ = pair
    model.warmup(3, max_new_tokens=NEW, streaming=True)
    expected = np.asarray(model.generate(audio(model), max_new_tokens=NEW).sequences)
    new = np.concatenate(list(model.stream(audio(model), max_new_tokens=NEW)), 1)
    np.testing.assert_array_equal(new, expected[:, -new.shape[1] :])


def test_the_settings_come_back(pair, tmp_path):
    model, _ = pair
    model.save_pretrained(tmp_path)
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path).generation_config
    assert again.to_dict() == model.generation_config.to_dict()
    assert again.lang_to_id == SETTINGS["lang_to_id"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"language": "klingon"}, "language='klingon': the model knows de, en, fr"),
        ({"language": ["en"]}, "language: expected one string, or one for each of 3 rows, got 1"),
        ({"task": "sing"}, "task='sing': expected one of 'transcribe', 'translate'"),
        (
            {"language": "en", "is_multilingual": False},
            "language: the model knows English alone (is_multilingual=False); leave it out",
        ),
        ({"language": "en", "lang_to_id": None}, "language needs lang_to_id in generation_config"),
        (
            {"return_timestamps": True, "no_timestamps_token_id": None},
            "return_timestamps needs no_timestamps_token_id in generation_config",
        ),
        (
            {"forced_decoder_ids": [[1, 42], [3, 44]]},
            "forced_decoder_ids: expected the positions 1, 2, ... in order, got [(1, 42), (3, 44)]",
        ),
        (
            {"max_new_tokens": 27},
            "a prompt of 3 tokens and 27 new ones exceed the 29 positions of WhisperForConditionalGeneration "
            "(max_position_embeddings); shorten the prompt, or lower max_new_tokens",
        ),
        (
            {"logprob_threshold": -1.0},
            "generate() cannot use these settings:\n  - logprob_threshold=-1.0 is not implemented; pass "
            "logprob_threshold=None",
        ),
    ],
    ids=str,
)
def test_settings_that_are_refused(pair, settings, message):
    model, _ = pair
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        model.generate(audio(model), **settings)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (None, "generate() needs input_features, floats [batch, 5, frames]"),
        (np.zeros((2, 4, 22)), "input_features: expected [batch, 5, frames], got (2, 4, 22)"),
        (
            np.zeros((2, 5), int),
            "input_features: expected floats [batch, bands, frames], got int64 (2, 5); add the axis batch, as in "
            "x[None]",
        ),
        (
            np.zeros((2, 5, 23)),
            "input_features: 23 frames are more than the 22 that the model reads at once; transcribe longer audio "
            "piece by piece",
        ),
    ],
)
def test_sounds_that_are_refused(pair, features, message):
    model, _ = pair
    with pytest.raises(FlaxModelsError, match=f"^{re.escape(message)}$"):
        model.generate(features)
    if np.ndim(features) == 3:
        mel = re.escape("input_features: expected [batch, 5, 22], got")
        with pytest.raises(FlaxModelsError, match=f"^{mel}"):
            model(features, decoder_input_ids=np.zeros((2, 1), int))

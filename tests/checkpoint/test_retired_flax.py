"""Files that transformers' retired Flax classes wrote (by `tests/fixtures/retired_flax.py make`), and ours for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flaxmodels import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
)
from flaxmodels.files.location import resolve
from flaxmodels.files.weights import find_weights

FIXTURES = Path(__file__).parents[1] / "fixtures" / "retired_flax"
TEXT = {"input_ids": np.array([[5, 7, 11, 13, 2]])}
TEXTS = TEXT | {"decoder_input_ids": np.array([[0, 3, 8, 5]])}
IMAGE = {"pixel_values": np.linspace(-1, 1, 3 * 8 * 8, dtype=np.float32).reshape(1, 3, 8, 8)}
IMAGES = {"pixel_values": np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)}
SOUND = np.sin(np.arange(80, dtype=np.float32) ** 1.5)[None]
SPECTRUM = {"input_features": SOUND.reshape(1, 5, 16), "decoder_input_ids": TEXT["input_ids"]}
MODELS = {
    "bart": (AutoModelForSeq2SeqLM, TEXT, "logits"),
    "bert": (AutoModelForMaskedLM, TEXT, "logits"),
    "clip": (AutoModel, TEXT | IMAGES, "logits_per_image"),
    "clip_text": (AutoModel, TEXT, "pooler_output"),
    "clip_vision": (AutoModel, IMAGES, "pooler_output"),
    "gpt2": (AutoModelForCausalLM, TEXT, "logits"),
    "llama": (AutoModelForCausalLM, TEXT, "logits"),
    "marian": (AutoModelForSeq2SeqLM, TEXT, "logits"),
    "mt5": (AutoModelForSeq2SeqLM, TEXTS, "logits"),
    "t5": (AutoModelForSeq2SeqLM, TEXTS, "logits"),
    "vit": (AutoModelForImageClassification, IMAGE, "logits"),
    "wav2vec2": (AutoModelForCTC, {"input_values": SOUND}, "logits"),
    "whisper": (AutoModelForSpeechSeq2Seq, SPECTRUM, "logits"),
}


def tensors(folder):
    source = find_weights(resolve(folder)).source
    return {name: (header.shape, source.read(name).tobytes()) for name, header in source.headers.items()}


@pytest.mark.parametrize("sharded", ["", "-sharded"])
@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_their_file_gives_their_output_and_is_written_back(name, sharded, scan_layers, tmp_path):
    auto, inputs, output = MODELS[name]
    folder = FIXTURES / (name + sharded)
    model, info = auto.from_pretrained(folder, output_loading_info=True, scan_layers=scan_layers)
    assert (info.missing_keys, info.unexpected_keys, info.mismatched_keys) == ([], [], [])
    expected = np.load(folder / f"{output}.npy")
    np.testing.assert_allclose(model(**inputs)[output], expected, atol=1e-5 * np.abs(expected).max())
    model.save_pretrained(tmp_path, safe_serialization=False, max_shard_size="4KB" if sharded else "5GB")
    assert tensors(tmp_path) == tensors(folder)

"""Files that transformers' retired Flax classes wrote (by `tests/fixtures/retired_flax.py make`), and ours for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flaxmodels import AutoModelForCausalLM, AutoModelForCTC, AutoModelForMaskedLM, AutoModelForSpeechSeq2Seq
from flaxmodels.files.resolve import resolve

FIXTURES = Path(__file__).parents[1] / "fixtures" / "retired_flax"
CLASSES = {
    "bert": AutoModelForMaskedLM,
    "llama": AutoModelForCausalLM,
    "gpt2": AutoModelForCausalLM,
    "whisper": AutoModelForSpeechSeq2Seq,
    "wav2vec2": AutoModelForCTC,
}
IDS = np.array([[5, 7, 11, 13, 2]])
SOUND = np.sin(np.arange(80, dtype=np.float32) ** 1.5)[None]
INPUTS = {
    "whisper": {"input_features": SOUND.reshape(1, 5, 16), "decoder_input_ids": IDS},
    "wav2vec2": {"input_values": SOUND},
}


def tensors(folder):
    source = resolve(folder).weights().source
    return {name: (header.shape, source.read(name).tobytes()) for name, header in source.headers.items()}


@pytest.mark.parametrize("sharded", ["", "-sharded"])
@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("model_type", CLASSES)
def test_their_file_gives_their_logits_and_is_written_back(model_type, sharded, scan_layers, tmp_path):
    folder = FIXTURES / (model_type + sharded)
    model, info = CLASSES[model_type].from_pretrained(folder, output_loading_info=True, scan_layers=scan_layers)
    assert (info.missing_keys, info.unexpected_keys, info.mismatched_keys) == ([], [], [])
    expected = np.load(folder / "logits.npy")
    inputs = INPUTS.get(model_type, {"input_ids": IDS})
    np.testing.assert_allclose(model(**inputs).logits, expected, atol=1e-5 * np.abs(expected).max())
    model.save_pretrained(tmp_path, safe_serialization=False, max_shard_size="4KB" if sharded else "5GB")
    assert tensors(tmp_path) == tensors(folder)

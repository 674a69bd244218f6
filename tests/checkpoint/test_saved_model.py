"""What `save_pretrained` writes on request: a given state dict, by a given function, and exported programs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from models.comparisons import same_params
from models.tiny_configs import HEADS
from safetensors.numpy import load_file, save_file

from flaxmodels.checkpoint.load_saved_model import load
from flaxmodels.errors import CheckpointMismatch, FlaxModelsError
from flaxmodels.models.bert import BertForMaskedLM
from flaxmodels.models.mixtral import MixtralForCausalLM

VALUES = {case.head: dict(case.values) for case in HEADS}
IDS = np.arange(8).reshape(2, 4)
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.fixture(scope="module")
def bert() -> BertForMaskedLM:
    return BertForMaskedLM(VALUES["BertForMaskedLM"] | {"num_hidden_layers": 1})


# ---- exported programs


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("BertForMaskedLM", {"max_shard_size": 2000}),
        ("BertForMaskedLM", {"format": "flax-safetensors", "variant": "x"}),
        ("T5ForConditionalGeneration", {}),
        ("MixtralForCausalLM", {}),
    ],
)
def test_an_exported_program_computes_the_same_for_any_batch_and_length(head, options, tmp_path):
    case = next(case for case in HEADS if case.head == head)
    model = case.ours(case.values)
    model.save_pretrained(tmp_path, saved_model=True, **options)
    program = load(tmp_path)
    for ids, mask in ((IDS, MASK), (IDS[:1, :3], MASK[:1, :3]))[: 2 if head == "BertForMaskedLM" else 1]:
        inputs = {"input_ids": ids, "attention_mask": mask}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = ids[:, :2]
        found, expected = program(**inputs), model(**inputs)
        assert found.keys() == set(expected.keys()) - {"past_key_values"}
        np.testing.assert_allclose(found["logits"], expected.logits, atol=2e-5)
    assert same_params(case.ours.from_pretrained(tmp_path, variant=options.get("variant")).params, model.params)


@pytest.mark.parametrize("head", ["ViTModel", "ResNetForImageClassification", "CLIPModel"])
def test_an_exported_program_for_images(head, tmp_path):
    case = next(case for case in HEADS if case.head == head)
    model = case.ours(case.values)
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "image_size", 32)
    height, width = size if isinstance(size, tuple | list) else (size, size)
    images = np.linspace(0, 1, 2 * config.num_channels * height * width, dtype=np.float32)
    inputs = {"pixel_values": images.reshape(2, config.num_channels, height, width)}
    if head == "CLIPModel":
        inputs = {"input_ids": IDS, "attention_mask": MASK} | inputs
    signature = {
        name: (value.shape, "float32" if name == "pixel_values" else "int32") for name, value in inputs.items()
    }
    model.save_pretrained(tmp_path, saved_model=True, signatures=signature)
    found, expected = load(tmp_path)(**inputs), model(**inputs)
    for name, value in expected.items():
        if not isinstance(found[name], dict):
            np.testing.assert_allclose(found[name], value, atol=2e-5)


def test_a_process_without_the_code_of_the_model_runs_it(bert, tmp_path):
    bert.save_pretrained(tmp_path, saved_model=True)
    names = ["config.json", "load_saved_model.py", "model.safetensors", "saved_model-1-serving_default.stablehlo"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "saved_model-1.json"]
    code = f"""if True:
        import sys
        sys.modules["flaxmodels"] = sys.modules["flax"] = None
        from load_saved_model import load
        logits = load()(input_ids={IDS.tolist()}, attention_mask={MASK.tolist()})["logits"]
        print(logits.tolist())
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    np.testing.assert_allclose(json.loads(run.stdout), bert(IDS, MASK).logits, atol=1e-5)


def test_signatures_and_versions(bert, tmp_path):
    signatures = {
        "short": {"input_ids": jax.ShapeDtypeStruct((1, 3), "int32"), "output_hidden_states": True},
        "long": {"input_ids": (("batch", 8), "int32"), "token_type_ids": (("batch", 8), jnp.int32)},
    }
    bert.save_pretrained(tmp_path, saved_model=True, signatures=signatures, version=7)
    about = json.loads((tmp_path / "saved_model-7.json").read_text())
    assert about == {
        "weights": ["model.safetensors"],
        "signatures": {
            "short": {"input_ids": {"shape": [1, 3], "dtype": "int32"}},
            "long": {
                "input_ids": {"shape": ["batch", 8], "dtype": "int32"},
                "token_type_ids": {"shape": ["batch", 8], "dtype": "int32"},
            },
        },
    }
    found = load(tmp_path, "short", 7)(input_ids=IDS[:1, :3])
    expected = bert(IDS[:1, :3], output_hidden_states=True)
    for ours, theirs in zip(found["hidden_states"], expected.hidden_states, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    program = load(tmp_path, "long", 7)
    types = np.ones((2, 8), int)
    expected = bert(np.ones((2, 8), int), token_type_ids=types)
    np.testing.assert_allclose(program(input_ids=types, token_type_ids=types)["logits"], expected.logits, atol=1e-5)
    with pytest.raises(TypeError) as error:
        program(input_ids=types)
    assert str(error.value) == "expected input_ids, token_type_ids, got input_ids"


def test_a_program_has_the_given_parameters(bert, tmp_path):
    params = jax.tree.map(lambda value: 2 * value, bert.params)
    bert.save_pretrained(tmp_path, params, saved_model=True)
    expected = bert(IDS, MASK, params=params).logits
    np.testing.assert_allclose(
        load(tmp_path)(input_ids=IDS, attention_mask=MASK)["logits"], expected, rtol=1e-4, atol=1e-4
    )


def test_the_output_of_a_program_may_be_overridden(tmp_path):
    class Scores(BertForMaskedLM):
        def serving_output(self, output):
            return output.logits

    model = Scores(VALUES["BertForMaskedLM"] | {"num_hidden_layers": 1})
    model.save_pretrained(tmp_path, saved_model=True)
    np.testing.assert_allclose(load(tmp_path)(input_ids=IDS, attention_mask=MASK), model(IDS, MASK).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"safe_serialization": False},
            FlaxModelsError,
            "saved_model=True is for weights in safetensors, which its loader reads, not for format='flax': leave out "
            "safe_serialization=False, or choose 'torch' or 'flax-safetensors'",
        ),
        (
            {"signatures": {"pixel_values": ((1, 3, 8, 8), "float32")}},
            TypeError,
            "BertForMaskedLM: got an unexpected keyword argument 'pixel_values'; it takes ",
        ),
    ],
)
def test_what_is_not_exported_is_not_saved(bert, tmp_path, options, kind, message):
    with pytest.raises(kind) as error:
        bert.save_pretrained(tmp_path / "x", saved_model=True, **options)
    assert str(error.value).startswith(message)
    assert not (tmp_path / "x").exists()


# ---- state dicts and functions


@pytest.mark.parametrize("kind", ["numpy", "torch", "jax"])
def test_a_state_dict_is_saved_in_its_dtypes(bert, kind, tmp_path):
    convert = {"numpy": np.asarray, "torch": lambda value: torch.tensor(np.asarray(value)), "jax": jnp.asarray}[kind]
    state = {name: convert(3 * value) for name, value in bert.state_dict().items()}
    half = "bert.embeddings.word_embeddings.weight"
    state[half] = state["cls.predictions.decoder.weight"] = convert(np.asarray(state[half], np.float16))
    bert.save_pretrained(tmp_path, state_dict=state)
    written = load_file(tmp_path / "model.safetensors")
    assert written[half].dtype == np.float16
    loaded = BertForMaskedLM.from_pretrained(tmp_path)
    for name, value in loaded.state_dict().items():
        np.testing.assert_array_equal(value, np.asarray(state[name]))


@pytest.mark.parametrize("format", ["torch", "flax", "flax-safetensors", "orbax"])
def test_a_state_dict_in_every_format(format, tmp_path):
    model = MixtralForCausalLM(VALUES["MixtralForCausalLM"])
    state = {name: 3 * value for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=state, format=format)
    expected = jax.tree.map(lambda value: 3 * value, model.params)
    assert same_params(MixtralForCausalLM.from_pretrained(tmp_path).params, expected)


def test_parts_of_a_state_dict(bert, tmp_path):
    state = {name: value for name, value in bert.state_dict().items() if "embeddings" in name}
    bert.save_pretrained(tmp_path, state_dict=state)
    assert load_file(tmp_path / "model.safetensors").keys() == state.keys()


@pytest.mark.parametrize(
    ("state", "kind", "message"),
    [
        (
            {"bert.other.weight": np.ones(3)},
            CheckpointMismatch,
            "state_dict has tensors that BertForMaskedLM does not have: bert.other.weight. Take them out of it.",
        ),
        (
            {"cls.predictions.bias": np.ones(3)},
            CheckpointMismatch,
            "1 of another shape in state_dict\n  ! cls.predictions.bias: checkpoint (3,), model (31,)\nGive tensors of "
            "the model's shapes.",
        ),
    ],
)
def test_a_state_dict_that_does_not_fit(bert, state, kind, message, tmp_path):
    with pytest.raises(kind) as error:
        bert.save_pretrained(tmp_path / "x", state_dict=bert.state_dict() | state)
    assert str(error.value) == message
    assert not (tmp_path / "x").exists()


def test_a_state_dict_and_parameters(bert, tmp_path):
    with pytest.raises(TypeError) as error:
        bert.save_pretrained(tmp_path, bert.params, state_dict=bert.state_dict())
    assert str(error.value) == ("save_pretrained() got params and state_dict, which both are what is saved: give one")


def test_a_function_writes_each_file(bert, tmp_path):
    calls = []

    def write(tensors, path):
        calls.append(path.name)
        save_file({name: 2 * value for name, value in tensors.items()}, path, {"format": "pt"})

    bert.save_pretrained(tmp_path, max_shard_size=4000, save_function=write)
    assert calls == sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(calls) > 1
    expected = jax.tree.map(lambda value: 2 * value, bert.params)
    assert same_params(BertForMaskedLM.from_pretrained(tmp_path).params, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "save_function wrote no file model.safetensors: it must write to the path that it is given"),
        ({"format": "orbax"}, "save_function writes files, and format='orbax' is a tree: leave it out"),
    ],
)
def test_a_function_that_does_not_write(bert, options, message, tmp_path):
    with pytest.raises(FlaxModelsError) as error:
        bert.save_pretrained(tmp_path / "x", save_function=lambda tensors, path: None, **options)
    assert message in str(error.value)
    assert not (tmp_path / "x" / "config.json").exists()


def test_names_and_adapters(bert, tmp_path):
    bert.save_pretrained(tmp_path, save_peft_format=False, save_original_format=True)
    with pytest.raises(FlaxModelsError) as error:
        bert.save_pretrained(tmp_path, save_original_format=False)
    assert str(error.value) == (
        "save_original_format=False is not done: files have the names that all versions of torch's classes read"
    )


def test_the_loader_that_is_saved_is_the_one_of_the_library(bert, tmp_path):
    bert.save_pretrained(tmp_path, saved_model=True)
    spec = spec_from_file_location("saved_loader", tmp_path / "load_saved_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.load()(input_ids=IDS, attention_mask=MASK)["logits"].shape == (2, 4, 31)

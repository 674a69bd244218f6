"""Parameters and buffers one by one, under the names and in the layout of torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models.comparisons import same_params
from models.tiny_configs import HEADS, for_cases
from models.torch_reference import torch_state

from flaxmodels.errors import CheckpointError, FlaxModelsError
from flaxmodels.models.bert import BertForPreTraining, BertModel

TF = Path(__file__).parents[1] / "fixtures" / "retired_tf" / "TFBertForPreTraining"
CHOSEN = [case for case in HEADS if case.head in ("BertForMaskedLM", "GPT2LMHeadModel", "ResNetModel", "GptOssModel")]
TINY = {"vocab_size": 13, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 5}


@for_cases(CHOSEN)
def test_parameters_and_buffers_are_those_of_torch(case, folder, reference):
    for scan_layers in (False, True) if case.head != "ResNetModel" else (False,):
        model = case.ours.from_pretrained(folder, scan_layers=scan_layers)
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        assert same_params(parameters, torch_state(reference, dict(reference.named_parameters())))
        persistent = reference.state_dict().keys()
        theirs = {name: buffer for name, buffer in reference.named_buffers() if name in persistent}
        assert same_params(buffers, torch_state(reference, theirs))
        assert [array.shape for array in model.parameters()] == [array.shape for array in parameters.values()]
        assert len(list(model.buffers())) == len(buffers)
        assert list(model.named_non_persistent_buffers(recurse=True, remove_duplicate=True)) == []
        for name, array in {**torch_state(reference), **buffers}.items():
            np.testing.assert_array_equal(model.get_parameter_or_buffer(name), array, err_msg=name)


def test_names_that_there_are_not():
    model = BertModel(TINY)
    for name, hint in (
        ("encoder.layer.0.attention.self.query.kernel", ", but encoder.layer.0.attention.self.query.weight"),
        ("embeddings", ""),
    ):
        with pytest.raises(AttributeError) as error:
            model.get_parameter_or_buffer(name)
        assert str(error.value) == f"BertModel has neither a parameter nor a buffer {name!r}{hint}"
    described = BertModel.abstract(TINY)
    for use in (lambda: described.get_parameter_or_buffer("pooler.dense.bias"), lambda: list(described.parameters())):
        with pytest.raises(FlaxModelsError, match=r"^the model holds no parameters"):
            use()


def test_weights_of_tensorflow_into_a_model():
    expected = BertForPreTraining.from_pretrained(TF)
    model = BertForPreTraining(expected.config, seed=3)
    assert BertForPreTraining.load_tf_weights(model, model.config, TF / "tf_model.h5") is model
    assert same_params(model.params, expected.params)
    encoder = BertModel(expected.config, seed=3)
    encoder.load_tf_weights(encoder, None, str(TF / "tf_model.h5"))
    assert same_params(encoder.params, expected.params["bert"])


def test_files_that_are_not_of_tensorflow(tmp_path):
    model = BertModel(TINY)
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError) as error:
        model.load_tf_weights(model, model.config, tmp_path / "model.safetensors")
    assert str(error.value) == "model.safetensors is no file of the TensorFlow classes: expected tf_model.h5"


def test_a_class_may_refuse_the_arrays_that_were_read(tmp_path):
    class Copying(BertModel):
        _supports_assign_param_buffer = False

    model = BertModel(TINY)
    model.save_pretrained(tmp_path)
    path, name = tmp_path / "model.safetensors", "embeddings.word_embeddings.weight"
    mapped, copied = BertModel.from_pretrained(tmp_path), Copying.from_pretrained(tmp_path)
    with path.open("r+b") as file:
        file.seek(-path.stat().st_size + 8 + int.from_bytes(path.read_bytes()[:8], "little"), 2)
        file.write(bytes(path.stat().st_size - file.tell()))
    kept = copied.state_dict()
    assert same_params(kept, model.state_dict())
    assert BertModel._supports_assign_param_buffer
    assert not mapped.state_dict()[name].any() or not np.shares_memory(mapped.state_dict()[name], kept[name])

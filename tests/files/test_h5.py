"""TensorFlow checkpoints: Keras weights in HDF5 files, written by the retired classes (`fixtures/retired_tf.py`)."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from flaxmodels.errors import CheckpointError
from flaxmodels.files.h5 import H5File
from flaxmodels.models.bert import BertForPreTraining, BertForSequenceClassification
from interop.dialects.tf import torch_name

FIXTURES = Path(__file__).parents[1] / "fixtures" / "retired_tf"
IDS = np.array([[5, 7, 11, 13, 2]])
CLASSES = {
    "TFBertForPreTraining": BertForPreTraining,
    "TFBertForPreTraining-sharded": BertForPreTraining,
    "TFBertForSequenceClassification": BertForSequenceClassification,
}


@pytest.fixture
def folder():
    return FIXTURES / "TFBertForPreTraining"


def test_names_are_those_of_torch():
    assert torch_name("bert/tf_bert_model/bert/encoder/layer_._11/output/dense/kernel:0") == (
        "bert.encoder.layer.11.output.dense.weight"
    )
    assert torch_name("mlm___cls/tf_bert_for_masked_lm/mlm___cls/predictions/bias:0") == "cls.predictions.bias"
    assert torch_name("classifier/tf_bert_for_sequence_classification/classifier/bias:0") == "classifier.bias"
    assert torch_name("bert/embeddings/LayerNorm/gamma:0") == "bert.embeddings.LayerNorm.weight"


@pytest.mark.parametrize("name", CLASSES)
def test_what_tensorflow_wrote_loads_with_its_logits(name):
    model, info = CLASSES[name].from_pretrained(FIXTURES / name, output_loading_info=True)
    assert (info.missing_keys, info.unexpected_keys) == ([], [])
    np.testing.assert_allclose(model(IDS)[0], np.load(FIXTURES / name / "logits.npy"), rtol=1e-4, atol=2e-5)


def test_a_part_is_read_alone(folder):
    file = H5File(folder / "tf_model.h5")
    name = "bert/tf_bert_for_pre_training/bert/embeddings/word_embeddings/weight:0"
    np.testing.assert_array_equal(file.read(name, (slice(2, 4),)), file.read(name)[2:4])


def test_damaged_files_and_foreign_data_are_refused(folder, tmp_path):
    whole = (folder / "tf_model.h5").read_bytes()
    for size in (0, 4, 100, 2000):
        path = tmp_path / f"{size}.h5"
        path.write_bytes(whole[:size])
        with pytest.raises(
            CheckpointError, match=rf"^{size}.h5: truncated or not an HDF5 file .*Download or copy it ag"
        ):
            H5File(path)
    elsewhere = Path(shutil.copy(folder / "tf_model.h5", tmp_path / "elsewhere.h5"))
    with h5py.File(elsewhere, "a") as file:
        file.create_dataset("secret", (4,), "u1", external=[("/etc/hostname", 0, 4)])
        file["link"] = h5py.ExternalLink("/etc/hostname", "/x")
    with pytest.raises(
        CheckpointError, match=r"^elsewhere.h5: keeps data in other files: secret. Save it as one file.$"
    ):
        H5File(elsewhere)


def test_groups_in_each_other_and_large_attributes_are_passed_over(tmp_path):
    with h5py.File(tmp_path / "tf_model.h5", "w", libver="latest") as file:
        file["a/kernel:0"] = np.ones(3, np.float32)
        file["a/self"] = file["/"]
        file["a/soft"] = h5py.SoftLink("/nowhere")
        file.attrs["weights"] = np.zeros(10**6, "S20")
    source = H5File(tmp_path / "tf_model.h5")
    assert list(source.headers) == ["a/kernel:0"]
    np.testing.assert_array_equal(source.read("a/kernel:0"), np.ones(3, np.float32), strict=True)


def test_empty_datasets_and_those_after_a_user_block(tmp_path):
    with h5py.File(tmp_path / "tf_model.h5", "w", userblock_size=512) as file:
        file["empty"], file["scalar"], file["x"] = np.zeros((0, 3), np.float32), np.float64(2), np.arange(5)
    source = H5File(tmp_path / "tf_model.h5")
    assert source.read("empty").shape == (0, 3)
    assert source.read("scalar") == 2
    np.testing.assert_array_equal(source.read("x", (slice(1, 3),)), [1, 2])

"""TensorFlow checkpoints: Keras weights in HDF5 files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from models.comparisons import same_params
from models.tiny_configs import FAMILIES

from flaxmodels.errors import CheckpointError
from flaxmodels.files.h5 import H5File
from flaxmodels.models.bert import BertForPreTraining
from interop.dialects.tf import torch_name

CONFIG = FAMILIES["bert"].config
_PARTS = [(r"^bert\.", "bert/tf_bert_for_pre_training/bert/"), (r"layer\.(\d+)", r"layer_._\1")]


def keras_name(name: str, shape: tuple[int, ...]) -> tuple[str, bool]:
    """Where Keras stores a tensor of torch, and whether it is transposed there."""
    *owner, leaf = name.split(".")
    if leaf == "weight":
        if owner[-1] == "LayerNorm":
            leaf = "gamma"
        elif owner[-1] == "word_embeddings":
            leaf = "weight"
        else:
            leaf = "embeddings" if owner[-1].endswith("_embeddings") else "kernel"
    elif owner[-1] == "LayerNorm":
        leaf = "beta"
    path = ".".join([*owner, leaf])
    path = re.sub(r"layer\.(\d+)", r"layer_._\1", path).replace(".", "/").replace("layer_/_/_", "layer_._")
    path = path.replace("layer_/", "layer_.")
    heads = {"cls/predictions": "mlm___cls", "cls/seq_relationship": "nsp___cls"}
    for start, group in heads.items():
        if path.startswith(start):
            path = f"{group}/tf_bert_for_pre_training/{group}/{path.removeprefix('cls/')}"
    if path.startswith("bert/"):
        path = f"bert/tf_bert_for_pre_training/{path}"
    return f"{path}:0", leaf == "kernel"


@pytest.fixture(scope="module")
def model():
    return BertForPreTraining(CONFIG, seed=4)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tf")
    model.config.save_pretrained(folder)
    with h5py.File(folder / "tf_model.h5", "w") as file:
        for name, value in model.state_dict().items():
            if name in ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias"):
                continue  # tied
            path, transposed = keras_name(name, value.shape)
            file.create_dataset(path, data=value.T if transposed else value)
    return folder


def test_names_are_those_of_torch():
    assert torch_name("bert/tf_bert_model/bert/encoder/layer_._11/output/dense/kernel:0") == (
        "bert.encoder.layer.11.output.dense.weight"
    )
    assert torch_name("mlm___cls/tf_bert_for_masked_lm/mlm___cls/predictions/bias:0") == "cls.predictions.bias"
    assert torch_name("classifier/tf_bert_for_sequence_classification/classifier/bias:0") == "classifier.bias"
    assert torch_name("bert/embeddings/LayerNorm/gamma:0") == "bert.embeddings.LayerNorm.weight"


def test_a_keras_file_loads(model, folder):
    loaded, info = BertForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert (info.missing_keys, info.unexpected_keys) == ([], [])
    assert same_params(loaded.params, model.params)


def test_a_part_is_read_alone(model, folder):
    file = H5File(folder / "tf_model.h5")
    name = "bert/tf_bert_for_pre_training/bert/embeddings/word_embeddings/weight:0"
    expected = model.params["bert"]["embeddings"]["word_embeddings"]["embedding"][2:4]
    np.testing.assert_array_equal(file.read(name, (slice(2, 4),)), expected)


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

"""GGUF files of each architecture, written in llama.cpp's names and layout, beside transformers' reading of them."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
import transformers
from attacks import gguf as attacked

from flaxmodels import GPT2LMHeadModel
from flaxmodels.errors import CheckpointError
from flaxmodels.files.weights import open_weights

IDS = np.array([[5, 7, 11, 2, 9]])
GPT2 = {"vocab_size": 31, "n_positions": 17, "n_embd": 32, "n_layer": 2, "n_head": 4, "layer_norm_epsilon": 1e-4}
NAMES = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A folder with `model.gguf`, and the torch model of which it was made."""
    config = transformers.GPT2Config(**GPT2, bos_token_id=1, eos_token_id=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.1, 0.3, generator=generator)
    folder = tmp_path_factory.mktemp("gpt2")
    writer = gguf.GGUFWriter(folder / "model.gguf", "gpt2")
    writer.add_context_length(GPT2["n_positions"])
    writer.add_embedding_length(GPT2["n_embd"])
    writer.add_feed_forward_length(4 * GPT2["n_embd"])
    writer.add_block_count(GPT2["n_layer"])
    writer.add_head_count(GPT2["n_head"])
    writer.add_layer_norm_eps(GPT2["layer_norm_epsilon"])
    writer.add_vocab_size(GPT2["vocab_size"])
    for name, tensor in model.transformer.state_dict().items():
        owner, leaf = f"transformer.{name}".rsplit(".", 1)
        if owner.startswith("transformer.h."):
            _, _, layer, part = owner.split(".", 3)
            stored = f"blk.{layer}.{NAMES[part]}.{leaf}"
        else:
            stored = f"{NAMES[owner]}.{leaf}"
        value = tensor.numpy()
        transposed = leaf == "weight" and "c_" in owner
        writer.add_tensor(stored, np.ascontiguousarray(value.T if transposed else value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder, model


def test_gpt2_equals_torch(gpt2):
    folder, reference = gpt2
    model, info = GPT2LMHeadModel.from_pretrained(folder, gguf_file="model.gguf", output_loading_info=True)
    assert (info.missing_keys, info.unexpected_keys) == ([], [])
    assert (model.config.n_inner, model.config.tie_word_embeddings) == (128, True)
    with torch.no_grad():
        expected = reference(torch.tensor(IDS)).logits
    np.testing.assert_allclose(model(IDS).logits, expected, rtol=1e-4, atol=1e-4)


def test_transformers_reads_the_same_from_the_file(gpt2):
    folder, reference = gpt2
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, gguf_file="model.gguf", config=reference.config)
    for name, tensor in reference.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], tensor), name


def test_an_unknown_architecture_is_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((3, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(
        CheckpointError, match=r"^GGUF architecture 'mamba' is not implemented: expected 'llama' or 'gpt2'$"
    ):
        GPT2LMHeadModel.from_pretrained(tmp_path / "model.gguf")


def test_tensors_of_unknown_names_are_not_dropped(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(attacked.model(attacked.LLAMA, attacked.TENSORS | {"blk.0.attn_q_norm.weight": (2,)}))
    headers = open_weights(path).source.headers
    assert "blk.0.attn_q_norm.weight" in headers
    assert len(headers) == len(attacked.TENSORS) + 1

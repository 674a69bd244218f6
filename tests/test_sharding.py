"""Parameters sharded over eight virtual devices: exactly the bytes that they hold are read."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from counting import counting, held
from jax.sharding import Mesh, PartitionSpec

from flaxmodels import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM
from flaxmodels.errors import ConfigError
from flaxmodels.files import weights
from flaxmodels.sharding.rules import shardings

CONFIG = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
IDS = np.array([[5, 7, 11, 2]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(CONFIG, seed=1).save_pretrained(folder, max_shard_size="20KB")
    return folder


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("rules", ["tp", "fsdp"])
def test_reads_the_bytes_that_the_devices_hold_and_computes_the_same(folder, mesh, rules, scan_layers, monkeypatch):
    counters = []
    monkeypatch.setattr(weights, "open_weights", counting(counters))
    model = LlamaForCausalLM.from_pretrained(folder, device_mesh=mesh, sharding_rules=rules, scan_layers=scan_layers)
    assert counters[0].bytes == held(model.params)
    sharded = [leaf for leaf in jax.tree.leaves(model.params) if not leaf.is_fully_replicated]
    assert len(sharded) >= len(jax.tree.leaves(model.params)) // 2
    whole = LlamaForCausalLM.from_pretrained(folder)
    np.testing.assert_allclose(model(IDS).logits, whole(IDS).logits, rtol=1e-4, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, model.state_dict(), whole.state_dict())


@pytest.mark.parametrize("experts_implementation", ["eager", "batched", "grouped"])
def test_experts_are_divided_and_only_their_own_files_names_are_read(
    mesh, experts_implementation, monkeypatch, tmp_path
):
    fields = {**CONFIG.to_dict(), "num_local_experts": 4, "model_type": "mixtral"}
    MixtralForCausalLM(MixtralConfig.from_any(fields), seed=1).save_pretrained(tmp_path)
    counters = []
    monkeypatch.setattr(weights, "open_weights", counting(counters))
    options = {"scan_layers": experts_implementation != "eager", "experts_implementation": experts_implementation}
    model = MixtralForCausalLM.from_pretrained(tmp_path, device_mesh=mesh, sharding_rules="tp", **options)
    assert counters[0].bytes == held(model.params)
    leaves = [leaf for path, leaf in jax.tree.leaves_with_path(model.params) if "experts" in jax.tree_util.keystr(path)]
    assert leaves
    assert all(leaf.addressable_data(0).shape[-3] == 1 for leaf in leaves)
    whole = MixtralForCausalLM.from_pretrained(tmp_path)
    np.testing.assert_allclose(model(IDS).logits, whole(IDS).logits, rtol=1e-4, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, model.state_dict(), whole.state_dict())


def test_a_table_of_rules_decides_and_what_does_not_divide_stays_whole(mesh, caplog):
    model = LlamaForCausalLM.abstract(LlamaConfig(**{**CONFIG.to_dict(), "vocab_size": 63, "model_type": "llama"}))
    found = shardings(model, mesh, [("embed_tokens", PartitionSpec("model")), ("kernel", PartitionSpec(None, "data"))])
    assert found["model/embed_tokens/embedding"].spec == PartitionSpec(None)
    assert found["model/layers/0/mlp/up_proj/kernel"].spec == PartitionSpec(None, "data")
    assert found["model/norm/scale"].spec == PartitionSpec()
    assert "axes ('model',) do not divide a dimension of 63, which stays whole" in caplog.text


def test_unknown_rules_are_refused(mesh):
    message = "sharding_rules='pp' is not known: expected 'tp', 'fsdp' or a table of rules"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        shardings(LlamaForCausalLM.abstract(CONFIG), mesh, "pp")

"""Live torch modules to Flax and back, and the converters under their old names."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
import transformers

import interop
from flaxmodels import BertForMaskedLM, LlamaForCausalLM, torch_interop
from flaxmodels.errors import ConfigError
from interop import torch_bridge
from interop.errors import InteropError


def randomise(module):
    """Draw every parameter, biases and scales too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.1, 0.3, generator=generator)
    return module


CONFIG = transformers.LlamaConfig(
    vocab_size=31,
    hidden_size=16,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
IDS = np.array([[5, 7, 11, 2]])


@pytest.fixture
def module():
    return randomise(transformers.LlamaForCausalLM(CONFIG).eval())


def logits(module):
    with torch.no_grad():
        return module(torch.tensor(IDS)).logits.float().numpy()


def test_a_live_module_becomes_a_model_with_its_logits(module):
    model = interop.from_torch(module)
    assert type(model) is LlamaForCausalLM
    np.testing.assert_allclose(model(IDS).logits, logits(module), rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_bfloat16_bit_for_bit(module):
    module = module.to(torch.bfloat16)
    state = interop.to_torch(interop.from_torch(module))
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_arrays_of_a_shared_device_pass_through_dlpack(module, dtype, monkeypatch):
    """Between CPU tensors here, which DLPack serves as it does those of a GPU."""
    monkeypatch.setattr(torch_interop, "shares_device", lambda kind: True)
    monkeypatch.setattr(torch_bridge, "to_numpy", None)
    monkeypatch.setattr(torch_bridge, "from_numpy", None)
    module = module.to(dtype)
    model = interop.from_torch(module)
    assert model.params["model"]["norm"]["scale"].dtype == str(dtype).removeprefix("torch.")
    state = interop.to_torch(model)
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())


def test_a_model_fills_a_live_module(module):
    model = interop.from_torch(module)
    fresh = transformers.LlamaForCausalLM(CONFIG).eval()
    assert interop.to_torch(model, fresh) is fresh
    np.testing.assert_array_equal(logits(fresh), logits(module))


def test_the_old_converters_give_and_take_trees(module, tmp_path):
    model = LlamaForCausalLM(CONFIG, seed=1)
    params = interop.convert_pytorch_state_dict_to_flax(module.state_dict(), model)
    expected = interop.from_torch(module).params
    jax.tree.map(np.testing.assert_array_equal, params, expected)

    module.save_pretrained(tmp_path)
    loaded = interop.load_pytorch_checkpoint_in_flax_state_dict(model, tmp_path / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)

    fresh = transformers.LlamaForCausalLM(CONFIG).eval()
    interop.load_flax_weights_in_pytorch_model(fresh, params)
    np.testing.assert_array_equal(logits(fresh), logits(module))

    model.save_pretrained(tmp_path / "flax", params=params, safe_serialization=False)
    fresh = transformers.LlamaForCausalLM(CONFIG).eval()
    interop.load_flax_checkpoint_in_pytorch_model(fresh, tmp_path / "flax" / "flax_model.msgpack")
    np.testing.assert_array_equal(logits(fresh), logits(module))


def test_a_module_of_another_class_is_refused_with_every_name(module):
    headless = transformers.LlamaModel(CONFIG)
    model = interop.from_torch(module)
    names = [f"  + {name}" for name in model.state_dict()]
    absent = [f"  - missing {name}" for name in sorted(dict(headless.named_parameters()))]
    with pytest.raises(InteropError) as error:
        interop.to_torch(model, headless)
    assert str(error.value) == "\n".join(["the weights do not fit LlamaModel:", *absent, *names])


def test_a_class_that_is_not_here_is_refused():
    with pytest.raises(ConfigError, match=r"^there is no Flax class for Linear: see flaxmodels.architectures$"):
        interop.from_torch(torch.nn.Linear(2, 2))


def test_tied_weights_fill_both_names():
    config = transformers.BertConfig(
        vocab_size=31, hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2
    )
    module = randomise(transformers.BertForMaskedLM(config).eval())
    model = interop.from_torch(module)
    assert type(model) is BertForMaskedLM
    fresh = interop.to_torch(model, transformers.BertForMaskedLM(config).eval())
    np.testing.assert_array_equal(logits(fresh), logits(module))


def test_experts_that_files_hold_one_by_one_are_together_in_live_modules():
    config = transformers.MixtralConfig(**CONFIG.to_dict() | {"num_local_experts": 3, "model_type": "mixtral"})
    module = randomise(transformers.MixtralForCausalLM(config).eval())
    state = module.state_dict()
    model = interop.from_torch(module)
    empty = randomise(transformers.MixtralForCausalLM(config))
    filled = interop.to_torch(model, empty.apply(lambda part: [p.data.zero_() for p in part.parameters(recurse=False)]))
    assert all(torch.equal(tensor, state[name]) for name, tensor in filled.state_dict().items())

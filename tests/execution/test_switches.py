"""What of a model's computation can be chosen after it was made, and where it takes place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh
from models.tiny_configs import HEADS, LAYERS

from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.execution.structure import Structure, structure_of
from flaxmodels.models.bert import BertForMaskedLM
from flaxmodels.models.clip import CLIPModel
from flaxmodels.models.llama import LlamaForCausalLM
from flaxmodels.models.mixtral import MixtralForCausalLM
from flaxmodels.models.resnet import ResNetModel
from flaxmodels.policy import Policy

VALUES = {case.head: dict(case.values) for case in HEADS}
IDS = np.arange(8).reshape(2, 4)
OTHER = Policy(
    np.dtype(jnp.bfloat16), attn_implementation="eager", experts_implementation="batched", remat="dots_saveable"
)


@pytest.fixture
def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(VALUES["LlamaForCausalLM"] | {"num_hidden_layers": 1})


@pytest.fixture
def clip() -> CLIPModel:
    return CLIPModel.abstract(VALUES["CLIPModel"])


def attention(model) -> set[str]:
    """The implementations of attention in a model."""
    attributes = [vars(each) for _, each in nnx.iter_modules(model)]
    return {each["implementation"] for each in attributes if "implementation" in each}


def described(value):
    """What the programs of a module depend on, where functions are equal if they have one name."""
    if isinstance(value, dict):
        return {name: described(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return tuple(map(described, value))
    return getattr(value, "__qualname__", value) if callable(value) else value


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_a_replaced_policy_is_that_of_a_model_made_with_it(case):
    model = case.ours.abstract(case.values)
    chosen = OTHER if model.supports_gradient_checkpointing else replace(OTHER, remat=None)
    expected = case.ours.abstract(model.config, policy=chosen)
    model.policy = chosen
    assert described(Structure(model)._description) == described(Structure(expected)._description)


def test_what_was_compiled_for_another_policy_is_not_used_again(llama):
    first, before = structure_of(llama), llama(IDS).logits
    llama.policy = replace(llama.policy, dtype=jnp.bfloat16)
    assert llama(IDS).logits.dtype == llama.dtype == jnp.bfloat16
    assert structure_of(llama) is not first
    llama.policy = replace(llama.policy, dtype=jnp.float32)
    assert jnp.array_equal(llama(IDS).logits, before)
    same = structure_of(llama)
    llama.policy = replace(llama.policy)
    assert structure_of(llama) is same


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"param_dtype": jnp.bfloat16},
            "param_dtype='bfloat16' cannot be chosen after parameters are stored: cast them, as in model.params = "
            "model.to_bf16(), or load the model anew",
        ),
        (
            {"scan_layers": True},
            "scan_layers=True cannot be chosen after parameters are stored: load the model anew",
        ),
    ],
)
def test_a_policy_by_which_parameters_are_stored_is_refused(llama, change, message):
    before = llama.policy
    with pytest.raises(FlaxModelsError) as error:
        llama.policy = replace(before, dtype=jnp.float16, **change)
    assert str(error.value) == message
    assert (llama.policy, llama.lm_head.dtype) == (before, jnp.float32)


# ---- gradient checkpointing


def backward(model) -> str:
    """The jaxpr of the gradients of a model."""
    return str(jax.make_jaxpr(jax.grad(lambda params: model(IDS, params=params).logits.sum()))(model.params))


def test_gradient_checkpointing_is_in_the_jaxpr(llama):
    plain = backward(llama)
    assert "remat" not in plain
    assert (llama.supports_gradient_checkpointing, llama.is_gradient_checkpointing) == (True, False)
    llama.gradient_checkpointing_enable()
    assert llama.is_gradient_checkpointing
    everything = backward(llama)
    assert "policy=None" in everything
    llama.gradient_checkpointing_enable({"policy": "dots_saveable", "use_reentrant": False})
    assert llama.policy.remat == "dots_saveable"
    assert "policy=DotsSaveable" in backward(llama)
    llama.gradient_checkpointing_disable()
    assert backward(llama) == plain
    llama.enable_gradient_checkpointing()
    assert backward(llama) == everything


def test_gradient_checkpointing_of_a_configuration_is_in_the_jaxpr():
    values = VALUES["LlamaForCausalLM"] | {"num_hidden_layers": 1, "gradient_checkpointing": True}
    model = LlamaForCausalLM(values)
    assert "remat" in backward(model)
    assert model.is_gradient_checkpointing


def test_gradient_checkpointing_of_parts(clip):
    clip.set_attn_implementation({"vision_config": "eager"})
    clip.gradient_checkpointing_enable()
    assert clip.text_model.is_gradient_checkpointing
    assert clip.vision_model.policy == replace(clip.policy, attn_implementation="eager")


def test_other_arguments_of_gradient_checkpointing(llama):
    with pytest.raises(FlaxModelsError) as error:
        llama.gradient_checkpointing_enable({"context_fn": None, "use_reentrant": True})
    assert str(error.value) == (
        "gradient_checkpointing_kwargs has 'context_fn', which jax.checkpoint does not know: 'policy', the name of one "
        "of jax.checkpoint_policies, says what is kept"
    )
    assert not llama.is_gradient_checkpointing


RESNET = (
    "ResNetModel does not support gradient checkpointing: it has no stack of equal blocks whose activations could be "
    "computed again"
)


def test_gradient_checkpointing_without_equal_blocks():
    model = ResNetModel.abstract(VALUES["ResNetModel"])
    assert not model.supports_gradient_checkpointing
    for ask in (
        model.gradient_checkpointing_enable,
        lambda: ResNetModel.abstract(VALUES["ResNetModel"], gradient_checkpointing=True),
    ):
        with pytest.raises(FlaxModelsError) as error:
            ask()
        assert str(error.value) == RESNET


# ---- implementations


def test_implementations_of_attention_are_chosen_for_all_parts_or_for_some(clip):
    clip.set_attn_implementation("eager")
    assert attention(clip) == {"eager"}
    clip.set_attn_implementation({"text_config": "flash_attention_2"})
    assert (attention(clip.text_model), attention(clip.vision_model)) == ({"flash"}, {"eager"})
    clip.set_attn_implementation({"": "sdpa"})
    assert clip.policy.attn_implementation == "sdpa"
    assert (attention(clip.text_model), attention(clip.vision_model)) == ({"flash"}, {"eager"})
    clip.set_attn_implementation(None)
    assert attention(clip) == {"sdpa"}


def test_implementations_by_part_of_a_constructor():
    chosen = {"": "flash", "vision_config": "eager"}
    model = CLIPModel.abstract(VALUES["CLIPModel"], attn_implementation=chosen)
    assert [each.policy.attn_implementation for each in (model, model.text_model, model.vision_model)] == [
        *("flash", "flash", "eager")
    ]


def test_a_part_that_is_not_there(clip):
    with pytest.raises(ConfigError) as error:
        clip.set_attn_implementation({"audio_config": "eager"})
    assert str(error.value) == (
        "attn_implementation: CLIPModel has no part 'audio_config': expected '', 'text_config', 'vision_config'"
    )


def test_chosen_implementations_compute_the_same(llama):
    expected = llama(IDS).logits
    for name in ("eager", "flash_attention_3"):
        llama.set_attn_implementation(name)
        np.testing.assert_allclose(llama(IDS).logits, expected, atol=1e-5)


def test_implementations_of_experts_are_chosen():
    model: Any = MixtralForCausalLM(VALUES["MixtralForCausalLM"] | {"num_hidden_layers": 1})
    expected = model(IDS).logits
    for name, own in {"batched_mm": "batched", "grouped_mm": "grouped"}.items():
        model.set_experts_implementation(name)
        assert model.model.layers[0].mlp.experts.implementation == model.policy.experts_implementation == own
        np.testing.assert_allclose(model(IDS).logits, expected, atol=1e-5)
    model.set_experts_implementation(None)
    assert model.policy.experts_implementation is None
    assert model.model.layers[0].self_attn.implementation == "sdpa"


def test_kernels(llama):
    assert not llama.use_kernels
    llama.kernelize()
    assert llama.use_kernels
    assert attention(llama) == {"flash"}
    llama.set_use_kernels(False)
    assert attention(llama) == {"sdpa"}
    llama.set_attn_implementation("eager")
    llama.use_kernels = False
    assert attention(llama) == {"eager"}
    llama.use_kernels = True
    assert attention(llama) == {"flash"}


def test_a_configuration_of_kernels(llama):
    with pytest.raises(FlaxModelsError) as error:
        llama.set_use_kernels(True, kernel_config=object())
    assert str(error.value) == (
        "kernel_config chooses kernels for torch, which are not run here: leave it out, or choose by "
        "set_attn_implementation() and set_experts_implementation()"
    )


def test_better_transformer_and_back(llama):
    llama.set_attn_implementation("eager")
    with pytest.raises(FlaxModelsError) as error:
        llama.reverse_bettertransformer()
    assert str(error.value) == "reverse_bettertransformer() reverts to_bettertransformer(), which was not called"
    assert llama.to_bettertransformer() is llama
    assert attention(llama) == {"sdpa"}
    with pytest.raises(FlaxModelsError) as error:
        llama.to_bettertransformer()
    assert str(error.value) == ("to_bettertransformer() was called before: call reverse_bettertransformer() first")
    assert llama.reverse_bettertransformer() is llama
    assert attention(llama) == {"eager"}


# ---- what a model says of itself


def test_dtype_key_input_shape_and_device(llama):
    assert (llama.dtype, llama.input_shape) == (jnp.float32, (1, 1))
    model = BertForMaskedLM(VALUES["BertForMaskedLM"], (2, 3), 5, jnp.bfloat16)
    assert (model.dtype, model.input_shape) == (jnp.bfloat16, (2, 3))
    assert model.key == jax.random.key(5)
    assert model.device == jax.devices()[0]
    model.params = jax.device_put(model.params, jax.devices()[3])
    assert model.device == jax.devices()[3]


def test_device_without_parameters(clip):
    with pytest.raises(FlaxModelsError) as error:
        _ = clip.device
    assert str(error.value) == "the model holds no parameters: pass params=, or call init_weights()"


def test_tensor_parallelism(llama, tmp_path):
    assert llama.tp_size is None
    llama.save_pretrained(tmp_path)
    mesh = Mesh(np.array(jax.devices()[:2]).reshape(1, 2), ("data", "tp"))
    sharded = LlamaForCausalLM.from_pretrained(tmp_path, device_mesh=mesh, sharding_rules="tp")
    assert (sharded.tp_size, sharded.supports_tp_plan, sharded.supports_pp_plan) == (2, True, False)
    assert sharded.device == jax.devices()[0]
    assert (sharded.is_parallelizable, sharded.is_backend_compatible()) == (True, True)
    assert sharded._supports_assign_param_buffer


def test_outputs_that_can_be_recorded():
    model: Any = MixtralForCausalLM.abstract(VALUES["MixtralForCausalLM"])
    layer = model.model.layers[0]
    assert model.can_record_outputs == {
        "hidden_states": (type(layer),),
        "attentions": (type(layer.self_attn),),
        "router_logits": (type(layer.mlp.gate),),
    }

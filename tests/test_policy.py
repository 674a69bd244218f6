"""How a model is computed: the arguments of constructors and of `from_pretrained`, in one place."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.policy import Policy, keeps_dtypes, split_policy_arguments

BFLOAT16, FLOAT16 = np.dtype(jnp.bfloat16), np.dtype("float16")


@pytest.mark.parametrize(
    ("arguments", "checkpoint", "dtype", "param_dtype"),
    [
        ({}, None, "float32", "float32"),
        ({}, FLOAT16, "float32", "float16"),
        ({"dtype": "bfloat16"}, None, "bfloat16", "float32"),
        ({"dtype": "bfloat16"}, FLOAT16, "bfloat16", "float16"),
        ({"param_dtype": "bfloat16"}, FLOAT16, "float32", "bfloat16"),
        ({"torch_dtype": "bfloat16"}, FLOAT16, "bfloat16", "bfloat16"),
        ({"torch_dtype": "bfloat16"}, None, "bfloat16", "bfloat16"),
        ({"torch_dtype": "bfloat16", "dtype": "float32"}, FLOAT16, "float32", "bfloat16"),
        ({"torch_dtype": "bfloat16", "param_dtype": "auto"}, FLOAT16, "bfloat16", "float16"),
        ({"torch_dtype": "auto"}, FLOAT16, "bfloat16", "float16"),
        ({"dtype": "auto", "param_dtype": "float32"}, FLOAT16, "bfloat16", "float32"),
    ],
)
def test_dtypes(arguments, checkpoint, dtype, param_dtype):
    config = PreTrainedConfig.from_dict({"torch_dtype": "bfloat16"})
    policy = Policy.from_arguments(config, checkpoint, **arguments)
    assert (policy.dtype.name, policy.param_dtype.name) == (dtype, param_dtype)


def test_auto_without_a_word_of_the_configuration_is_what_the_checkpoint_has():
    assert Policy.from_arguments(PreTrainedConfig(), FLOAT16, dtype="auto").dtype == FLOAT16


def test_auto_without_a_checkpoint_is_refused():
    with pytest.raises(ConfigError) as error:
        Policy.from_arguments(PreTrainedConfig(), dtype="auto")
    assert str(error.value) == ("'auto' is not a dtype for models: expected one of float32, bfloat16, float16, float64")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, True),
        ({"torch_dtype": "auto"}, True),
        ({"dtype": "bfloat16"}, True),
        ({"param_dtype": "auto"}, True),
        ({"torch_dtype": BFLOAT16}, False),
        ({"param_dtype": "float32", "torch_dtype": "auto"}, False),
    ],
)
def test_whether_parameters_keep_their_dtypes(arguments, expected):
    assert keeps_dtypes(arguments) == expected


@pytest.mark.parametrize(
    ("values", "arguments", "remat"),
    [
        ({}, {}, None),
        ({"gradient_checkpointing": True}, {}, "full"),
        ({"gradient_checkpointing": True}, {"gradient_checkpointing": False}, None),
        ({}, {"gradient_checkpointing": True}, "full"),
        ({}, {"remat": "dots_saveable"}, "dots_saveable"),
        ({}, {"remat": "dots_saveable", "gradient_checkpointing": True}, "dots_saveable"),
    ],
)
def test_rematerialisation(values, arguments, remat):
    assert Policy.from_arguments(PreTrainedConfig.from_dict(values), **arguments).remat == remat


def test_rematerialisation_and_its_opposite():
    with pytest.raises(FlaxModelsError) as error:
        Policy.from_arguments(PreTrainedConfig(), remat="full", gradient_checkpointing=False)
    assert str(error.value) == "remat='full' and gradient_checkpointing=False contradict each other: give one"


@pytest.mark.parametrize(
    ("values", "arguments", "attention", "experts"),
    [
        ({}, {}, "sdpa", None),
        ({}, {"attn_implementation": None, "experts_implementation": None}, "sdpa", None),
        ({}, {"attn_implementation": "flash_attention_2", "experts_implementation": "batched_mm"}, "flash", "batched"),
        ({}, {"attn_implementation": "flash_attention_3", "experts_implementation": "grouped_mm"}, "flash", "grouped"),
        ({}, {"attn_implementation": "flash_attention_4"}, "flash", None),
        ({}, {"attn_implementation": {"": "eager", "text_config": "sdpa"}}, "eager", None),
        ({}, {"experts_implementation": {"text_config": "eager"}}, "sdpa", None),
        ({}, {"use_kernels": True}, "flash", None),
        ({}, {"use_kernels": False, "attn_implementation": "eager"}, "eager", None),
        ({}, {"use_kernels": True, "attn_implementation": "flash_attention_2"}, "flash", None),
        ({"attn_implementation": "eager"}, {}, "eager", None),
        ({"attn_implementation": "eager"}, {"attn_implementation": "flash"}, "flash", None),
    ],
)
def test_implementations(values, arguments, attention, experts):
    policy = Policy.from_arguments(PreTrainedConfig.from_dict(values), **arguments)
    assert (policy.attn_implementation, policy.experts_implementation) == (attention, experts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"attn_implementation": "kernels-community/flash-attn2@main:fwd"},
            "attn_implementation='kernels-community/flash-attn2@main:fwd' names a kernel of the Hub, which is code for "
            "torch and is not run here: expected one of eager, sdpa, flash",
        ),
        (
            {"attn_implementation": "flex_attention"},
            "attn_implementation='flex_attention' is not known: expected one of eager, sdpa, flash",
        ),
        (
            {"experts_implementation": "deepgemm"},
            "experts_implementation='deepgemm' is not known: expected one of eager, batched, grouped",
        ),
        (
            {"use_kernels": True, "attn_implementation": "eager"},
            "use_kernels=True and attn_implementation='eager' contradict each other: the kernels are those of 'flash'; "
            "give one",
        ),
    ],
)
def test_implementations_that_are_not_there(arguments, message):
    with pytest.raises(FlaxModelsError) as error:
        Policy.from_arguments(PreTrainedConfig(), **arguments)
    assert str(error.value) == message


def test_arguments_are_told_from_others():
    arguments = {"dtype": "float16", "torch_dtype": None, "gradient_checkpointing": True, "scan_layers": True}
    others = {"hidden_size": 3, "revision": "main"}
    assert split_policy_arguments(arguments | others) == (arguments, others)

"""Whether parity with torch could fail: a change of any one tensor of a checkpoint shows in an output."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
from models.tiny_configs import CASES, for_cases
from models.torch_reference import TOLERANCE, at_tokens, everything, flat_outputs, inputs_for, is_final, tensors_in

_SAME_FOR_ALL_KEYS = "adds to the scores of a query the same for every key, which the softmax takes away"
_STAGES = "comes after the last of the stages that are returned"
SILENT: tuple[tuple[str, str, str], ...] = (
    (r".*", r".*\.(key|k_lin|attn\.k)\.bias", _SAME_FOR_ALL_KEYS),
    (r"(Bart|MBart|Pegasus|Marian|OPT|CLIP|Siglip|Wav2Vec2).*", r".*\.k_proj\.bias", _SAME_FOR_ALL_KEYS),
    (r".*", r".*\.num_batches_tracked", "counts the batches of training"),
    (
        r"(Bart|MBart|Pegasus|Marian)ForCausalLM",
        r".*\.encoder_attn.*",
        "reads states of an encoder, and has none",
    ),
    (r"(Bart|MBart).*-untied", r"model\.shared\.weight", "is not tied to the tables that are read"),
    (
        r".*(MaskedLM|PreTraining)-untied.*",
        r"(cls\.predictions|lm_head)\.bias",
        "is not tied to the one that is added",
    ),
    (r"Dinov2(ForImageClassification|Backbone).*", r".*mask_token", "stands for masked patches, and none is masked"),
    (r"BeitBackbone", r"encoder\.layer\.[123]\..*", _STAGES),
    (r"BeitForSemanticSegmentation.*", r"beit\.encoder\.layer\.3\..*", "transformers counts the embeddings as a stage"),
    (r"BeitForSemanticSegmentation.*", r"auxiliary_head\..*", "is computed in training alone"),
    (r"Dinov2Backbone-flat", r"encoder\.layer\.1\..*", _STAGES),
    (r"ResNetBackbone-stages", r"encoder\.stages\.2\..*", _STAGES),
    (r"ConvNextBackbone-stages", r"encoder\.stages\.2\..*", _STAGES),
    (r"CLIPForImageClassification.*", r"vision_model\.post_layernorm\..*", "is applied to what is not classified"),
    (r"SiglipForImageClassification.*", r"vision_model\.head\..*", "makes what is not classified"),
    (
        r"Qwen3MoeForCausalLM-normalised",
        r".*\.layers\.1\.mlp\.experts\.6\..*",
        "is of an expert that no token takes",
    ),
    (
        r"(Mixtral|Qwen3Moe)ForSequenceClassification",
        r".*\.layers\.1\..*\.experts\.0\..*",
        "is of an expert that the token which is classified does not take",
    ),
    (r"Dinov2Backbone-no-mask", r"layernorm\..*", "is not applied, as `apply_layernorm` is false"),
    (r"Wav2Vec2Model-unaugmented", r"masked_spec_embed", "stands for masked frames, and none is masked"),
    (
        r"Wav2Vec2ForSequenceClassification-all-layers",
        r"wav2vec2\.encoder\.layer_norm\..*",
        "is applied to the last state, and the states before it are averaged",
    ),
    (r"Wav2Vec2ForXVector.*", r"objective\.weight", "is part of the loss"),
)
"""What shows in no output: regular expressions for the case and for the tensor, and why."""


@for_cases([], exhaustive=CASES)
def test_every_tensor_shows_in_a_final_output(case, model, folder):
    distances = moves(case, model, tensors_in(folder))
    silent = {name for name, distance in distances.items() if distance < 100 * TOLERANCE}
    assert silent == {name for name in distances if is_silent(case.name, name)}


def is_silent(case: str, tensor: str) -> bool:
    """Whether the table says so."""
    return any(re.fullmatch(cases, case) and re.fullmatch(tensors, tensor) for cases, tensors, _ in SILENT)


def moves(case, model, tensors: dict[str, np.ndarray]) -> dict[str, float]:
    """How far final outputs move at most, relative to their largest value, when each tensor is changed."""
    numbered = case.ours.abstract(dict(case.values))
    numbered.load_state_dict({n: np.full(x.shape, i, x.dtype) for i, (n, x) in enumerate(tensors.items(), 1)})
    inputs, wanted = inputs_for(case), everything(case)

    def outputs(number):
        """With all that comes from the tensor of this number changed; 0 comes from none, and -1 is nothing."""
        changed = (
            jax.tree.map(lambda value, origin: jnp.where(origin == number, shaken(value), value), values, origins)
            for values, origins in ((model.params, numbered.params), (model.batch_stats, numbered.batch_stats))
        )
        params, batch_stats = changed
        found = model(**inputs, **wanted, params=params, batch_stats=batch_stats or None)
        return {name: value for name, value in flat_outputs(found) if is_final(name)}

    found = jax.jit(lambda: jax.lax.map(outputs, np.array([-1, *range(1, len(tensors) + 1)])))()
    mask = inputs.get("attention_mask")
    return {
        name: max(distance(at_tokens(x[number], mask), at_tokens(x[0], mask)) for x in map(np.asarray, found.values()))
        for number, name in enumerate(tensors, 1)
    }


def shaken(value: jax.Array) -> jax.Array:
    """Each element larger or smaller by half, and some by four, so that no variance is negative."""
    rng = np.random.default_rng(0)
    return (value * rng.choice([0.5, 1.5], value.shape) + 4 * rng.integers(0, 2, value.shape)).astype(value.dtype)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())

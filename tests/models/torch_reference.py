"""The other side of the parity tests: torch models with random parameters, and batches for both."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
import torch
from models.comparisons import assert_close
from models.family import MASK, Case

from interop.torch_bridge import as_saved, to_numpy

TOLERANCE = 1e-5
"""How far an output may be from that of torch, relative to its largest value."""


def torch_model(case: Case) -> Any:
    """The reference model: every parameter that is not fixed set at random, biases and scales too."""
    generator = torch.Generator().manual_seed(0)
    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model = untied(case, case.theirs(case.theirs.config_class(**case.values, **eager)).eval())
    with torch.no_grad():
        biases = [(name, buffer) for name, buffer in model.named_buffers() if name == "final_logits_bias"]
        for name, parameter in [*model.named_parameters(), *biases]:
            if name.endswith("embed_positions.weight") and not parameter.requires_grad:
                continue  # sines and cosines, which files may lack
            around = 1.0 if name.endswith("weight") and parameter.ndim == 1 else 0.0
            parameter.normal_(around, 0.2, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                # By how many values are summed, so that the signal neither dies nor drowns the biases.
                kernel = re.sub(r"(normalization|bn)\.running_(mean|var)$", _kernel, name)
                inputs = dict(model.named_parameters()).get(kernel, buffer[None])[0].numel()
                if name.endswith("running_mean"):
                    buffer.normal_(0.0, 0.1, generator=generator).mul_(inputs**0.5)
                else:
                    buffer.uniform_(0.01, 0.02, generator=generator).mul_(inputs)
            elif "num_batches" in name:
                buffer.fill_(7)
        for _, bias in biases:
            bias[:, model.config.pad_token_id] = -9.0  # models that were trained do not predict padding
    return model


def _kernel(norm: re.Match[str]) -> str:
    """The name of the kernel of the convolution before a batch norm."""
    return {"normalization": "convolution", "bn": "conv"}[norm[1]] + ".weight"


def untied(case: Case, model: Any) -> Any:
    """With an output projection of its own if the case says so, whatever transformers 5 makes of that in a T5."""
    output = model.get_output_embeddings()
    if not case.values.get("tie_word_embeddings", True) and model.config.tie_word_embeddings and output is not None:
        output.weight = torch.nn.Parameter(output.weight.detach().clone())
        model.all_tied_weights_keys.pop("lm_head.weight")
        model.config.tie_word_embeddings = False
    return model


def torch_state(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor] | None = None) -> dict[str, np.ndarray]:
    """Its state dict, or other tensors under the names of its parameters, as its checkpoints name them."""
    tensors = model.state_dict() if tensors is None else tensors
    return {name: to_numpy(tensor) for name, tensor in as_saved(model, dict(tensors)).items()}


def tensors_in(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of the safetensors files in a folder, as the safetensors package reads them."""
    return {
        name: array
        for path in sorted(folder.glob("*.safetensors"))
        for name, array in safetensors.numpy.load_file(path).items()
    }


def inputs_for(case: Case, *, embedded: bool = False) -> dict[str, np.ndarray]:
    """A padded batch of every input that the model takes; vectors at odd positions instead of ids if `embedded`."""
    rng = np.random.default_rng(1)
    described = case.ours.abstract(dict(case.values))
    taken, config = inspect.signature(described.base_forward).parameters, described.config
    if case.family.inputs is not None:
        further = case.family.head_inputs.get(case.head, lambda config, rng: {})
        given = case.family.inputs(config, rng) | further(config, rng)
        return {name: value for name, value in given.items() if name in taken}
    pad = config.pad_token_id
    ids = rng.choice([token for token in range(config.vocab_size) if token != pad], MASK.shape)
    ids[1][MASK[1] == 0] = pad
    inputs = {"input_ids": ids, "attention_mask": MASK}
    if "decoder_input_ids" in taken:
        tokens = [token for token in range(config.target_vocab_size) if token != pad]
        ids[ids == config.eos_token_id] = next(token for token in tokens if token != config.eos_token_id)
        ids[:, 4] = config.eos_token_id
        inputs |= {"decoder_input_ids": rng.choice(tokens, MASK.shape), "decoder_attention_mask": MASK}
        embedded = embedded and not case.head.endswith("SequenceClassification")
    # transformers reads choices of GPT-2 as ids alone, and summarises them by "cls_index" alone.
    doubled = case.head == "GPT2DoubleHeadsModel" and config.summary_type == "cls_index"
    if embedded and not doubled:
        features = getattr(config, "embedding_features", config.hidden_size)
        inputs["inputs_embeds"] = rng.normal(size=(*MASK.shape, features)).astype(np.float32)
        # transformers forgets the positions of choices in DistilBERT, and does not take those of some decoders.
        forgotten = case.head == "DistilBertForMultipleChoice"
        by_both = taken.keys() & inspect.signature(case.theirs.forward).parameters
        if "position_ids" in by_both and not forgotten:
            inputs["position_ids"] = rng.integers(0, MASK.shape[1], MASK.shape)
        del inputs["input_ids"]
    if "token_type_ids" in taken:
        inputs["token_type_ids"] = rng.integers(0, getattr(config, "type_vocab_size", config.vocab_size), MASK.shape)
    if case.head.endswith("MultipleChoice") or doubled:
        inputs = {name: np.stack([value, np.roll(value, 1, 0)], 1) for name, value in inputs.items()}
    if doubled:
        mask = inputs["attention_mask"]
        inputs["mc_token_ids"] = (mask * rng.random(mask.shape)).argmax(-1)
    if case.values.get("add_cross_attention"):
        encoder_hidden_states = rng.normal(size=(len(MASK), 5, config.hidden_size)).astype(np.float32)
        encoder_attention_mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])
        inputs |= {"encoder_hidden_states": encoder_hidden_states, "encoder_attention_mask": encoder_attention_mask}
    return inputs


_OPTIONS = ("output_hidden_states", "output_attentions", "output_router_logits")


def everything(case: Case) -> dict[str, bool]:
    """The options with which the model returns all that it can."""
    taken = inspect.signature(case.ours.abstract(dict(case.values)).base_forward).parameters
    return {name: True for name in taken if name in _OPTIONS}


def to_torch(inputs: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in inputs.items()}


def flat_outputs(outputs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every array of a model's output but the cache, with a name; those of an output in it too."""
    for name, value in outputs.items():
        if hasattr(value, "items"):
            yield from ((f"{name}.{inner}", array) for inner, array in flat_outputs(value))
        elif isinstance(value, tuple) and name != "past_key_values":
            yield from ((f"{name}[{number}]", layer) for number, layer in enumerate(value))
        elif name != "past_key_values":
            yield name, value


def is_final(name: str) -> bool:
    """Whether an output is none of a layer."""
    return not any(part in name for part in ("hidden_states", "attentions", "router_logits"))


def at_tokens(array: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The array without the rows of padding, whose values mean nothing; all of it without a mask."""
    if mask is None:
        return array
    if array.shape[: mask.ndim] == mask.shape:
        return array[mask.astype(bool)]
    mask = mask.reshape(-1, mask.shape[-1]).astype(bool)
    if array.ndim and array.shape[0] == mask.size:
        return array[mask.reshape(-1)]
    if array.shape[:2] == mask.shape:
        return array[mask]
    if array.ndim == 4 and (array.shape[0], array.shape[2]) == mask.shape:
        return array.swapaxes(1, 2)[mask]
    return array


def assert_same_outputs(ours: Any, theirs: Any, mask: np.ndarray | None, tolerance: float = TOLERANCE) -> None:
    """The same outputs under the same names, equal wherever there is no padding."""
    found, expected = dict(flat_outputs(ours)), dict(flat_outputs(theirs))
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert_close(
            at_tokens(np.asarray(found[name]), mask), at_tokens(tensor.detach().numpy(), mask), tolerance, name
        )


def assert_same_outputs_and_gradients(
    model: Any, reference: torch.nn.Module, inputs: dict[str, np.ndarray], wanted: dict[str, bool]
) -> None:
    """From one program. The gradients are those of the mean squares of the final outputs at tokens."""
    mask = inputs.get("attention_mask")

    def loss(outputs) -> Any:
        """Of torch tensors and of jax arrays."""
        return sum((at_tokens(value, mask) ** 2).mean() for name, value in flat_outputs(outputs) if is_final(name))

    def with_outputs(params):
        outputs = model(**inputs, **wanted, params=params)
        return loss(outputs), outputs

    theirs = reference(**to_torch(inputs), **wanted)
    gradients, ours = jax.jit(jax.grad(with_outputs, has_aux=True))(model.params)
    assert_same_outputs(ours, theirs, mask)
    loss(theirs).backward()
    found = model.state_dict(gradients)
    for name, expected in torch_gradients(reference).items():
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5 * scale, err_msg=name)


def torch_gradients(reference: torch.nn.Module) -> dict[str, np.ndarray]:
    """Of all parameters, under their names in files; the module forgets them."""
    tensors = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in reference.named_parameters(remove_duplicate=False)
    }
    found = torch_state(reference, tensors)
    reference.zero_grad()
    return found

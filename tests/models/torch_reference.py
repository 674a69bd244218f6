"""The other side of the parity tests: torch models with random parameters, and batches for both."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from models.comparisons import assert_close
from models.family import Case

from interop.torch_bridge import as_saved, to_numpy

MASK = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1]])
"""No padding, padding on the right, padding on the left."""


def torch_model(case: Case) -> torch.nn.Module:
    """The reference model: every parameter that is not fixed drawn at random, biases and scales too."""
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
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.2, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.2, 0.4, generator=generator)
            elif "num_batches" in name:
                buffer.fill_(7)
        for _, bias in biases:
            bias[:, model.config.pad_token_id] = -9.0  # models that were trained do not predict padding
    return model


def untied(case: Case, model: torch.nn.Module) -> torch.nn.Module:
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
    taken, config = inspect.signature(described.features).parameters, described.config
    if case.family.inputs is not None:
        further = case.family.head_inputs.get(case.head, lambda config, rng: {})
        given = case.family.inputs(config, rng) | further(config, rng)
        return {name: value for name, value in given.items() if name in taken}
    pad = config.pad_token_id
    ids = rng.choice([token for token in range(config.vocab_size) if token != pad], MASK.shape)
    ids[1][MASK[1] == 0] = pad
    inputs = {"input_ids": ids, "attention_mask": MASK}
    if "decoder_input_ids" in taken:
        words = [token for token in range(config.target_vocab_size) if token != pad]
        ids[ids == config.eos_token_id] = next(word for word in words if word != config.eos_token_id)
        ids[:, 4] = config.eos_token_id
        inputs |= {"decoder_input_ids": rng.choice(words, MASK.shape), "decoder_attention_mask": MASK}
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
        memory = rng.normal(size=(len(MASK), 5, config.hidden_size)).astype(np.float32)
        memory_mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])
        inputs |= {"encoder_hidden_states": memory, "encoder_attention_mask": memory_mask}
    return inputs


_OPTIONS = ("output_hidden_states", "output_attentions", "output_router_logits")


def everything(case: Case) -> dict[str, bool]:
    """The options with which the model returns all that it can."""
    taken = inspect.signature(case.ours.abstract(dict(case.values)).features).parameters
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


def assert_same_outputs(ours: Any, theirs: Any, mask: np.ndarray | None, tolerance: float = 1e-5) -> None:
    """The same outputs under the same names, equal wherever there is no padding."""
    found, expected = dict(flat_outputs(ours)), dict(flat_outputs(theirs))
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert_close(
            at_tokens(np.asarray(found[name]), mask), at_tokens(tensor.detach().numpy(), mask), tolerance, name
        )

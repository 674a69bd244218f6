"""The files of every architecture: torch's in, the same out, and what torch makes of them."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.comparisons import bits, same_params
from models.family import Case
from models.tiny_configs import CASES, FIRSTS, HEADS, LAYERS, for_cases
from models.torch_reference import tensors_in, torch_model, torch_state

from flaxmodels.checkpoint.mapping import torch_headers
from flaxmodels.errors import CheckpointMismatch
from flaxmodels.files.safetensors import write_safetensors
from flaxmodels.nn.leaves import split_shared
from interop.source import Header
from interop.torch_bridge import to_numpy

UNSHARDED, SHARDED = "5GB", 3000


def found_under_other_names(model, tensors) -> dict[str, str]:
    """What transformers misses in a file and ours finds: from the names of parameters to those in the file."""
    prefix = f"{model.base_model_prefix}."
    plain = {name.removeprefix(prefix): name for name in tensors}
    names = {name: name.removeprefix(prefix) for name in torch_headers(model)}
    return {
        name: plain[other]
        for name, bare in names.items()
        for part, replacement in model.key_aliases.items()
        if bare not in plain and (other := re.sub(part, replacement, bare)) in plain
    }


def save_tensors(folder, like, tensors):
    """The configuration of the checkpoint `like` with other tensors."""
    folder.mkdir()
    (folder / "config.json").write_bytes((like / "config.json").read_bytes())
    headers = {name: Header(array.shape, array.dtype) for name, array in tensors.items()}
    write_safetensors(folder / "model.safetensors", headers, tensors.__getitem__, {"format": "pt"})
    return folder


@pytest.fixture
def size(case):
    """Each family is saved in both ways."""
    return SHARDED if case in LAYERS else UNSHARDED


@for_cases(CASES)
def test_torch_layout(case, model, folder, reference, tmp_path, size):
    model.save_pretrained(tmp_path, max_shard_size=size)
    assert (tmp_path / "model.safetensors").exists() == (size == UNSHARDED)
    assert same_params(tensors_in(tmp_path), tensors_in(folder))
    assert same_params(case.ours.from_pretrained(tmp_path).params, model.params)
    again, info = case.theirs.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    read, written = ({name: to_numpy(value) for name, value in m.state_dict().items()} for m in (again, reference))
    assert same_params(read, written)


@for_cases(FIRSTS)
def test_shards_written_by_torch(case, model, reference, tmp_path):
    reference.save_pretrained(tmp_path, max_shard_size=SHARDED)
    assert not (tmp_path / "model.safetensors").exists()
    loaded, info = case.ours.from_pretrained(tmp_path, output_loading_info=True)
    assert (info.missing_keys, info.unexpected_keys, info.mismatched_keys) == ([], [], [])
    assert same_params(loaded.params, model.params)


@for_cases(CASES)
def test_flax_layout(case, model, tmp_path, size):
    model.save_pretrained(tmp_path, safe_serialization=False, max_shard_size=size)
    assert (tmp_path / "flax_model.msgpack").exists() == (size == UNSHARDED)
    assert same_params(case.ours.from_pretrained(tmp_path).params, model.params)


@for_cases(CASES)
def test_state_dict(case, model, reference):
    assert same_params(model.state_dict(), torch_state(reference))
    other = case.ours.abstract(dict(case.values))
    other.load_state_dict(torch_state(reference))
    assert same_params(other.params, model.params)


@for_cases(CASES)
def test_older_and_useless_names(case, model, folder, tmp_path):
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    tensors = {prefix + name: np.zeros(3, np.float32) for name in case.family.useless}
    for name, array in tensors_in(folder).items():
        for new, old in case.family.older_names.items():
            name = name.replace(new, old)
        tensors[name] = array
    loaded, info = case.ours.from_pretrained(save_tensors(tmp_path / "old", folder, tensors), output_loading_info=True)
    assert (info.missing_keys, info.unexpected_keys) == ([], [])
    assert same_params(loaded.params, model.params)


@for_cases(CASES)
def test_tied_weights_under_the_name_of_the_target_only(case, model, folder, reference, tmp_path):
    tied = {source: target for target, source in reference.all_tied_weights_keys.items()}
    if not tied:
        pytest.skip("nothing is tied")
    tensors = {tied.get(name, name): array for name, array in tensors_in(folder).items()}
    assert set(tied.values()) <= set(tensors)
    loaded, info = case.ours.from_pretrained(save_tensors(tmp_path / "new", folder, tensors), output_loading_info=True)
    assert (info.missing_keys, info.unexpected_keys) == ([], [])
    assert same_params(loaded.params, model.params)


@pytest.fixture(scope="session")
def base_of(tmp_path_factory):
    """A function that makes the first torch model of the family of a case, and its checkpoint, if it has not just."""

    @lru_cache(1)
    def make(base: Case) -> tuple[Any, Path]:
        reference, folder = torch_model(base), tmp_path_factory.mktemp("base")
        reference.save_pretrained(folder)
        return reference, folder

    return lambda case: make(next(first for first in FIRSTS if first.family is case.family))


@for_cases(HEADS)
def test_a_base_into_a_head(case, reference, base_of):
    base, folder = base_of(case)
    check_loading_of_another_class(folder, base, case, reference)


@for_cases(HEADS)
def test_a_head_into_a_base(case, reference, folder, base_of):
    first = next(first for first in FIRSTS if first.family is case.family)
    if case.ours.base_model_prefix == first.ours.base_model_prefix:
        check_loading_of_another_class(folder, reference, first, base_of(case)[0])
        return
    with pytest.raises(CheckpointMismatch, match=r"^none of the \d+ tensors in model.safetensors belongs to"):
        first.ours.from_pretrained(folder)  # transformers initialises all of them, and warns


def check_loading_of_another_class(folder: Path, written: Any, read: Case, fresh: Any) -> None:
    """The model `written` in `folder`, read as another class: what is missing and left over is what transformers says.

    `fresh` is the torch model of `read`, which names its tensors like files, as one loaded from other names may not.
    """
    lacks = lacks_backbone(type(written).__name__, read.head)
    if lacks:
        with pytest.raises(CheckpointMismatch, match=r"^\d+ missing in model.safetensors, without which this is not "):
            read.ours.from_pretrained(folder)
    loaded, info = read.ours.from_pretrained(folder, output_loading_info=True, ignore_missing=lacks)
    _, expected = read.theirs.from_pretrained(folder, output_loading_info=True)
    leaves, aliases = split_shared(loaded)
    known = found_under_other_names(loaded, tensors_in(folder))
    optional = {name for leaf in leaves if leaf.torch.optional for name in leaf.torch_names}
    state = fresh.state_dict()
    absent = torch_state(fresh, {name: state[name] for name in expected["missing_keys"]}).keys()
    buffers = torch_state(fresh, dict(fresh.named_buffers())).keys()  # of which transformers misses some
    assert set(info.missing_keys) - buffers == absent - buffers - set(aliases) - known.keys() - optional
    ignored = re.compile("|".join(read.ours.keys_to_ignore_on_load) or "$^")
    unexpected = expected["unexpected_keys"] - set(known.values())
    assert set(info.unexpected_keys) == {name for name in unexpected if not ignored.search(name)}
    theirs, ours = bits(torch_state(written.base_model)), bits(loaded.base_model.state_dict())
    shared = ours.keys() & theirs.keys()
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}
    tied = split_shared(loaded.base_model)[1]
    given = {tied.get(name, name) for name in shared}
    prefix = "" if loaded.base_model is loaded else f"{loaded.base_model_prefix}."
    initialised = {prefix + name for name in ours if tied.get(name, name) not in given}
    assert initialised <= set(info.missing_keys) | optional


def lacks_backbone(written: str, read: str) -> bool:
    """Whether one class has but a part of the base model of the other: an encoder, a tower, no last norm."""
    parts = ("BartForCausalLM", "MBartForCausalLM", "PegasusForCausalLM", "MarianForCausalLM", "WhisperForCausalLM")
    parts += ("T5EncoderModel", "MT5EncoderModel", "UMT5EncoderModel", "ConvNextBackbone")
    parts += ("T5ForTokenClassification", "MT5ForTokenClassification", "UMT5ForTokenClassification")
    parts += ("CLIPForImageClassification", "SiglipForImageClassification", "WhisperForAudioClassification")
    return written in parts and written != read

"""The files of every architecture: torch's in, the same out, and what torch makes of them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from models.comparisons import bits, same_params
from models.tiny_configs import CASES, FIRSTS, HEADS, LAYERS
from models.torch_reference import tensors_in, torch_model, torch_state

from flaxmodels.checkpoint.mapping import torch_headers
from flaxmodels.errors import CheckpointMismatch
from flaxmodels.files.safetensors import write_safetensors
from flaxmodels.nn.module import split_shared
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
        for part, replacement in model.other_names.items()
        if bare not in plain and (other := re.sub(part, replacement, bare)) in plain
    }


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    return request.param


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


def test_torch_layout(case, model, folder, reference, tmp_path, size):
    model.save_pretrained(tmp_path, max_shard_size=size)
    assert (tmp_path / "model.safetensors").exists() == (size == UNSHARDED)
    assert same_params(tensors_in(tmp_path), tensors_in(folder))
    assert same_params(case.ours.from_pretrained(tmp_path).params, model.params)
    again, info = case.theirs.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    read, written = ({name: to_numpy(value) for name, value in m.state_dict().items()} for m in (again, reference))
    assert same_params(read, written)


@pytest.mark.parametrize("case", FIRSTS, ids=str, indirect=True)
def test_shards_written_by_torch(case, model, reference, tmp_path):
    reference.save_pretrained(tmp_path, max_shard_size=SHARDED)
    assert not (tmp_path / "model.safetensors").exists()
    loaded, info = case.ours.from_pretrained(tmp_path, output_loading_info=True)
    assert (info.missing_keys, info.unexpected_keys, info.mismatched_keys) == ([], [], [])
    assert same_params(loaded.params, model.params)


def test_flax_layout(case, model, tmp_path, size):
    model.save_pretrained(tmp_path, safe_serialization=False, max_shard_size=size)
    assert (tmp_path / "flax_model.msgpack").exists() == (size == UNSHARDED)
    assert same_params(case.ours.from_pretrained(tmp_path).params, model.params)


def test_state_dict(case, model, reference):
    assert same_params(model.state_dict(), torch_state(reference))
    other = case.ours.abstract(dict(case.values))
    other.load_state_dict(torch_state(reference))
    assert same_params(other.params, model.params)


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


def test_tied_weights_under_the_name_of_the_target_only(case, model, folder, reference, tmp_path):
    tied = {source: target for target, source in reference.all_tied_weights_keys.items()}
    if not tied:
        pytest.skip("nothing is tied")
    tensors = {tied.get(name, name): array for name, array in tensors_in(folder).items()}
    assert set(tied.values()) <= set(tensors)
    loaded, info = case.ours.from_pretrained(save_tensors(tmp_path / "new", folder, tensors), output_loading_info=True)
    assert (info.missing_keys, info.unexpected_keys) == ([], [])
    assert same_params(loaded.params, model.params)


def lacks_backbone(written, read) -> bool:
    """Whether one class has but a part of the base model of the other: an encoder, a tower, no last norm."""
    parts = ("BartForCausalLM", "MBartForCausalLM", "PegasusForCausalLM", "MarianForCausalLM", "WhisperForCausalLM")
    parts += ("T5EncoderModel", "MT5EncoderModel", "UMT5EncoderModel", "ConvNextBackbone")
    parts += ("T5ForTokenClassification", "MT5ForTokenClassification", "UMT5ForTokenClassification")
    parts += ("CLIPForImageClassification", "SiglipForImageClassification", "WhisperForAudioClassification")
    return written.head in parts and written is not read


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("way", ["base into head", "head into base"])
def test_with_and_without_a_head(head, way, tmp_path):
    base = next(case for case in HEADS if case.family is head.family)
    written, read = (base, head) if way == "base into head" else (head, base)
    reference = torch_model(written)
    reference.save_pretrained(tmp_path)
    if written is head and head.ours.base_model_prefix != base.ours.base_model_prefix:
        with pytest.raises(CheckpointMismatch, match=r"^none of the \d+ tensors in model.safetensors belongs to"):
            read.ours.from_pretrained(tmp_path)  # transformers draws all anew, and warns
        return
    if lacks_backbone(written, read):
        with pytest.raises(CheckpointMismatch, match=r"^\d+ missing in model.safetensors, without which this is not "):
            read.ours.from_pretrained(tmp_path)
    loaded, info = read.ours.from_pretrained(
        tmp_path, output_loading_info=True, ignore_missing=lacks_backbone(written, read)
    )
    _, expected = read.theirs.from_pretrained(tmp_path, output_loading_info=True)
    aliases = set(split_shared(loaded)[1])
    known = found_under_other_names(loaded, tensors_in(tmp_path))
    leaves = split_shared(loaded)[0]
    optional = {name for leaf in leaves if leaf.torch.optional for name in leaf.torch_names}
    fresh = torch_model(read)  # which names its tensors like files, as one loaded from other names may not
    absent = torch_state(fresh, {name: fresh.state_dict()[name] for name in expected["missing_keys"]}).keys()
    buffers = torch_state(fresh, dict(fresh.named_buffers())).keys()  # of which transformers misses some
    assert set(info.missing_keys) - buffers == absent - buffers - aliases - known.keys() - optional
    ignored = re.compile("|".join(read.ours.ignored_names) or "$^")
    unexpected = expected["unexpected_keys"] - set(known.values())
    assert set(info.unexpected_keys) == {name for name in unexpected if not ignored.search(name)}
    theirs, ours = bits(torch_state(reference.base_model)), bits(loaded.base_model.state_dict())
    shared = ours.keys() & theirs.keys()
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}
    tied = {alias: leaf.torch_names[0] for alias, leaf in split_shared(loaded.base_model)[1].items()}
    given = {tied.get(name, name) for name in shared}
    prefix = "" if loaded.base_model is loaded else f"{loaded.base_model_prefix}."
    absent = {prefix + name for name in ours if tied.get(name, name) not in given}
    assert absent <= set(info.missing_keys) | optional

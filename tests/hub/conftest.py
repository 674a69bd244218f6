"""A Hub on the loopback interface, and the client of the Hub set up to use it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
from hub import server
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars
from models.tiny_configs import FAMILIES

from flaxmodels.models.llama import LlamaForCausalLM

LLAMA = {**FAMILIES["llama"].config, "num_hidden_layers": 1}
TOKENIZER = """{
    "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": null, "decoder": null, "truncation": null, "padding": null,
    "model": {"type": "WordLevel", "vocab": {"hello": 0, "world": 1}, "unk_token": "hello"}
}"""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub, with the token of the user "org" and an empty cache."""
    disable_progress_bars()
    with server.running() as hub:
        template = "/{repo_id}/resolve/{revision}/{filename}"
        values = {
            "ENDPOINT": hub.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + template,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "AGENT_HARNESSES_PATH": str(tmp_path / "harnesses.json"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", "hf_org")
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between attempts of the client
        yield hub
        huggingface_hub.close_session()


@pytest.fixture(scope="session")
def llama() -> LlamaForCausalLM:
    """A tiny model. Not to be changed."""
    return LlamaForCausalLM(LLAMA, seed=3)


@pytest.fixture(scope="session")
def saved(llama, tmp_path_factory) -> Path:
    """Its folder: three shards and an index."""
    folder = tmp_path_factory.mktemp("saved")
    llama.save_pretrained(folder, max_shard_size=18_000)
    assert len(list(folder.glob("model-*.safetensors"))) == 3
    return folder


def environment(hub: server.Hub, home: Path, **others: str) -> dict[str, str]:
    """The variables of another process that uses the same Hub."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **others,
    }


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of a folder by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

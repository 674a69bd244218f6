"""Loading from the Hub, over HTTP from a small one on the loopback interface."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from errno import ECONNREFUSED
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hub.conftest import TOKENIZER, environment, files_of
from hub.server import Commit
from huggingface_hub import constants
from models.comparisons import same_params

from flaxmodels import (
    AutoConfig,
    AutoModelForCausalLM,
    CheckpointError,
    CheckpointNotFound,
    FlaxModelsError,
    GenerationConfig,
    HubError,
    LlamaForCausalLM,
    Tokenizer,
)

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub itself
FIRST, SECOND, THIRD = (f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))


@pytest.fixture
def repo(hub, saved):
    """The repository "org/name", which holds the model in shards."""
    return hub.create("org/name", files_of(saved))


def contents(hub):
    """What was given out of large files and others, by path: bytes."""
    return {path: count for path, count in hub.sent.items() if count and "agent" not in path}


# ---- what is requested


def test_a_cached_model_takes_one_request(hub, repo, llama):
    first = LlamaForCausalLM.from_pretrained("org/name")
    assert hub.requests("GET").count("GET /org/name/resolve/main/config.json 200") == 1
    assert sum("/objects/" in line for line in hub.requests("GET")) == 3
    hub.log.clear()
    again = LlamaForCausalLM.from_pretrained("org/name")
    assert hub.requests() == ["HEAD /org/name/resolve/main/config.json 200"]
    assert same_params(first.params, llama.params)
    assert same_params(again.params, llama.params)
    hub.log.clear()
    LlamaForCausalLM.from_pretrained("org/name", revision=repo.refs["main"])
    assert hub.requests() == []


def test_a_new_commit_takes_only_what_has_changed(hub, repo, llama):
    LlamaForCausalLM.from_pretrained("org/name")
    files = repo.files() | {"generation_config.json": b'{"max_length": 7}'}
    repo.commit(Commit(files, parent=repo.refs["main"]))
    hub.sent.clear()
    model = LlamaForCausalLM.from_pretrained("org/name")
    assert model.generation_config.max_length == 7
    assert contents(hub) == {f"/org/name/resolve/{repo.refs['main']}/generation_config.json": 17}


def test_all_files_are_of_one_commit(hub, repo, llama):
    """A push comes in when the configuration has been read: the weights are those that belong to it."""

    def push_then(method, path):
        if path.endswith("model.safetensors") and len(repo.commits) == 1:
            repo.commit(Commit({"config.json": b"{}"}, "other", parent=repo.refs["main"]))
        return False

    hub.drop = push_then
    assert same_params(LlamaForCausalLM.from_pretrained("org/name").params, llama.params)
    assert len(repo.commits) == 2


def test_force_download_takes_each_file_once_more(hub, repo):
    LlamaForCausalLM.from_pretrained("org/name")
    hub.log.clear()
    LlamaForCausalLM.from_pretrained("org/name", force_download=True)
    downloads = hub.requests("GET")
    assert len(downloads) == len(set(downloads)) == 5  # the configuration, the index, three shards


def test_the_token_does_not_go_to_where_large_files_are(hub, repo, llama):
    repo.private = True
    assert same_params(LlamaForCausalLM.from_pretrained("org/name", token="hf_org").params, llama.params)
    assert hub.tokens_at_storage == []


def test_torch_loads_what_was_pushed_and_the_other_way_round(hub, llama):
    """transformers itself, over the same API."""
    llama.push_to_hub("org/name", max_shard_size=18_000)
    theirs: Any = transformers.LlamaForCausalLM.from_pretrained("org/name")
    tokens = np.array([[1, 2, 4]])
    np.testing.assert_allclose(theirs(torch.tensor(tokens)).logits.detach(), llama(tokens).logits, atol=1e-5)
    theirs.push_to_hub("org/theirs")
    assert same_params(LlamaForCausalLM.from_pretrained("org/theirs").params, llama.params)


# ---- downloads that break off


def test_a_download_that_breaks_off_goes_on_where_it_was(hub, repo, llama, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1_000)  # bytes; of the last chunk nothing is kept
    paths = {f"/objects/{sha}": len(data) for sha, data in objects_of(repo).items()}
    hub.cut = dict.fromkeys(paths, 5_000)
    assert same_params(LlamaForCausalLM.from_pretrained("org/name").params, llama.params)
    ranges = [(path, asked) for method, path, _, asked in hub.log if method == "GET" and path in paths]
    assert sorted(ranges) == sorted((path, asked) for path in paths for asked in ("", "bytes=5000-"))
    assert {path: hub.sent[path] for path in paths} == paths


def test_a_load_that_was_interrupted_takes_the_rest(hub, repo, llama):
    hub.drop = lambda method, path: path.endswith(SECOND)
    with pytest.raises(CheckpointError) as error:
        LlamaForCausalLM.from_pretrained("org/name")
    assert str(error.value) == (
        "'org/name' could not be loaded from the Hub: Server disconnected without sending a response"
    )
    first = objects_of(repo, FIRST)
    assert [path for path in contents(hub) if path.startswith("/objects/")] == [f"/objects/{sha}" for sha in first]
    hub.drop = lambda method, path: False
    hub.sent.clear()
    assert same_params(LlamaForCausalLM.from_pretrained("org/name").params, llama.params)
    rest = objects_of(repo, SECOND, THIRD)
    assert contents(hub) == {f"/objects/{sha}": len(data) for sha, data in rest.items()}


def objects_of(repo, *names):
    """The shards of those names, or all, by SHA-256."""
    from hashlib import sha256

    files = repo.files()
    return {sha256(files[name]).hexdigest(): files[name] for name in names or (FIRST, SECOND, THIRD)}


# ---- without the Hub


@pytest.mark.parametrize("how", ["environment", "argument", "no server"])
def test_offline(hub, repo, llama, how, monkeypatch):
    LlamaForCausalLM.from_pretrained("org/name")
    hub.log.clear()
    options = {}
    if how == "environment":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "argument":
        options = {"local_files_only": True}
    else:
        go_nowhere(monkeypatch)
    assert same_params(LlamaForCausalLM.from_pretrained("org/name", **options).params, llama.params)
    assert same_params(AutoModelForCausalLM.from_pretrained("org/name", **options).params, llama.params)
    assert hub.requests() == []


def go_nowhere(monkeypatch):
    """Let the client look for the Hub where nobody answers."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_offline_and_not_in_the_cache(hub, repo, monkeypatch):
    expected = (
        "'org/name' is neither a local folder or file nor in the local cache, and was not downloaded: {}. Load it once "
        "where the Hub can be reached."
    )
    assert message_of(CheckpointNotFound, local_files_only=True) == expected.format("local_files_only=True")
    go_nowhere(monkeypatch)
    assert message_of(CheckpointNotFound) == expected.format(f"[Errno {ECONNREFUSED}] Connection refused")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    reason = (
        "Cannot reach http://127.0.0.1:9/org/name/resolve/{}/config.json: offline mode is enabled. To disable it, "
        "please unset the `HF_HUB_OFFLINE` environment variable"
    )
    assert message_of(CheckpointNotFound) == expected.format(reason.format("main"))
    text = expected.replace("cache,", "cache at revision 'v2',").format(reason.format("v2"))
    assert message_of(CheckpointNotFound, revision="v2") == text


def test_offline_and_partly_in_the_cache(hub, repo, monkeypatch):
    AutoConfig.from_pretrained("org/name")
    assert message_of(CheckpointNotFound, local_files_only=True) == (
        "org/name has no weights in the local cache, and the Hub cannot be asked (local_files_only=True): "
        "expected model.safetensors, flax_model.safetensors, flax_model.msgpack, flax_model.orbax, pytorch_model.bin, "
        "tf_model.h5, or one of these in shards with an index"
    )


def message_of(kind, name="org/name", **options):
    """The message of the error of a load, which is also an `OSError`."""
    with pytest.raises(kind) as error:
        LlamaForCausalLM.from_pretrained(name, **options)
    assert isinstance(error.value, OSError)
    assert isinstance(error.value, FlaxModelsError)
    return str(error.value)


# ---- which repository


def test_revisions_and_subfolders(hub, repo, llama, saved):
    below = {f"part/{path}": data for path, data in files_of(saved).items()}
    repo.commit(Commit(below, parent=repo.refs["main"]), "v2")
    for options in ({"revision": "v2"}, {"revision": repo.refs["v2"]}):
        for cls in (LlamaForCausalLM, AutoModelForCausalLM):
            loaded = cls.from_pretrained("org/name", subfolder="part/", **options)
            assert same_params(loaded.params, llama.params)
    assert message_of(CheckpointNotFound, revision="v2") == "org/name has no config.json: add it, or pass config="
    assert message_of(CheckpointNotFound, revision="v2", subfolder="other") == (
        "org/name has no config.json in its folder other: add it, or pass config="
    )


def test_a_private_repository_with_a_token(hub, repo, llama, monkeypatch):
    repo.private = True
    monkeypatch.delenv("HF_TOKEN")
    for options in ({"token": "hf_org"}, {"use_auth_token": "hf_org"}):
        repo.commit(Commit(repo.files(), "again", parent=repo.refs["main"]))
        assert same_params(LlamaForCausalLM.from_pretrained("org/name", **options).params, llama.params)
    monkeypatch.setenv("HF_TOKEN", "hf_org")
    assert AutoConfig.from_pretrained("org/name", token=True, force_download=True).model_type == "llama"


HIDDEN = (
    "'org/name' is neither a local folder or file nor a repository that the Hub shows: check the name; if it is "
    "private, log in with `hf auth login`, or pass token="
)
REFUSED = {
    "absent": ({}, {"name": "org/absent"}, CheckpointNotFound, HIDDEN.replace("org/name", "org/absent")),
    "private": ({"private": True}, {"token": False}, CheckpointNotFound, HIDDEN),
    "of another": ({"private": True}, {"token": "hf_other"}, CheckpointNotFound, HIDDEN),
    "no token": (
        {"private": True},
        {"token": "hf_wrong"},
        HubError,
        "'org/name' could not be loaded from the Hub: Client error '401 Unauthorized' for url "
        "'{}/org/name/resolve/main/config.json' For more information check: "
        "https://developer.mozilla.org/en-US/docs/Web/HTTP/Status/401 Invalid credentials in Authorization header",
    ),
    "gated": (
        {"gated": True},
        {"token": "hf_other"},
        HubError,
        "'org/name' is gated: ask for access on its page of the Hub, then log in with `hf auth login`, or pass token=",
    ),
    "revision": (
        {},
        {"revision": "v9"},
        CheckpointNotFound,
        "'org/name' has no revision 'v9': name a branch, a tag, the hash of a commit, or refs/pr/ and the number of a "
        "pull request",
    ),
    "file": (
        {},
        {"gguf_file": "model.gguf"},
        CheckpointNotFound,
        "org/name has no model.gguf: check the name",
    ),
    "variant": (
        {},
        {"variant": "fp16"},
        CheckpointNotFound,
        "org/name has no weights: expected model.safetensors, flax_model.safetensors, flax_model.msgpack, "
        "flax_model.orbax, pytorch_model.bin, tf_model.h5, or one of these in shards with an index, of variant 'fp16'",
    ),
    "no id": (
        {},
        {"name": "not an id"},
        CheckpointNotFound,
        "'not an id' is neither a local folder or file nor the id of a repository of the Hub: Repo id must use "
        "alphanumeric chars, '-', '_' or '.'. The name cannot start or end with '-' or '.' and the maximum length is "
        "96: 'not an id'",
    ),
    "contradiction": (
        {},
        {"local_files_only": True, "force_download": True},
        HubError,
        "'org/name' could not be loaded from the Hub: Cannot pass 'force_download=True' and 'local_files_only=True' at "
        "the same time",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_loaded(hub, repo, case):
    state, options, kind, message = REFUSED[case]
    vars(repo).update(state)
    assert message_of(kind, **options) == message.replace("{}", hub.endpoint)


def test_a_shard_that_is_not_there(hub, repo):
    repo.commit(Commit({path: data for path, data in repo.files().items() if path != SECOND}, "without"))
    assert message_of(CheckpointNotFound) == (
        f"model.safetensors.index.json: shards that it names are absent: {SECOND}. Download them too."
    )


def test_the_server_fails(hub, repo):
    hub.drop = lambda method, path: path.endswith("config.json")
    assert message_of(HubError) == (
        "'org/name' could not be loaded from the Hub: Server disconnected without sending a response"
    )


def test_arguments_that_ask_for_nothing(hub, repo, llama):
    options = {"proxies": None, "resume_download": True, "mirror": None, "use_auth_token": None, "subfolder": ""}
    for load in (LlamaForCausalLM, AutoModelForCausalLM, AutoConfig, type(llama.config)):
        load.from_pretrained("org/name", **options)
    with pytest.raises(FlaxModelsError, match=re.escape("proxies={'http': 'x'}: set the environment variables")):
        LlamaForCausalLM.from_pretrained("org/name", proxies={"http": "x"})


# ---- what else is loaded


def test_configurations(hub, repo, llama):
    for cls in (AutoConfig, type(llama.config)):
        assert cls.from_pretrained("org/name", revision="main").to_dict() == {
            **llama.config.to_dict(),
            "architectures": ["LlamaForCausalLM"],
            "torch_dtype": "float32",
        }
    with pytest.raises(CheckpointNotFound) as error:
        GenerationConfig.from_pretrained("org/name")
    assert str(error.value) == (
        "org/name has no generation_config.json: use GenerationConfig.from_model_config(config)"
    )


def test_tokenizers(hub, monkeypatch):
    settings = {"tokenizer_config.json": b'{"eos_token": "world"}', "chat_template.jinja": b"{{ messages }}"}
    repo = hub.create("org/name", {"tokenizer.json": TOKENIZER.encode(), **settings}, private=True)
    tokenizer = Tokenizer.from_pretrained("org/name", token="hf_org")
    assert tokenizer("hello world")["input_ids"] == [0, 1]
    assert (tokenizer.eos_token_id, tokenizer.chat_template) == (1, "{{ messages }}")
    hub.log.clear()
    Tokenizer.from_pretrained("org/name", local_files_only=True)
    assert hub.requests() == []
    repo.commit(Commit({"part/tokenizer.json": TOKENIZER.encode()}, "empty"), "v2")
    assert Tokenizer.from_pretrained("org/name", revision="v2", subfolder="part").eos_token is None
    with pytest.raises(CheckpointNotFound, match=r"^org/name has no tokenizer: no tokenizer\.json, vocab\.txt"):
        Tokenizer.from_pretrained("org/name", revision="v2")
    with pytest.raises(FlaxModelsError) as error:
        Tokenizer.from_pretrained("org/name", use_slow=True)
    assert str(error.value).startswith("use_slow: not an argument of from_pretrained. Settings are bos_token, ")


def test_what_is_not_there_is_also_an_os_error(tmp_path):
    for call in (
        lambda: LlamaForCausalLM.from_pretrained(tmp_path / "absent"),
        lambda: LlamaForCausalLM.from_pretrained(tmp_path),
        lambda: LlamaForCausalLM.from_pretrained(tmp_path, config={"model_type": "llama"}),
        lambda: AutoConfig.from_pretrained(tmp_path),
        lambda: Tokenizer.from_pretrained(tmp_path),
        lambda: Tokenizer.from_pretrained(tmp_path / "absent"),
        lambda: GenerationConfig.from_pretrained(tmp_path),
        lambda: type(AutoConfig.for_model("llama")).from_json_file(tmp_path / "config.json"),
    ):
        with pytest.raises(CheckpointNotFound) as error:
            call()
        assert isinstance(error.value, OSError)


def test_the_environment_of_another_process(hub, repo, llama, tmp_path):
    """The variables of the client, as a user sets them: the address, the token, the cache, and then offline."""
    repo.private = True
    script = """
        from flaxmodels import LlamaForCausalLM
        LlamaForCausalLM.from_pretrained("org/name").save_pretrained("saved", max_shard_size=18_000)
    """
    for offline, token in (("0", "hf_org"), ("1", "")):
        hub.log.clear()
        settings = environment(hub, tmp_path / "home", HF_HUB_OFFLINE=offline, HF_TOKEN=token)
        command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
        subprocess.run(command, check=True, env=settings, cwd=tmp_path)
        assert files_of(tmp_path / "saved")[SECOND] == repo.files()[SECOND]
        assert bool(hub.requests()) == (offline == "0")
